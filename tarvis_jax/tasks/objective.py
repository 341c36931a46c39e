"""What all tasks give to training: a loss, and what it must know of the whole batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from tarvis_jax.losses.config import LossConfig

Batch = Mapping[str, jax.Array]
# (model, microbatch, key of the loss, key of the model, statistics of the whole batch) -> (loss [], terms {name: [L]})
TaskLoss = Callable[[Any, Batch, jax.Array, jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What one dataset's batches are trained on.

    Attributes:
      loss: the task's loss of a microbatch.
      statistics: what of the whole batch the loss of every microbatch must know; batch [A, B / A, ...] -> pytree.
    """

    loss: TaskLoss
    statistics: Callable[[Batch], Any]


@functools.cache  # equal objectives are one object and share programs
def class_objective(
    draw: Callable, loss: Callable, dataset: str, config: LossConfig, num_predictions: int
) -> Objective:
    """The objective of a task with classes (VIS, VPS), made of its `draw(key, num_predictions)` and its `loss`."""

    def loss_of_microbatch(model, batch, draw_key, model_key, num_targets):
        draws = draw(draw_key, num_predictions)
        return loss(model, batch, dataset, draws, config, num_targets, model_key)

    return Objective(loss_of_microbatch, mean_num_targets)


def mean_num_targets(batch: Batch) -> jax.Array:
    """Valid targets of the whole batch over its number of microbatches, float32 [], for a batch [A, B / A, ...]."""
    valid = batch["valid_instances"]
    return valid.sum() / valid.shape[0]
