"""Starting from another run: what is taken from it, what is not, and what is refused."""

import dataclasses

import numpy as np
import pytest

from tarvis_jax.commands.train import finetuning, newest_checkpoint, saved_session, with_weights
from tarvis_jax.config import save_json, to_plain
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import Config
from tarvis_jax.weights.checkpoints import Checkpoints

PRETRAINED = ModelConfig(
    backbone="ResNetTiny",
    hidden_size=64,
    neck_layers=1,
    semantic_classes=(("CITYSCAPES", 34),),
    compute_dtype="bfloat16",
)


def config_with(**model) -> Config:
    return Config(model=dataclasses.replace(ModelConfig(backbone="ResNetTiny"), **model))


@pytest.fixture
def pretraining(tmp_path):
    """A run of three steps with a checkpoint of the last two, all values as large as its step."""
    workdir = tmp_path / "pretraining"
    checkpoints = Checkpoints(workdir, create=True)
    structure = ModelStructure(PRETRAINED)
    for step in (2, 3):
        params, frozen = (
            {name: np.full(value.shape, step, value.dtype) for name, value in group.items()}
            for group in (structure.params, structure.frozen)
        )
        weights = {"params": params, "frozen": frozen, "ema": {}}
        checkpoints.save(step, weights, {"step": np.int32(step)}, to_plain(config_with(**to_plain_fields(PRETRAINED))))
    checkpoints.wait()
    checkpoints.close()
    return workdir


def to_plain_fields(model: ModelConfig) -> dict:
    return {field.name: getattr(model, field.name) for field in dataclasses.fields(model)}


def test_finetuning_takes_the_architecture_and_keeps_the_rest(pretraining):
    ours = config_with(compute_dtype="float32", num_instance_queries=100)
    found = finetuning(ours, pretraining)
    assert (found.model.hidden_size, found.model.neck_layers) == (64, 1)  # theirs, at their default here
    assert found.model.num_instance_queries == 100  # ours, set
    assert found.model.compute_dtype == "float32"
    assert found.model.semantic_classes == ModelConfig().semantic_classes
    assert found.train.init_from == str(pretraining)
    unchanged = dataclasses.replace(found, model=ours.model, train=ours.train)
    assert unchanged == ours


def test_finetuning_refuses_another_backbone(pretraining):
    with pytest.raises(ValueError, match="its backbone is ResNetTiny, that of the config is SwinTiny.*backbone=ResNet"):
        finetuning(config_with(backbone="SwinTiny"), pretraining)


def test_finetuning_adopts_the_whole_architecture(pretraining):
    ours = config_with(backbone="SwinTiny", num_instance_queries=100, semantic_classes=(("OVIS", 25),))
    ours = dataclasses.replace(ours, train=dataclasses.replace(ours.train, adopt_architecture=True))
    found = finetuning(ours, pretraining).model
    expected = dataclasses.replace(PRETRAINED, semantic_classes=(("OVIS", 25),), compute_dtype="float32")
    assert found == expected


def test_restored_weights_are_of_the_same_architecture(pretraining):
    same = config_with(**to_plain_fields(PRETRAINED))
    assert with_weights(same, pretraining).train.init_from == str(pretraining)
    with pytest.raises(ValueError, match="hidden_size: 64 there, 256 here.*--finetune_from"):
        with_weights(config_with(), pretraining)


def test_the_same_architecture_with_other_back_ends(pretraining):
    """What computes a model is no part of it: a machine, or a run, may choose another."""
    same = config_with(**to_plain_fields(PRETRAINED))
    for change in (
        {"attention_backend": "xla"},
        {"ms_deform_attn_backend": "xla_deterministic", "ms_deform_attn_deterministic": True},
        {"remat": "blocks", "attention_mib": 64, "compute_dtype": "float32", "drop_path": 0.1},
    ):
        config = dataclasses.replace(same, model=dataclasses.replace(same.model, **change))
        assert config.model != PRETRAINED
        restored = with_weights(config, pretraining)
        assert (restored.model, restored.train.init_from) == (config.model, str(pretraining))
        assert finetuning(config, pretraining).model == config.model


def starting_from(init_from: str) -> Config:
    return dataclasses.replace(config_with(), train=dataclasses.replace(config_with().train, init_from=init_from))


@pytest.mark.parametrize("of_config", ["", "random", "{workspace}/pretrained_backbones/R-50.pkl"])
def test_a_flag_replaces_where_shipped_configs_start(pretraining, of_config):
    assert finetuning(starting_from(of_config), pretraining).train.init_from == str(pretraining)


def test_weights_are_given_once(pretraining):
    for other in ("elsewhere.pth", "{workspace}/elsewhere.pth"):
        with pytest.raises(ValueError, match="given twice.*elsewhere.pth"):
            finetuning(starting_from(other), pretraining)


def test_a_session_goes_on_with_its_own_config(pretraining):
    saved = config_with(**to_plain_fields(PRETRAINED))
    save_json(pretraining / "config.json", config_with(hidden_size=32))  # of a command that saved no checkpoint
    assert saved_session(pretraining) == saved


def test_no_session_to_restore(tmp_path):
    save_json(tmp_path / "config.json", config_with())
    with pytest.raises(ValueError, match="checkpoints"):
        saved_session(tmp_path)


def test_newest_of_several_files(tmp_path):
    with pytest.raises(ValueError, match="absent: no such file or folder"):
        finetuning(config_with(), tmp_path / "absent")
    assert newest_checkpoint(tmp_path) == tmp_path
    for name in ("9000.pth", "10000.pth", "config.yaml"):
        (tmp_path / name).touch()
    assert newest_checkpoint(tmp_path).name == "10000.pth"
