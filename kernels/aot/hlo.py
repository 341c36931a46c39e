"""What the text of a compiled program says: how often each operation runs, and what devices send to each other."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32}
_BITS |= {"u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}

# Operations for which a GPU starts no kernel; of loops and calls, what they run counts.
_NO_KERNEL = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "replica-id",
}
_NO_KERNEL |= {"while", "call", "conditional"}
_TYPE = r"(?:\((?:[^()]|\([^()]*\))*\)|\S+)"


@dataclasses.dataclass(frozen=True)
class Collective:
    """One operation by which devices communicate.

    Attributes:
      kind: one of `COLLECTIVES`.
      bytes: of the larger of what one device gives and what it gets.
      group: how many devices take part in one exchange.
      times: how often a run of the program does it; a loop whose number of passes depends on data counts once.
    """

    kind: str
    bytes: int
    group: int
    times: int

    @property
    def sent_bytes(self) -> float:
        """Bytes that each device sends at least, in all: those of a ring, which no algorithm undercuts."""
        share = (self.group - 1) / self.group
        factor = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * self.bytes * factor


def collectives(hlo: str, num_devices: int) -> list[Collective]:
    """The collectives of a program for `num_devices` devices, in the order of its text."""
    found = []
    for times, line in _lines_with_times(hlo):
        match = re.match(rf"\s+(?:ROOT )?%\S+ = ({_TYPE}) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if not match:
            continue
        shapes, kind, is_start = match.groups()
        sizes = _sizes(shapes)
        # What starts an exchange has operands and results in its type; of a tuple of results, all are exchanged.
        number = max(sizes, default=0) if is_start and kind != "all-reduce" else sum(sizes)
        group = _group_size(line, num_devices)
        number *= group if kind == "reduce-scatter" and not is_start else 1
        found.append(Collective(kind, number, group, times))
    return found


def totals(found: list[Collective]) -> dict[str, tuple[int, int]]:
    """Kind -> (how many run, bytes of all)."""
    count, size = Counter(), Counter()
    for each in found:
        count[each.kind] += each.times
        size[each.kind] += each.times * each.bytes
    return {kind: (count[kind], size[kind]) for kind in COLLECTIVES if count[kind]}


def estimated_cycles(hlo: str) -> int:
    """Sum of the cycles that libtpu estimates for the operations of a TPU program; kernels of Pallas have none."""
    return sum(
        times * int(cycles)
        for times, line in _lines_with_times(hlo)
        for cycles in re.findall(r'"estimated_cycles":"(\d+)"', line)
    )


def kernels_started(hlo: str) -> int:
    """How many kernels (and library calls) one run of a program for a GPU starts.

    Raises:
      ValueError: it has a loop whose number of passes depends on data.
    """
    total = 0
    for times, line in _lines_with_times(hlo):
        if not (match := re.match(rf"\s+(?:ROOT )?%\S+ = {_TYPE} ([\w-]+)\(", line)):
            continue
        operation = match[1]
        if operation == "while" and '"known_trip_count"' not in line:
            raise ValueError(f"a loop has no known number of passes: {line.strip():.80}")
        total += times * (operation not in _NO_KERNEL and not operation.endswith("-done"))
    return total


def _lines_with_times(hlo: str) -> Iterator[tuple[int, str]]:
    """(how often it runs, line) for each line of the entry and of the loops and calls that it reaches."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if head := re.match(r"(ENTRY )?%(\S+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
            computations[name] = []
        elif name:
            computations[name].append(line)

    def walk(computation: str, times: int) -> Iterator[tuple[int, str]]:
        for line in computations[computation]:
            yield times, line
            if " while(" in line:
                trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                yield from walk(re.search(r"body=%([\w.-]+)", line)[1], times * (int(trips[1]) if trips else 1))
            elif " call(" in line:
                yield from walk(re.search(r"to_apply=%([\w.-]+)", line)[1], times)
            elif " conditional(" in line:
                names = re.search(r"branch_computations=\{([^}]*)\}", line)
                branches = names[1].split(",") if names else re.findall(r"(?:true|false)_computation=(%[\w.-]+)", line)
                for branch in branches:
                    yield from walk(branch.strip().removeprefix("%"), times)

    yield from walk(entry, 1)


def _sizes(shapes: str) -> list[int]:
    """Bytes of each array of a type such as "(f32[8,2]{1,0}, bf16[4]{0})"."""
    return [
        math.prod(int(n) for n in dims.split(",") if n) * _BITS[dtype] // 8
        for dtype, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shapes)
        if dtype in _BITS
    ]


def _group_size(line: str, num_devices: int) -> int:
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(match[1])
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", match[1])}
        return math.prod(sizes[name] for name in re.findall(r"'(\w+)'", match[2]))
    return num_devices  # no groups: all of them
