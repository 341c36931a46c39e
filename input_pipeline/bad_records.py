"""What becomes of bad data: an error, or videos and samples that are left out, counted and told.

A reader makes its records with `keep_good`. Where nobody collects what is left out, the first bad record is an error;
inside `leaving_out` it is noted in a `LeftOut` and the others are kept. docs/data.md says what is an error in any case.
"""

import collections
import contextlib
import contextvars
import dataclasses
import json
import pathlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from absl import logging

ERROR, SKIP = "error", "skip"  # values of DataConfig.on_bad_record
_SHOWN = 5  # errors that the log has in full
_MAX_TEXT = 2000  # characters of one error

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class BadRecord:
    """Something that was left out.

    Attributes:
      dataset: its name.
      error: what is wrong and where.
      step, sample: of the batch in which it was met, and the place in that batch; None where it was found when the
        annotations were read: then a whole video (or image) is left out.
    """

    dataset: str
    error: str
    step: int | None = None
    sample: int | None = None


class LeftOut:
    """What was left out of a run, each once. Safe to use from several threads."""

    def __init__(self, *, logs: bool = True):
        """`logs`: whether what is added is logged, the first few in full."""
        self._logs = logs
        self._lock = threading.Lock()
        self._records: dict[BadRecord, None] = {}
        self._new: list[BadRecord] = []
        self._file: Any = None

    def add(self, record: BadRecord) -> None:
        """Notes and logs a record, unless it is known."""
        text = record.error.encode("utf-8", "backslashreplace").decode()[:_MAX_TEXT]
        record = dataclasses.replace(record, error=text)
        with self._lock:
            if record in self._records:
                return
            self._records[record] = None
            self._new.append(record)
            self._write(record)
            count = len(self._records)
        if not self._logs:
            return
        what = "left out" if record.step is None else f"step {record.step}, sample {record.sample} was drawn again"
        if count <= _SHOWN:
            logging.warning("bad data, %s: %s", what, record.error)
        elif _is_round(count):
            logging.warning("bad data: %d videos and samples were left out so far; the last: %s", count, record.error)

    def keep_in(self, workdir: pathlib.Path, process: int) -> None:
        """Writes what is and will be left out to this process's file, after what an earlier part of the run wrote."""
        file = workdir / f"bad_records-{process}.jsonl"
        earlier = read_file(file)
        with self._lock:
            self._records = dict.fromkeys((*earlier, *self._records))
            if self._records:
                whole = file.with_suffix(".part")
                whole.write_text("".join(map(_line, self._records)), encoding="ascii")
                whole.replace(file)
            self._file = file

    def take_new(self) -> list[BadRecord]:
        """What was added since the last call."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def counts(self) -> dict[str, tuple[int, int]]:
        """Dataset -> number of videos that were left out, number of samples that were drawn again."""
        with self._lock:
            return count(self._records)

    def scalars(self) -> dict[str, float]:
        """Metrics of a run: how many videos and samples of all datasets."""
        counts = self.counts().values()
        return {
            "data/videos_left_out": float(sum(videos for videos, _ in counts)),
            "data/samples_drawn_again": float(sum(samples for _, samples in counts)),
        }

    def first_error(self, dataset: str) -> str:
        """The first error of a dataset, "" if it has none."""
        with self._lock:
            return next((record.error for record in self._records if record.dataset == dataset), "")

    def _write(self, record: BadRecord) -> None:
        if self._file is not None:
            with open(self._file, "a", encoding="ascii") as file:
                file.write(_line(record))


def read_file(file: pathlib.Path) -> list[BadRecord]:
    """What `LeftOut.keep_in` wrote, each record once; nothing where there is no such file."""
    if not file.exists():
        return []
    # A process that was killed may have left a part of a line.
    lines = [line for line in file.read_text(encoding="ascii").splitlines(keepends=True) if line.endswith("\n")]
    return list(dict.fromkeys(BadRecord(**json.loads(line)) for line in lines))


def _line(record: BadRecord) -> str:
    return json.dumps(dataclasses.asdict(record)) + "\n"


def summary(workdir: pathlib.Path, num_steps: int) -> dict[str, str]:
    """What all processes and all parts of a run left out: names and texts for the report.

    Batches are made ahead; those from `num_steps` on were never trained on and do not count.
    """
    files = sorted(workdir.glob("bad_records-*.jsonl"))
    records = list(dict.fromkeys(record for file in files for record in read_file(file)))
    records = [record for record in records if record.step is None or record.step < num_steps]
    if not records:
        return {"all datasets": "nothing was left out"}
    told = {}
    for dataset, (videos, samples) in count(records).items():
        told[dataset] = f"{videos} videos or images were left out, {samples} samples were drawn again"
        errors = [record.error for record in records if record.dataset == dataset]
        told |= {f"{dataset}, {number}": error for number, error in enumerate(errors[:_SHOWN], start=1)}
    return told


def count(records: Iterable[BadRecord]) -> dict[str, tuple[int, int]]:
    """Dataset -> number of videos that were left out, number of samples that were drawn again."""
    found: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
    for record in records:
        found[record.dataset][record.step is not None] += 1
    return {dataset: tuple(numbers) for dataset, numbers in found.items()}


_collector: contextvars.ContextVar[tuple[LeftOut, str] | None] = contextvars.ContextVar("left_out", default=None)


@contextlib.contextmanager
def leaving_out(left_out: LeftOut | None, dataset: str) -> Iterator[None]:
    """Inside, bad records of a dataset are noted in `left_out`; None: they are errors."""
    token = _collector.set(None if left_out is None else (left_out, dataset))
    try:
        yield
    finally:
        _collector.reset(token)


def keep_good(items: Iterable[Item], make: Callable[[Item], Result]) -> list[Result]:
    """[make(item) for item in items], without those for which `make` raises a ValueError if bad records are left out.

    Raises:
      ValueError: of the first bad record, outside of `leaving_out`.
    """
    results = []
    for item in items:
        try:
            results.append(make(item))
        except ValueError as error:
            leave_out(error)
    return results


def leave_out(error: ValueError) -> None:
    """Notes that a record is left out for an error; outside of `leaving_out`, raises the error."""
    collector = _collector.get()
    if collector is None:
        raise error
    left_out, dataset = collector
    left_out.add(BadRecord(dataset, str(error)))


def is_leaving_out() -> bool:
    """Whether bad records are left out here."""
    return _collector.get() is not None


def _is_round(count: int) -> bool:
    """10, 20, 50, 100, 200, ..."""
    digits = str(count)
    return digits[0] in "125" and not digits[1:].strip("0")
