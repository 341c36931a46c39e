"""configs/own.py: the config of a folder of videos, the checkpoint that it starts from, the classes that it keeps."""

import dataclasses

import pytest

from configs import own
from tarvis_jax.api import Model, load
from tarvis_jax.commands.train import finetuning
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tests import tiny
from tests.input_pipeline import own_files


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.make_model().save_pretrained(folder)
    return folder


def resolve(root, arg: str = "") -> Config:
    return from_mapping(Config, own.get_config(f"root={root}{arg}"))


def test_the_network_is_the_checkpoints_and_the_classes_are_yours(checkpoint, tmp_path):
    own_files.mots(tmp_path / "mine")
    config = finetuning(resolve(tmp_path / "mine", ",name=TOYS,steps=100,batch=4"), checkpoint)
    expected = dataclasses.replace(tiny.MODEL, semantic_classes=(("TOYS", 2),), compute_dtype="bfloat16")
    assert config.model == expected and config.train.init_from == str(checkpoint)
    (dataset,) = config.data.datasets
    assert (dataset.name, dataset.class_names, dataset.reader) == ("TOYS", ("ball", "box"), "mots")
    assert (config.train.num_steps, config.data.batch_size, config.optimizer.decay_steps) == (100, 4, (75,))
    assert config.train.final_eval and config.inference["TOYS"].min_dim == own_files.HEIGHT

    # The names go with the model, as a run's workdir and save_pretrained keep it.
    model = Model(config.model, tiny.variables(config.model), config.dataset_infos())
    model.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.datasets["TOYS"].class_names == ("ball", "box")
    assert loaded.session(dataset="TOYS").class_names == ("ball", "box")


def test_videos_without_classes(checkpoint, tmp_path):
    own_files.id_masks(tmp_path / "mine")
    (tmp_path / "mine" / "classes.json").unlink()
    config = finetuning(resolve(tmp_path / "mine"), checkpoint)
    assert config.model.semantic_classes == () and config.dataset_infos()["MINE"].spec.exemplar == "mask"
    config = resolve(tmp_path / "mine", ",classes=a+b+c,task=instance,held_out=0.5")
    assert config.data.datasets[0].class_names == ("a", "b", "c") and len(config.data.datasets[0].held_out) == 2


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="expected root=<folder"):
        own.get_config("steps=3")
    with pytest.raises(ValueError, match="absent: expected a folder with videos"):
        resolve(tmp_path / "absent")
    own_files.id_masks(tmp_path / "mine")
    (tmp_path / "mine" / "classes.json").unlink()
    with pytest.raises(ValueError, match="value 3 is no class 1..2; if the values are object ids"):
        resolve(tmp_path / "mine", ",classes=a+b")
    with pytest.raises(ValueError, match="the classes are not known"):
        resolve(tmp_path / "mine", ",task=instance")
