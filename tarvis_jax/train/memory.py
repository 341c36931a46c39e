"""How much memory a step takes on one device, and how many clips at once it has room for."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from kernels.aot.chips import memory_of
from tarvis_jax.parallel.mesh import num_microbatches
from tarvis_jax.run_config import Config
from tarvis_jax.train.programs import GradientProgram, gradient_programs
from tarvis_jax.train.state import TrainState
from tarvis_jax.train.step import TrainStepper

_GIB = 2**30


class DoesNotFitError(RuntimeError):
    """A step needs more memory than a device has."""

    exit_status = 5  # of a command that stops for it


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Bytes on one device while a program of gradients runs.

    Attributes:
      params: parameters and frozen variables.
      optimizer: the optimizer's state and the moving average.
      batches: the batch, and the next one, which arrives meanwhile.
      gradients: what the program gives.
      temporaries: what it needs beside these.
    """

    params: int
    optimizer: int
    batches: int
    gradients: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def step_memory(
    compiled: jax.stages.Compiled, state: TrainState, batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh
) -> StepMemory:
    """Memory of a compiled program of gradients.

    Args:
      compiled: the program.
      state: any state of the run, or its shapes and shardings.
      batch: shapes of the whole batch that the program takes.
      mesh: the devices, over which the batch is split.
    """
    found = compiled.memory_analysis()
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in batch.values())
    return StepMemory(
        params=bytes_on_device((state.params, state.frozen)),
        optimizer=bytes_on_device((state.opt_state, state.ema)),
        batches=2 * whole // mesh.size,
        gradients=found.output_size_in_bytes,
        temporaries=found.temp_size_in_bytes,
    )


def bytes_on_device(tree: Any) -> int:
    """Bytes that one device holds of arrays with shardings, or of their shapes."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        size = leaf.dtype.itemsize
        for length in leaf.sharding.shard_shape(leaf.shape):
            size *= length
        total += size
    return total


def compile_gradients(stepper: TrainStepper, program: GradientProgram) -> jax.stages.Compiled | None:
    """The compiled program, kept in `stepper.programs`; None if the compiler says that memory does not suffice."""
    request = stepper.gradients_request(program.kind, program.batch)
    try:
        return stepper.programs.get(request.key, request.lower, request.description)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        logging.info("%s: %s", request.description, str(error).partition("\n")[0])
        return None


def largest_programs(programs: list[GradientProgram]) -> list[GradientProgram]:
    """Of each task the one with the most pixels and slots: if they fit, the others do."""
    largest: dict[str, GradientProgram] = {}
    for program in sorted(programs, key=lambda each: (each.batch["images"].size, each.batch["classes"].size)):
        largest[program.kind[1]] = program
    return sorted(largest.values(), key=lambda each: -each.batch["images"].size)


def samples_to_try(batch_size: int, num_devices: int, most: int) -> Iterator[int]:
    """Divisors of a device's share of the batch, from the largest; none above `most`, unless that is 0."""
    share = batch_size // num_devices
    for samples in range(share, 0, -1):
        if share % samples == 0 and (not most or samples <= most):
            yield samples


def choose_microbatches(config: Config, stepper: TrainStepper) -> int:
    """How many microbatches a batch is split into, by `train.max_samples_per_device`.

    With 0, the fewest for which the compiler's figures say that every device has enough memory. What is compiled to
    find this out stays in `stepper.programs`. Where no limit is known, as on CPUs, there is one microbatch, or as many
    as are computed at once.

    Args:
      config: of the run, with the buckets of every dataset that has a weight.
      stepper: of the run.
    Raises:
      ValueError: the batch cannot be split over the devices.
      DoesNotFitError: one sample on each device is too much.
    """
    mesh, most, batch_size = stepper.mesh, config.train.max_samples_per_device, config.data.batch_size
    num_microbatches(batch_size, 1, mesh)  # raises what the user must know first
    if stepper.microbatches_at_once > 1:
        share = -(-batch_size // stepper.microbatches_at_once)
        most = min(most, share) if most else share
    if most:
        return num_microbatches(batch_size, most, mesh)
    limit = memory_of(mesh.local_devices[0])
    if limit is None:
        logging.log_first_n(
            logging.INFO,
            "samples on a device at once: all %d of its share, since the memory of a %s is not known "
            "(train.max_samples_per_device sets fewer)",
            1,
            batch_size // mesh.size,
            mesh.local_devices[0].device_kind,
        )
        return 1
    state = stepper.abstract_state()
    for samples in samples_to_try(batch_size, mesh.size, most):
        microbatches = num_microbatches(batch_size, samples, mesh)
        if _all_fit(config, stepper, state, samples, microbatches, limit):
            return microbatches
    raise DoesNotFitError(
        "one sample on each device needs more memory than it has: train with "
        '--config.model.remat=blocks, then --config.train.shard="parameters" (docs/multihost.md)'
    )


def _all_fit(
    config: Config, stepper: TrainStepper, state: TrainState, samples: int, microbatches: int, limit: int
) -> bool:
    for program in largest_programs(gradient_programs(config, microbatches)):
        name = f"{' '.join(program.kind)} with {samples} samples on a device at once"
        compiled = compile_gradients(stepper, program)
        needs = None if compiled is None else step_memory(compiled, state, program.batch, stepper.mesh).total
        fits = needs is not None and needs <= limit
        shown = "more" if needs is None else f"{needs / _GIB:.2f}"
        logging.info("%s: needs %s of %.2f GiB: %s", name, shown, limit / _GIB, "fits" if fits else "does not fit")
        if not fits:
            return False
    return True
