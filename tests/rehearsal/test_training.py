"""The shipped configs train from the tree: their own sizes, clip lengths, losses and optimizer, a tiny network.

A step of a config's size compiles for twenty seconds, so that only one dataset is trained on by default, one whose loss
has all terms but those of given objects; the tests that are marked `long` train every config on each of its datasets.
"""

import math

import jax
import numpy as np
import pytest

from input_pipeline.batches import train_batches
from tarvis_jax.config import from_mapping
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.run_config import Config
from tarvis_jax.train.step import make_stepper
from tarvis_jax.train.transfer import to_devices
from tests.rehearsal import recipes


def train_two_steps(recipe: str, datasets: list[str], workspace: str) -> set[str]:
    """Two steps of the recipe on each dataset and for each of its tasks; returns the tasks."""
    config = recipes.config_of(recipe, workspace)
    config.model.update(recipes.NETWORK)
    config.loss.update(recipes.LOSS)
    config.train.init_from = "random"
    config.optimizer.warmup_steps = 0
    stepper = make_stepper(from_mapping(Config, config), make_mesh())
    state, tasks = stepper.initial_state(), set()
    for name in datasets:
        for task, batches in two_batches(recipe, name, workspace).items():
            before = jax.device_get(state.params)  # a step takes the state's place
            for batch in batches:
                state, metrics = stepper((name, task), state, to_devices(batch, 1, stepper.mesh))
                assert math.isfinite(float(metrics["loss"])) and bool(metrics["is_finite"]), (name, task)
            after = jax.device_get(state.params)
            assert any(not np.array_equal(before[key], after[key]) for key in before), (name, task)
            tasks.add(task)
    return tasks


def two_batches(recipe: str, name: str, workspace: str) -> dict[str, list[dict[str, np.ndarray]]]:
    """For each task that the dataset is trained on, two batches of one size."""
    config = recipes.config_of(recipe, workspace)
    recipes.choose(config, name)
    stream = train_batches(from_mapping(Config, config).data)
    found: dict[str, list] = {}
    for _ in range(200):
        info, batch = next(stream)
        same = found.setdefault(info.task, [])
        if len(same) < 2 and (not same or same[0]["images"].shape == batch["images"].shape):
            same.append(batch)
        if info.step >= 15 and all(len(batches) == 2 for batches in found.values()):
            break
    stream.close()
    return found


def test_finetuning(workspace):
    assert train_two_steps("finetune", ["KITTI_STEP"], workspace) == {"panoptic"}


@pytest.mark.long
@pytest.mark.parametrize("recipe", recipes.NAMES)
def test_every_dataset_of_every_config(recipe, workspace):
    assert train_two_steps(recipe, recipes.dataset_names(recipe), workspace)
