"""What the clips of a run began with, on disk: how a session goes back."""

import base64
import bisect
import json
import math
import tempfile
import zlib
from array import array
from typing import Any

import numpy as np


class History:
    """A bookmark for each clip of a run, in a temporary file without a name, which goes with the process.

    In memory are three numbers for each clip.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._offsets = array("q", [0])  # of the bookmarks, and the end of the file
        self.first = array("q")  # frame that each clip begins with
        self.end = array("q")  # frame after its last one

    def __len__(self) -> int:
        return len(self.first)

    @property
    def num_bytes(self) -> int:
        """What is on disk."""
        return self._offsets[-1]

    def append(self, first: int, end: int, bookmark: dict[str, Any]) -> None:
        """Adds the next clip of frames [first, end)."""
        self._file.seek(self._offsets[-1])
        self._offsets.append(self._offsets[-1] + self._file.write(json.dumps(bookmark).encode()))
        self.first.append(first)
        self.end.append(end)

    def read(self, clip: int) -> dict[str, Any]:
        """The bookmark of a clip, by its number in the run."""
        self._file.seek(self._offsets[clip])
        return json.loads(self._file.read(self._offsets[clip + 1] - self._offsets[clip]))

    def truncate(self, count: int) -> None:
        """Forgets all but the first `count` clips."""
        del self._offsets[count + 1 :], self.first[count:], self.end[count:]

    def first_sharing(self, frame: int) -> int:
        """Number of the first clip that has `frame` or a later one; `len` of this where none has."""
        return bisect.bisect_right(self.end, frame)

    def covering(self, frame: int) -> int:
        """Number of the last clip that begins at `frame` or before; -1 where none does."""
        return bisect.bisect_right(self.first, frame) - 1


def pack(values: np.ndarray) -> dict[str, Any]:
    """A bool or float32 array in types that JSON has, compressed; `unpack` gives it back, bit for bit."""
    content = np.packbits(values) if values.dtype == bool else values.astype("<f4")
    text = base64.b64encode(zlib.compress(content.tobytes(), 1)).decode()
    return {"shape": values.shape, "is_mask": values.dtype == bool, "values": text}


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """The inverse of `pack`."""
    content, shape = zlib.decompress(base64.b64decode(packed["values"])), packed["shape"]
    if packed["is_mask"]:
        return np.unpackbits(np.frombuffer(content, np.uint8), count=math.prod(shape)).astype(bool).reshape(shape)
    return np.frombuffer(content, "<f4").reshape(shape)
