"""All programs that the steps of a run need, with their shapes: known from the config, before there is any batch."""

import dataclasses
from collections.abc import Collection

import jax
import numpy as np

from input_pipeline.batches import batch_shapes
from tarvis_jax import tasks
from tarvis_jax.run_config import Config

Kind = tuple[str, str]  # (dataset, task)
AbstractBatch = dict[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class GradientProgram:
    """What one program of gradients is compiled for.

    Attributes:
      kind: (dataset, task) of its batches; of several that share the program, the first of the config.
      batch: shapes and dtypes of a global batch as `to_devices` gives it, [A, B / A, ...].
    """

    kind: Kind
    batch: AbstractBatch


def gradient_programs(
    config: Config, microbatches: int, shapes: Collection[tuple[str, str, tuple[int, int]]] | None = None
) -> list[GradientProgram]:
    """One program for each pair of an objective and the shapes of a batch; datasets that are trained alike share them.

    The steps take these and one program more, the update, which depends on no batch.

    Args:
      config: of the run, with the buckets of every dataset that has a weight (`mixture.with_buckets` finds those that
        the config leaves open from the videos).
      microbatches: A, which the batch size is divisible by (`parallel.mesh.num_microbatches`).
      shapes: (dataset, task, bucket) of the batches that there will be (`Mixture.shapes`); None: all that can be.
    Raises:
      ValueError: a dataset with a weight has no buckets.
    """
    objectives = tasks.objectives(config)
    programs = {}
    for dataset in config.data.datasets:
        if not dataset.weight:
            continue
        if not dataset.buckets:
            raise ValueError(f"dataset {dataset.name}: buckets: expected at least one size to compile for, found none")
        for task in dataset.task_shares:
            for bucket in dataset.buckets:
                if shapes is not None and (dataset.name, task, bucket) not in shapes:
                    continue
                arrays = batch_shapes(config.data, dataset, bucket, task)
                key = objectives[dataset.name, task], tuple(arrays.items())
                if key not in programs:
                    programs[key] = GradientProgram((dataset.name, task), _abstract(arrays, microbatches))
    return list(programs.values())


def _abstract(shapes: dict[str, tuple[tuple[int, ...], type]], microbatches: int) -> AbstractBatch:
    size = next(iter(shapes.values()))[0][0]
    return {
        name: jax.ShapeDtypeStruct((microbatches, shape[0] // microbatches, *shape[1:]), dtype)
        for name, (shape, dtype) in (shapes | {"place": ((size,), np.int32)}).items()
    }
