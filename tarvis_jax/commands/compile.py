"""`--mode=compile`: every step program of a config, compiled for chips that need not be here, and whether it fits them.

Nothing runs. Memory and communication are the compiler's figures for one chip; operations are counted in the program
before it is compiled; times are what the chip's published peaks allow at best.
"""

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from input_pipeline.batches import read_videos, require_data
from input_pipeline.mixture import with_buckets
from input_pipeline.nominal_sizes import with_nominal_buckets
from kernels.aot import hlo
from kernels.aot.chips import Chip, chip_of, devices_of, prepare
from kernels.aot.flops import count_flops
from tarvis_jax.model.config import REMATS
from tarvis_jax.parallel.mesh import make_mesh, num_microbatches
from tarvis_jax.run_config import SHARDS, Config
from tarvis_jax.train.memory import (
    DoesNotFitError,
    StepMemory,
    compile_gradients,
    largest_programs,
    memory_of,
    samples_to_try,
    step_memory,
)
from tarvis_jax.train.programs import GradientProgram, gradient_programs
from tarvis_jax.train.step import TrainStepper, make_stepper

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Row:
    """One compiled program on one chip.

    Attributes:
      program: dataset, task and size of the images, or "update".
      memory: of a program of gradients; None for the update.
      total_bytes: all that the chip holds while it runs.
      flops: of one step on one chip.
      accessed_bytes: of the chip's memory in one step at least; None where the compiler does not say.
      collectives: kind -> (how many in a step, their bytes); None if the text of the program cannot be had.
      sent_bytes: what the chip sends at least; None likewise.
      cycles: libtpu's estimates of a step, without kernels of Pallas; 0 elsewhere; None likewise.
    """

    program: str
    memory: StepMemory | None
    total_bytes: int
    flops: int
    accessed_bytes: float | None
    collectives: dict[str, tuple[int, int]] | None
    sent_bytes: float | None
    cycles: int | None

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Least time of a step by what limits it; the largest is the roofline."""
        return {
            "compute": self.flops / chip.flops,
            "memory": (self.accessed_bytes or 0.0) / chip.bytes_per_second,
            "links": (self.sent_bytes or 0.0) / chip.link_bytes_per_second,
        }


def compile_steps(config: Config, topology: str | None = None, programs: int = 0, output: str | None = None) -> None:
    """Compiles the step programs of a run, and prints what each needs of one chip.

    Settings are tried until the hungriest program of each task fits: fewer samples on a device at once, then
    recomputation of activations (`model.remat`), then a split state (`train.shard`). A setting that the config gives is
    kept: a `max_samples_per_device` other than 0, and for the two others whatever comes before it.

    Args:
      config: of the run. Sizes of clips come from its videos where they are here, else from
        `input_pipeline/nominal_sizes.py`.
      topology: of TPUs such as "v5e:4x4", or GPUs of one machine such as "h100:8"; None: the devices that are here.
      programs: only so many of the largest, and the update; 0: all.
      output: JSON file for the same figures.
    Raises:
      ValueError: topology or config are wrong, or the batch cannot be split over the devices.
      DoesNotFitError: no setting fits.
    """
    if programs < 0:
        raise ValueError(f"--programs={programs}: expected how many of the largest to compile, or 0 for all")
    if topology is not None:
        prepare(topology)
    chip, devices, limit = _target(topology)
    data, origin = _with_sizes(config)
    config = dataclasses.replace(config, data=data)
    num_microbatches(data.batch_size, 1, make_mesh(devices))  # raises what the user must know first
    name = topology or f"{len(devices)} local device(s)"
    room = "memory not known" if limit is None else f"{limit / _GIB:.2f} GiB each"
    print(f"{name}: {len(devices)} x {devices[0].device_kind}, {room}; {_compiler()}")
    print(f"sizes of clips: {origin}")
    config, stepper, tried = _settle(config, devices, limit, programs)
    settings = _settings(config, len(devices))
    print(f"settings: {settings}" + (f" ({'; '.join(tried)})" if tried else ""))
    rows = []
    for row in _rows(config, stepper, programs):
        print(_line(row, chip, limit), flush=True)
        rows.append(row)
        if output is not None:
            _write(pathlib.Path(output), name, chip, limit, origin, settings, tried, rows)
    if limit is not None and any(row.total_bytes > limit for row in rows):
        raise DoesNotFitError(f"{name}: a program needs more than {limit / _GIB:.2f} GiB")
    print("fits" if limit is not None else "whether it fits is not known here")


def _target(topology: str | None) -> tuple[Chip | None, list[jax.Device], int | None]:
    """(chip, devices, bytes that a program may use)."""
    if topology is not None:
        chip, devices = devices_of(topology)
        return chip, devices, chip.memory_bytes
    devices = jax.devices()
    return chip_of(devices[0]), devices, memory_of(devices[0])


def _compiler() -> str:
    """JAX's version and, where it is chosen (JAX_OPTIMIZATION_LEVEL), how hard XLA optimizes."""
    level = jax.config.jax_optimization_level
    return f"jax {jax.__version__}" + ("" if level == "UNKNOWN" else f", optimization level {level}")


def _with_sizes(config: Config) -> tuple[Any, str]:
    """(data config with buckets, where they come from)."""
    data = config.data
    if all(dataset.buckets or not dataset.weight for dataset in data.datasets):
        return data, "the config's"
    try:
        require_data(data)
    except ValueError:
        return with_nominal_buckets(data), "usual sizes of the datasets' videos, which are not on this machine"
    return with_buckets(data, read_videos(data)), "those of the videos"


def _settle(
    config: Config, devices: list[jax.Device], limit: int | None, most: int
) -> tuple[Config, TrainStepper, list[str]]:
    """(config, its stepper, what did not fit before) with the first settings under which all tasks fit."""
    tried: list[str] = []
    for candidate in _candidates(config, len(devices)):
        mesh = make_mesh(devices, candidate.train.mesh_fsdp_devices)
        microbatches = num_microbatches(candidate.data.batch_size, candidate.train.max_samples_per_device, mesh)
        stepper = make_stepper(candidate, mesh)
        if limit is None:
            return candidate, stepper, tried
        problem = _first_problem(candidate, stepper, microbatches, limit, most)
        if problem is None:
            return candidate, stepper, tried
        tried.append(f"{_settings(candidate, len(devices))}: {problem}")
        print(f"does not fit: {tried[-1]}", flush=True)
    raise DoesNotFitError("no setting fits:\n  " + "\n  ".join(tried))


def _candidates(config: Config, num_devices: int) -> Iterator[Config]:
    """The config with settings that need less and less memory."""

    def changed(samples: int, remat: str, shard: str) -> Config:
        return dataclasses.replace(
            config,
            model=dataclasses.replace(config.model, remat=remat),
            train=dataclasses.replace(
                config.train,
                max_samples_per_device=samples,
                shard=shard,
                pack_state=config.train.pack_state and shard == "none",
            ),
        )

    remats = REMATS[REMATS.index(config.model.remat) :]
    shards = SHARDS[SHARDS.index(config.train.shard) :] if num_devices > 1 else (config.train.shard,)
    samples = list(samples_to_try(config.data.batch_size, num_devices, config.train.max_samples_per_device))
    samples = samples[:1] if config.train.max_samples_per_device else samples
    yield from (changed(each, remats[0], shards[0]) for each in samples)
    yield from (changed(samples[-1], remat, shards[0]) for remat in remats[1:])
    yield from (changed(samples[-1], remats[-1], shard) for shard in shards[1:])


def _first_problem(config: Config, stepper: TrainStepper, microbatches: int, limit: int, most: int) -> str | None:
    state = stepper.abstract_state()
    for program in largest_programs(gradient_programs(config, microbatches))[: most or None]:
        compiled = compile_gradients(stepper, program)
        if compiled is None:
            return f"{_name(program)} needs more than the compiler may use"
        needs = step_memory(compiled, state, program.batch, stepper.mesh).total
        if needs > limit:
            return f"{_name(program)} needs {needs / _GIB:.2f} GiB"
    return None


def _rows(config: Config, stepper: TrainStepper, most: int) -> Iterator[Row]:
    """The largest programs first; the update comes last."""
    mesh, state = stepper.mesh, stepper.abstract_state()
    microbatches = num_microbatches(config.data.batch_size, config.train.max_samples_per_device, mesh)
    listed = gradient_programs(config, microbatches)
    first = largest_programs(listed)
    others = sorted((each for each in listed if each not in first), key=lambda each: -each.batch["images"].size)
    for program in itertools.islice([*first, *others], most or None):
        compiled = compile_gradients(stepper, program)
        if compiled is None:
            raise DoesNotFitError(f"{_name(program)} needs more than the compiler may use")
        memory = step_memory(compiled, state, program.batch, mesh)
        flops = count_flops(stepper.trace_gradients(program.kind, program.batch).jaxpr)
        # The compiler counts the loop over microbatches, which is nearly all of the program, once.
        yield _row(_name(program), memory, memory.total, compiled, flops, microbatches, mesh.size)
    compiled = stepper.update_request().lower().compile()
    found = compiled.memory_analysis()
    total = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    total += found.temp_size_in_bytes
    yield _row("update", None, total, compiled, 0, 1, mesh.size)


def _row(
    name: str,
    memory: StepMemory | None,
    total: int,
    compiled: jax.stages.Compiled,
    flops: int,
    passes: int,
    num_devices: int,
) -> Row:
    accessed = (compiled.cost_analysis() or {}).get("bytes accessed")
    try:
        text = compiled.as_text()
    except jax.errors.JaxRuntimeError:  # libtpu 0.0.51 makes programs for v6e that jaxlib 0.10.2 cannot read
        text = None
    found = None if text is None else hlo.collectives(text, num_devices)
    return Row(
        program=name,
        memory=memory,
        total_bytes=total,
        flops=flops // num_devices,
        accessed_bytes=accessed and accessed * passes,
        collectives=None if found is None else hlo.totals(found),
        sent_bytes=None if found is None else sum(each.sent_bytes for each in found),
        cycles=None if text is None else hlo.estimated_cycles(text),
    )


def _name(program: GradientProgram) -> str:
    passes, samples, *clip, _ = program.batch["images"].shape
    return f"{' '.join(program.kind)} {passes}x{samples}x{'x'.join(map(str, clip))}"


def _settings(config: Config, num_devices: int) -> str:
    samples = config.train.max_samples_per_device
    return (
        f"data.batch_size={config.data.batch_size} train.max_samples_per_device={samples} "
        f"model.remat={config.model.remat} train.shard={config.train.shard} on {num_devices} device(s)"
    )


def _line(row: Row, chip: Chip | None, limit: int | None) -> str:
    parts = [row.program]
    if row.memory is not None:
        parts += [f"{field} {size / _GIB:.2f}" for field, size in dataclasses.asdict(row.memory).items()]
    parts.append(f"total {row.total_bytes / _GIB:.2f} GiB")
    if limit is not None:
        parts.append(f"headroom {(limit - row.total_bytes) / _GIB:.2f} GiB")
    parts.append(f"{row.flops / 1e12:.3g} TFLOP")
    if row.accessed_bytes:
        parts.append(f"{row.accessed_bytes / 1e9:.3g} GB accessed")
    if row.collectives is None:
        parts.append("exchanges not known (jaxlib cannot read the text of the program)")
    else:
        parts += [f"{count} {kind} of {size / 1e6:.3g} MB" for kind, (count, size) in row.collectives.items()]
    if chip is not None:
        times = row.seconds(chip)
        bound = max(times, key=times.get)
        parts.append(f"at least {times[bound] * 1e3:.3g} ms ({bound})")
    return ", ".join(parts)


def _write(path: pathlib.Path, name: str, chip: Chip | None, limit, origin, settings, tried, rows: list[Row]) -> None:
    document = {
        "topology": name,
        "chip": chip and dataclasses.asdict(chip),
        "memory_bytes": limit,
        "compiler": _compiler(),
        "sizes": origin,
        "settings": settings,
        "did_not_fit": tried,
        "programs": [dataclasses.asdict(row) | ({"seconds": row.seconds(chip)} if chip else {}) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
