"""Pretraining on images, a step of every task, and fine-tuning that starts from it."""

import dataclasses

import numpy as np
import pytest

from configs import finetune, pretrain
from input_pipeline import mixture, readers
from input_pipeline.config import dataset_config
from tarvis_jax.commands.train import finetuning
from tarvis_jax.config import from_mapping, to_plain
from tarvis_jax.datasets import DATASETS
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import Config
from tarvis_jax.train.loop import train
from tarvis_jax.train.metrics import read_metrics
from tarvis_jax.weights.checkpoints import Checkpoints
from tarvis_jax.weights.start import load_initial_weights
from tests import tiny
from tests.input_pipeline import panoptic_files


def small_config(recipe, arg: str, workspace: str) -> Config:
    """A recipe with the tests' model and clips of 64 x 64 pixels."""
    config = recipe.get_config(arg)
    sizes = {"min_dims": (64,), "buckets": ((64, 64),), "max_instances": 2, "max_exemplars": 2}
    names = [dataset["name"] for dataset in config.data.datasets]
    config.data.datasets = tuple(to_plain(dataset_config(name, **sizes)) for name in names)
    classes = config.model.semantic_classes
    config.model.update({name: getattr(tiny.TRAINED, name) for name in config.model})
    config.model.semantic_classes = classes
    config.loss.num_points = config.loss.num_points_semantic = 16
    config.data.workspace = workspace
    config.data.batch_size = config.data.clip_length = 2
    config.data.chunk_steps = config.data.num_parallel = config.data.prefetch = 1
    config.train.init_from = "random"
    config.train.num_steps = 3
    config.train.log_steps = 1
    config.train.max_samples_per_device = 0
    config.train.tensorboard = False
    config.optimizer.decay_steps = config.optimizer.decay_rates = ()
    return from_mapping(Config, config)


def all_tasks_first(config: Config) -> Config:
    """`config` with a seed that draws each task once in three steps."""
    videos = [readers.training_videos(dataset, config.data.workspace) for dataset in config.data.datasets]
    for seed in range(100):
        data = dataclasses.replace(config.data, seed=seed)
        plans = mixture.Mixture(data, videos)
        if len({plans.plan(step).pool.task for step in range(3)}) == 3:
            return dataclasses.replace(config, data=data)
    raise AssertionError("no seed draws three tasks")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return str(panoptic_files.workspace(tmp_path_factory.mktemp("images")))


@pytest.mark.long  # tests/rehearsal/test_migrating.py does the same by commands
def test_pretrain_and_go_on(workspace, tmp_path):
    config = all_tasks_first(small_config(pretrain, "datasets=CITYSCAPES", workspace))
    train(config, tmp_path / "pretraining")
    found = {name for row in read_metrics(tmp_path / "pretraining") for name in row if np.isfinite(row[name])}
    for task in ("instance", "panoptic", "exemplar"):
        assert any(name.startswith(f"train/CITYSCAPES/{task}/") for name in found), sorted(found)

    following = finetuning(small_config(finetune, "datasets=KITTI_STEP+OVIS", workspace), tmp_path / "pretraining")
    structure = ModelStructure(following.model)
    params, frozen = (
        {name: np.full(v.shape, 0.125, v.dtype) for name, v in part.items()}
        for part in (structure.params, structure.frozen)
    )
    loaded, _, report = load_initial_weights(following.train.init_from, following.model, params, frozen)
    checkpoints = Checkpoints(tmp_path / "pretraining")
    old, _ = checkpoints.restore_weights()
    checkpoints.close()
    rows = semantic_rows(following.model.semantic_classes)
    chosen = 1 + np.array(DATASETS["KITTI_STEP"].class_origin.classes)
    np.testing.assert_array_equal(loaded[SEMANTIC_TABLE][slice(*rows["KITTI_STEP"])], old[SEMANTIC_TABLE][chosen])
    assert (loaded[SEMANTIC_TABLE][slice(*rows["OVIS"])] == 0.125).all()
    assert {name for name in loaded if name != SEMANTIC_TABLE and (loaded[name] != old[name]).any()} == set()
    assert "KITTI_STEP from CITYSCAPES, OVIS from the seed" in report.notes[0]
