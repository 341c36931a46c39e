"""Compiling for TPUs on a machine without one, and what the compiled program says about time, memory and communication.

libtpu compiles for a described topology without any device. Nothing runs, so times are estimates from the schedule:

- Every XLA operation carries the compiler's own `estimated_cycles` in the text of the compiled program.
- A Pallas kernel carries none. Its schedule is dumped instead: the final bundles (instructions, one per cycle) with
  their loops. cycles = sum over loops of bundles times trips; the caller knows the trips, which may depend on the data.
- Gathers and scatters that XLA does not fuse carry none either; see `GATHER_CYCLES_PER_ROW`.

Not in it: stalls on memory and on the starts of copies, contention, clock changes. `memory_seconds` is the time that
the bytes need at least. Both are for comparing variants and for noticing that a change made things slower; only a TPU
tells the time. On chips with two cores (v4, v5p), kernels are estimated as if one core did everything.

    tpu.prepare(dump_dir)  # before JAX makes its first array
    report = tpu.compile_for("v5e", function, arguments)

Loading libtpu is left to processes of their own (tests and benchmarks start one): it needs environment variables that
must be set beforehand.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of TPU.

    Attributes:
      topology: the smallest slice that libtpu knows.
      clock_hz: cycles per second: peak bfloat16 FLOP/s over twice the multipliers of the matrix units of a chip.
      bytes_per_second: of HBM.
    """

    topology: str
    clock_hz: float
    bytes_per_second: float


CHIPS = {
    "v4": Chip("v4:2x2x1", 275e12 / (2 * 8 * 128 * 128), 1228e9),
    "v5e": Chip("v5e:2x2", 197e12 / (2 * 4 * 128 * 128), 819e9),
    "v5p": Chip("v5p:2x2x1", 459e12 / (2 * 8 * 128 * 128), 2765e9),
    "v6e": Chip("v6e:2x2", 918e12 / (2 * 4 * 256 * 256), 1640e9),
}
# Bundles of the loop that an XLA gather of short rows becomes on a v5e (309 bundles for 128 rows).
GATHER_CYCLES_PER_ROW = 2.4
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def prepare(dump_dir: str | os.PathLike | None = None) -> None:
    """Sets the environment for libtpu without a TPU; call before JAX initializes its back ends.

    Args:
      dump_dir: where the schedules of kernels go; without it compilation is faster and reports have no kernels.
    """
    jax.config.update("jax_platforms", "cpu")
    # No search for a machine that is not there.
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }
    # No lock file: it is for devices, and several processes may compile at the same time.
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    if dump_dir is not None:
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump_dir} --xla_jf_dump_llo_text=true"


def topology_devices(topology: str) -> list:
    """The devices of a described slice such as "v5e:2x4", one for each chip.

    Raises:
      ValueError: libtpu does not know it, or is not installed.
    """
    # The two cores of a v4 chip work as one device, as they do where JAX runs on the chips.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except RuntimeError as error:
        raise ValueError(f"libtpu cannot describe the topology {topology!r}: {error}") from error


@dataclasses.dataclass
class Loop:
    """A loop of a kernel's schedule, or the whole kernel.

    Attributes:
      bundles: of the body, without the loops within.
      loops: within the body, in order.
    """

    bundles: int = 0
    loops: list["Loop"] = dataclasses.field(default_factory=list)

    def cycles(self, trips: Sequence) -> float:
        """Cycles of one pass. `trips`: a pair (number of trips, `trips` of the loops within it) per loop within.

        Raises:
          ValueError: the kernel has not the loops that the caller thinks.
        """
        if len(trips) != len(self.loops):
            raise ValueError(f"expected {len(trips)} loops, found {len(self.loops)}: {self}")
        return self.bundles + sum(n * loop.cycles(t) for loop, (n, t) in zip(self.loops, trips, strict=True))


def parse_schedule(text: str) -> Loop:
    """The loops of the text of a kernel's final bundles.

    A line is "address [label:] [>...] { instructions }". The label LB marks the first bundle of a loop, and the number
    of > tells how many loops a bundle is in; empty bundles do not say. A loop's branch back to its start is marked as
    outside of the loop, but bundles of the loop follow, which are executed before the branch takes effect.
    """
    stack, depth, outside = [Loop()], 0, []
    for line in text.splitlines():
        match = re.match(r"\s*(?:0x)?[0-9a-f]+ +(\w\w)?\s*: *([> ]*)\{(.*)", line)
        if not match:
            continue
        label, marks, instructions = match.groups()
        depth = marks.count(">") if marks.strip() or not instructions.startswith("}") else depth
        if label != "LB" and depth >= len(stack) - 1:
            stack[-1].bundles += 1 + len(outside)
            outside = []
        elif label != "LB":
            outside.append(depth)
        else:
            for outer in outside:
                stack[outer].bundles += 1
            outside = []
            del stack[depth:]
            stack[-1].loops.append(Loop(bundles=1))
            stack.append(stack[-1].loops[-1])
    for outer in outside:
        stack[outer].bundles += 1
    return stack[0]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled program says.

    Attributes:
      hlo: its text.
      xla_cycles: sum of the compiler's estimates over the operations of the program (not within XLA loops).
      kernels: schedules of the Pallas kernels, by their name in the program.
      bytes_accessed: by all operations; what kernels read and write counts whole.
      argument_bytes, output_bytes, temp_bytes: memory of one device.
      collectives: how many of each operation that communicates between devices.
      gathered_rows: rows that gather operations fetch.
    """

    hlo: str
    xla_cycles: int
    kernels: dict[str, Loop]
    bytes_accessed: float
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    collectives: dict[str, int]
    gathered_rows: int

    def count(self, operation: str) -> int:
        """How many operations of a kind, such as "gather", the program has."""
        return len(re.findall(rf"\s{operation}\(", self.hlo))


def report_of(compiled, dump_dir: str | os.PathLike | None = None) -> Report:
    """Reads a compiled program, and the dumped schedules of its kernels if there are any."""
    hlo = compiled.as_text()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}  # none for GPUs that are not here
    entry = hlo[hlo.index("\nENTRY ") :]
    collectives = {name: len(re.findall(rf"\s{name}(?:-start)?\(", hlo)) for name in COLLECTIVES}
    return Report(
        hlo=hlo,
        xla_cycles=sum(map(int, re.findall(r'"estimated_cycles":"(\d+)"', entry))),
        kernels={} if dump_dir is None else _dumped_kernels(entry, pathlib.Path(dump_dir)),
        bytes_accessed=cost.get("bytes accessed", 0.0),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        collectives={name: number for name, number in collectives.items() if number},
        gathered_rows=_gathered_rows(hlo),
    )


def compile_for(
    chip: str, function: Callable, arguments: Sequence, dump_dir: str | os.PathLike | None = None
) -> Report:
    """Compiles for one device of a chip.

    Args:
      chip: in `CHIPS`.
      function: to be jitted.
      arguments: pytrees of arrays or `jax.ShapeDtypeStruct`.
      dump_dir: that given to `prepare`. Dumps of earlier programs there are left alone and not read.
    """
    mesh = Mesh(np.asarray(topology_devices(CHIPS[chip].topology)[:1]), ("data",))
    place = NamedSharding(mesh, PartitionSpec())
    arguments = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tuple(arguments))
    before = set() if dump_dir is None else set(pathlib.Path(dump_dir).iterdir())
    compiled = jax.jit(function, out_shardings=place).trace(*arguments).lower().compile()
    for path in before:
        path.unlink()
    return report_of(compiled, dump_dir)


def _dumped_kernels(entry: str, dump_dir: pathlib.Path) -> dict[str, Loop]:
    kernels = {}
    for name in re.findall(r"%([\w.-]+) = [^\n]* custom-call\([^\n]*custom_call_target=\"tpu_custom_call\"", entry):
        # Equal kernels are compiled once, under the name of one of them: the same but for the number at the end.
        for pattern in (f"*-{name}-*final_bundles.txt", f"*-{name.rsplit('.', 1)[0]}.*final_bundles.txt"):
            schedules = [path for path in dump_dir.glob(pattern) if "analysis" not in path.name]
            if schedules:
                break
        if len(schedules) != 1:
            raise ValueError(f"{dump_dir}: expected one schedule of the kernel {name}, found {schedules}")
        kernels[name] = parse_schedule(schedules[0].read_text())
    return kernels


def _gathered_rows(hlo: str) -> int:
    rows = 0
    for shape, sizes in re.findall(r"= \w+\[([\d,]*)\][^\n]* gather\([^\n]*slice_sizes=\{([\d,]*)\}", hlo):
        rows += int(np.prod([int(n) for n in shape.split(",") if n])) // int(
            np.prod([int(n) for n in sizes.split(",")])
        )
    return rows
