"""What all tasks give to training: a loss, and what it must know of the whole batch."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from tarvis_jax.losses.config import LossConfig

Batch = Mapping[str, jax.Array]
# (model, microbatch, keys of the loss [B], keys of the model [B], statistics of the whole batch) -> (loss [], terms
# {name: [L]}). Each clip has keys of its own, and the loss is a mean over clips.
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
    """The objective of a task with classes (VIS, VPS), made of its `draw(keys, num_predictions)` and its `loss`."""

    def loss_of_microbatch(model, batch, loss_keys, model_keys, targets_per_clip):
        draws = draw(loss_keys, num_predictions)
        return loss(model, batch, dataset, draws, config, targets_per_clip, model_keys)

    return Objective(loss_of_microbatch, targets_per_clip)


def targets_per_clip(batch: Batch) -> jax.Array:
    """The mean number of valid targets over all clips, float32 [], for a batch [A, B / A, ...]."""
    return batch["valid_instances"].sum(-1).mean()
