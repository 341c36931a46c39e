"""What a conversion or a start from other weights did with every tensor."""

import dataclasses
import fnmatch
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor.

    Attributes:
      name: as the source calls it; for a new variable, as our model does.
      shape, dtype: on that side.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Report:
    """Every tensor of the source is in `loaded` or `left_out`, every variable of the model is loaded or in `new`.

    Attributes:
      source: the file or folder.
      loaded: tensors of the source whose values are used.
      new: variables of the model that the source has no values for: they keep their initial ones.
      left_out: tensors of the source that are not used.
      notes: what else there is to say, a line each.
    """

    source: str
    loaded: tuple[Entry, ...]
    new: tuple[Entry, ...] = ()
    left_out: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [str(self.source)]
        for title in ("loaded", "new", "left_out"):
            entries = getattr(self, title)
            size = sum(entry.num_bytes for entry in entries) / 1e6
            lines.append(f"  {title.replace('_', ' '):8} {len(entries):5} tensors {size:9.2f} MB")
            if title != "loaded":
                lines += [f"    {line}" for line in _summarized(entries)]
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])


def entry(name: str, value: Any) -> Entry:
    """Entry of anything with shape and dtype."""
    return Entry(name, tuple(map(int, value.shape)), str(np.dtype(value.dtype)))


def fits(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name fits one of the shell patterns (`*` stands for any characters, dots and slashes included)."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _summarized(entries: Iterable[Entry]) -> list[str]:
    """One line per group of names that differ only in their numbers."""
    groups: dict[str, list[Entry]] = {}
    for e in entries:
        separator = "/" if "/" in e.name else "."
        key = separator.join("*" if part.isdigit() else part for part in e.name.split(separator))
        groups.setdefault(key, []).append(e)
    return [
        f"{key} {e[0].dtype}{list(e[0].shape)}" if len(e) == 1 else f"{key} ({len(e)} tensors)"
        for key, e in groups.items()
    ]
