"""Frames as records: what one holds, and reading one by its place in a shard."""

import collections
import dataclasses
import functools
import os
import pathlib
from typing import Any

import numpy as np

# Fields of a record, all of them bytes; empty where a frame has none.
IMAGE = "image"  # the image file, as it was
MAP = "map"  # a PNG of classes and instances (`videos.py`)
TARGETS = "targets"  # JSON: masks of instances and classes
_KEPT_RECORDS = 16


@dataclasses.dataclass(frozen=True)
class FileInRecord:
    """A file that lies inside a record; it stands where a `pathlib.Path` is only read.

    Attributes:
      shard: path of the file of records.
      num_records: that the shard must have.
      position: of the record in the shard.
      field: of the record.
      name: of the original file, with its suffix.
    """

    shard: str
    num_records: int
    position: int
    field: str
    name: str

    def read_bytes(self) -> bytes:
        """The bytes; an OSError if the shard cannot be read."""
        return _record(self.shard, self.num_records, self.position, os.getpid())[self.field]

    @property
    def stem(self) -> str:
        return pathlib.PurePath(self.name).stem

    def __str__(self) -> str:
        return f"{self.shard}, record {self.position} ({self.name})"


@functools.cache
def features() -> Any:
    """The description of a record for tensorflow-datasets."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=(), dtype=np.object_) for name in (IMAGE, MAP, TARGETS)}
    )


# A process that was forked must not use the reader of its parent: the process is part of the key.
@functools.lru_cache(maxsize=256)
def _reader(shard: str, num_records: int, process: int) -> Any:
    from array_record.python import array_record_module

    # One record at a time is read, so there is nothing to read ahead, and no thread that lives until the process ends.
    reader = array_record_module.ArrayRecordReader(shard, "readahead_buffer_size:0,max_parallelism:0")
    # The reader says nothing of a file that is absent or cut off: it has no records then.
    if reader.num_records() != num_records:
        raise OSError(f"expected {num_records} records, found {reader.num_records()}")
    return reader


@functools.lru_cache(maxsize=_KEPT_RECORDS)  # image, map and masks of a frame are asked for one after the other
def _record(shard: str, num_records: int, position: int, process: int) -> dict[str, bytes]:
    try:
        raw = _reader(shard, num_records, process).read([position])[0]
    except RuntimeError as error:  # what the reader raises for damaged blocks
        raise OSError(str(error)) from error
    return _fields(raw)


def _fields(example: bytes) -> dict[str, bytes]:
    """The fields of a serialized `tf.train.Example` whose features are bytes, read without TensorFlow.

    example.proto: Example {1: Features {1, repeated: entry {1: name, 2: Feature {1: BytesList {1: bytes}}}}}.
    """
    found = {}
    for entry in _parts(_parts(example)[1][0]).get(1, []):
        parts = _parts(entry)
        found[bytes(parts[1][0]).decode()] = bytes(_parts(_parts(parts[2][0])[1][0])[1][0])
    return found


def _parts(message: bytes | memoryview) -> dict[int, list[memoryview]]:
    """Number of a field -> its values, of a message of protocol buffers whose fields all have a length."""
    view, place, found = memoryview(message), 0, collections.defaultdict(list)
    while place < len(view):
        key, place = _varint(view, place)
        length, place = _varint(view, place)
        if key & 7 != 2 or place + length > len(view):
            raise OSError(f"expected a record of bytes, found field {key >> 3} of kind {key & 7}, {length} bytes long")
        found[key >> 3].append(view[place : place + length])
        place += length
    return found


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, lowest first, and the place after it."""
    value = shift = 0
    while place < len(view):
        byte, place = view[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise OSError("expected a record of bytes, found one that is cut off")
