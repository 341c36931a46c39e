"""Frames as records: what one holds, and reading one by its place in a shard.

Files of records are read by the library array_record, on a disk or in a Google Cloud Storage bucket (gs://...). Of a
bucket it asks for one record at a time.
"""

import collections
import dataclasses
import functools
import os
import pathlib
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

# Fields of a record, all of them bytes; empty where a frame has none.
IMAGE = "image"  # the image file, as it was
MAP = "map"  # a PNG of classes and instances (`videos.py`)
TARGETS = "targets"  # JSON: masks of instances and classes
_KEPT_RECORDS = 16
BUCKET_SCHEME = "gs://"
# Seconds that a bucket has for one answer. The library's storage client repeats a failed request for 15 minutes and has
# no setting for that.
PATIENCE = 120.0
# One record at a time is read, so there is nothing to read ahead, and no thread that lives until the process ends. The
# end of a file lists where its records are; 256 KB hold the list of some thousand records.
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0,footer_prefetch_bytes:256K"


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


def open_records(path: str) -> Any:
    """The array_record reader of a file on a disk or in a bucket.

    Raises:
      OSError: it is absent, cut off, not a file of records, or may not be read.
      TimeoutError: the bucket did not answer within `PATIENCE`; also an OSError.
    """
    from array_record.python import array_record_module

    reader = _in_time(path, lambda: array_record_module.ArrayRecordReader(path, _OPTIONS))
    if not reader.ok():
        read_records(reader, path, [0])  # the reader says what is wrong only when a record is asked for
    return reader


def read_records(reader: Any, path: str, positions: list[int]) -> list[bytes]:
    """Records of the file `path` that `open_records` opened; raises as `open_records` does, also for damaged blocks."""
    return _in_time(path, lambda: reader.read(positions))


def _in_time(path: str, call: Callable[[], Any]) -> Any:
    """What `call` returns; for a file in a bucket it has `PATIENCE` seconds."""
    if not path.startswith(BUCKET_SCHEME):
        return _call(call)
    outcome: queue.SimpleQueue = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((_call(call), None))
        except OSError as error:
            outcome.put((None, error))

    # A daemon: where the answer never comes, it does not keep the process from ending.
    threading.Thread(target=run, name=f"read {path}", daemon=True).start()
    try:
        value, error = outcome.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(
            f"the bucket did not answer within {PATIENCE:g} s; are there a network and Google Cloud credentials?"
        ) from None
    if error is not None:
        raise error
    return value


def _call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (RuntimeError, IndexError) as error:  # what the reader raises for files and blocks that it cannot read
        raise OSError(str(error)) from error


# A process that was forked must not use the reader of its parent: the process is part of the key.
@functools.lru_cache(maxsize=256)
def _reader(shard: str, num_records: int, process: int) -> Any:
    reader = open_records(shard)
    if reader.num_records() != num_records:
        raise OSError(f"expected {num_records} records, found {reader.num_records()}")
    return reader


@functools.lru_cache(maxsize=_KEPT_RECORDS)  # image, map and masks of a frame are asked for one after the other
def _record(shard: str, num_records: int, position: int, process: int) -> dict[str, bytes]:
    (raw,) = read_records(_reader(shard, num_records, process), shard, [position])
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
