"""What all tasks give to training: a loss, and what it must know of the whole batch."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

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


def mean_num_targets(batch: Batch) -> jax.Array:
    """Valid targets of the whole batch over its number of microbatches, float32 [], for a batch [A, B / A, ...]."""
    valid = batch["valid_instances"]
    return valid.sum() / valid.shape[0]
