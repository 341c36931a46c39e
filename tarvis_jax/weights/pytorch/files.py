"""Files of PyTorch tensors, read and written without PyTorch.

Three kinds are read: the zip archives of `torch.save` (since torch 1.6), its older streams, and plain pickles (`.pkl`)
of numpy arrays or tensors as detectron2 and Mask2Former keep them. Nothing in a file is run (`pickles`), and values are
read one tensor at a time, when asked for. Zip archives are written.
"""

import dataclasses
import io
import math
import os
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from tarvis_jax.weights.pytorch import pickles

_STORAGES = {
    "Float": np.float32,
    "Double": np.float64,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
    "ComplexFloat": np.complex64,
    "ComplexDouble": np.complex128,
}
_STREAM_MAGIC = 0x1950A86A20F9469CFC6C  # the first value of an old stream
_STREAM_VERSION = 1001
_ALIGNMENT = 64  # bytes, of the values in a zip archive, as torch aligns them


@dataclasses.dataclass
class Storage:
    """A flat run of values that tensors are views of.

    Attributes:
      dtype: of the values.
      size: how many there are, as the file says.
      num_bytes: what the file has for it; None: nothing.
      read: gives these bytes.
    """

    dtype: np.dtype
    size: Any
    num_bytes: int | None = None
    read: Callable[[], bytes | memoryview] | None = None


@dataclasses.dataclass
class StoredTensor(pickles.Buildable):
    """A tensor in a file. Shape and dtype are known; `np.asarray` reads the values.

    The fields are what the file says; `problem` tells whether that can be true, before anything is read.
    """

    storage: Storage
    offset: Any
    shape: Any
    strides: Any

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        return self.storage.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return self.size * self.dtype.itemsize

    def problem(self) -> str | None:
        """What is impossible about this tensor, None if nothing is."""
        storage = self.storage
        for name, value in (("shape", self.shape), ("strides", self.strides)):
            if not isinstance(value, tuple) or not all(type(n) is int and n >= 0 for n in value):
                return f"expected its {name} to be integers that are not negative, found {str(value)[:100]}"
        if len(self.shape) != len(self.strides):
            return f"expected as many strides as axes, found shape {self.shape} and strides {self.strides}"
        if type(self.offset) is not int or self.offset < 0:
            return f"expected its offset to be an integer that is not negative, found {str(self.offset)[:100]}"
        if type(storage.size) is not int or storage.size < 0:
            return f"expected the size of its storage to be an integer, found {str(storage.size)[:100]}"
        if storage.num_bytes is None:
            return "its storage is missing in the file"
        if storage.num_bytes != storage.size * storage.dtype.itemsize:
            return (
                f"its storage: expected {storage.size} values of {storage.dtype}, "
                f"{storage.size * storage.dtype.itemsize} bytes, found {storage.num_bytes} bytes"
            )
        end = self.offset + 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if self.size and (end > storage.size or self.size > storage.size):
            return (
                f"shape {list(self.shape)} with strides {list(self.strides)} from value {self.offset} on does not "
                f"lie in its storage of {storage.size} values"
            )
        return None

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """The values, in memory of their own for a file on disk."""
        values = np.frombuffer(self.storage.read(), self.dtype)[self.offset :]
        strides = tuple(stride * self.dtype.itemsize for stride in self.strides)
        array = (
            np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
            if self.size
            else (np.zeros(self.shape, self.dtype))
        )
        return array if dtype is None else array.astype(dtype, copy=False)


def read_torch_file(path: str | os.PathLike) -> Any:
    """What was saved, with a `StoredTensor` for each tensor; each of them has been checked by `problem`.

    Args:
      path: a file of `torch.save` (.pth, .pt, .bin) or a pickle (.pkl).

    Raises:
      ValueError: the file is no such file, is damaged, or names anything but tensors and plain values; nothing of it is
        ever run. The message begins with the path.
      FileNotFoundError: there is none.
    """
    path = pathlib.Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"expected a file, found {'a folder' if path.is_dir() else 'a device or pipe'}")
        with path.open("rb") as file:
            start = file.read(512)
            file.seek(0)
            if start.startswith(b"PK\x03\x04"):
                content = _read_zip(path, file)
            elif start.startswith(b"\x80"):
                content = _read_pickles(path, file)
            else:
                raise ValueError(f"expected a file of torch.save or a pickle, found {_guess_kind(path, start)}")
        problems = [f"tensor {name}: {problem}" for name, t in tensors(content) if (problem := t.problem())]
        if problems:
            raise ValueError(_one_message(problems))
        return content
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def tensors(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, StoredTensor]]:
    """(name, tensor) of all tensors in what `read_torch_file` gives; names of nested dicts and lists join with dots."""
    if isinstance(content, StoredTensor):
        yield name, content
    elif isinstance(content, (dict, list, tuple)):
        if depth == 20:
            raise ValueError(f"{name[:100]}: expected values nested at most 20 deep")
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from tensors(value, f"{name}.{key}" if name else str(key), depth + 1)


def write_torch_file(path: str | os.PathLike, tensors: Mapping[str, Any], key: str = "model") -> None:
    """Writes {key: tensors} as `torch.save` does; `torch.load(path, weights_only=True)` reads it.

    Args:
      path: overwritten once the file is complete.
      tensors: name -> array, or anything with shape and dtype that `np.asarray` reads; read one at a time.
    """
    path = pathlib.Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
            root = path.stem

            def add(name: str, data: bytes | memoryview) -> None:
                info = zipfile.ZipInfo(f"{root}/{name}")
                header = archive.fp.tell() + 30 + len(info.filename.encode()) + 4
                info.extra = struct.pack("<HH", 0x4246, -header % _ALIGNMENT) + bytes(-header % _ALIGNMENT)
                archive.writestr(info, data)

            add("data.pkl", _pickle_of(tensors, key))
            add("byteorder", b"little")
            for i, (name, value) in enumerate(tensors.items()):
                array = np.ascontiguousarray(value)
                if array.shape != tuple(value.shape) and value.shape != ():
                    raise ValueError(f"{name}: expected shape {value.shape}, found {array.shape}")
                add(f"data/{i}", memoryview(array.reshape(-1).view(np.uint8)))
            add("version", b"3\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _pickle_of(tensors: Mapping[str, Any], key: str) -> bytes:
    """The pickle of {key: OrderedDict(tensors)} whose values lie in data/0, data/1, ... of the archive.

    Written opcode by opcode: Python's pickler would have to import the classes that it names.
    """
    kinds = {np.dtype(dtype): kind for kind, dtype in _STORAGES.items()}

    def text(value: str) -> bytes:
        data = value.encode()
        return pickle.BINUNICODE + struct.pack("<I", len(data)) + data

    def number(value: int) -> bytes:
        data = pickle.encode_long(value)
        return pickle.LONG1 + bytes([len(data)]) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return pickle.MARK + b"".join(map(number, values)) + pickle.TUPLE

    def name(module: str, attribute: str) -> bytes:
        return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()

    empty = name("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    out = [pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + text(key) + empty + pickle.MARK]
    for i, (tensor_name, value) in enumerate(tensors.items()):
        shape = tuple(value.shape)
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        kind = name("torch", f"{kinds[np.dtype(value.dtype)]}Storage")
        storage = pickle.MARK + text("storage") + kind + text(str(i)) + text("cpu") + number(math.prod(shape))
        out += [
            text(tensor_name),
            name("torch._utils", "_rebuild_tensor_v2"),
            pickle.MARK + storage + pickle.TUPLE + pickle.BINPERSID,
            number(0) + numbers(shape) + numbers(strides) + pickle.NEWFALSE + empty + pickle.TUPLE + pickle.REDUCE,
        ]
    return b"".join([*out, pickle.SETITEMS, pickle.SETITEM, pickle.STOP])


def _read_zip(path: pathlib.Path, file: BinaryIO) -> Any:
    size = os.fstat(file.fileno()).st_size
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, OSError, struct.error) as error:
        raise ValueError(f"damaged or truncated zip archive of {size} bytes: {error}") from None
    records = {}
    for info in archive.infolist():
        if info.filename in records:
            raise ValueError(f"refused: the archive has the record {info.filename!r} twice")
        if info.filename.startswith("/") or ".." in info.filename.split("/") or "\\" in info.filename:
            raise ValueError(f"refused: the archive has a record named {info.filename!r}, outside of itself")
        if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size or info.flag_bits & 1:
            raise ValueError(f"record {info.filename!r}: expected it as it is, found it compressed or encrypted")
        if info.header_offset < 0 or info.header_offset + info.file_size > size:
            raise ValueError(
                f"record {info.filename!r}: {info.file_size} bytes at {info.header_offset} of a file of {size} bytes"
            )
        records[info.filename] = info
    roots = [name.removesuffix("data.pkl") for name in records if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise ValueError(f"expected a zip archive of torch.save with one data.pkl, found {sorted(records)[:5]}")
    root = roots[0]

    def read(name: str) -> bytes:
        return _read_record(path, records[name])

    if f"{root}byteorder" in records and read(f"{root}byteorder") != b"little":
        raise ValueError("expected little-endian values, found another byte order")

    storages: dict[str, Storage] = {}

    def read_later(name: str) -> Callable[[], bytes]:
        def read_now() -> bytes:
            try:
                return read(name)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None

        return read_now

    def persistent_load(given: Any) -> Storage:
        storage, key = _storage_of(given, 5)
        info = records.get(f"{root}data/{key}")
        if info is not None:
            storage.num_bytes = info.file_size
            storage.read = read_later(info.filename)
        known = storages.setdefault(key, storage)
        if (known.dtype, known.size) != (storage.dtype, storage.size):
            raise ValueError(f"storage {key!r} is described in two ways")
        return known

    return pickles.load(io.BytesIO(read(f"{root}data.pkl")), _names(), persistent_load)


def _read_record(path: pathlib.Path, info: zipfile.ZipInfo) -> bytes:
    """The bytes of a stored record, checked against the archive's checksum."""
    with path.open("rb") as file:
        file.seek(info.header_offset)
        header = file.read(30)
        if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
            raise ValueError(f"record {info.filename!r}: expected its header at byte {info.header_offset}, found none")
        file.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
        data = file.read(info.file_size)
    if len(data) != info.file_size:
        raise ValueError(f"record {info.filename!r}: expected {info.file_size} bytes, found {len(data)}")
    if zlib.crc32(data) != info.CRC:
        raise ValueError(f"record {info.filename!r}: its checksum is wrong, the file is damaged")
    return data


def _read_pickles(path: pathlib.Path, file: BinaryIO) -> Any:
    """A plain pickle, or an old stream of torch.save, which begins with a pickled magic number."""
    first = pickles.load(file, _names(), _no_storage)
    if first != _STREAM_MAGIC or isinstance(first, StoredTensor):
        return first

    def read_later(start: int, num_bytes: int) -> Callable[[], bytes]:
        def read() -> bytes:
            with path.open("rb") as again:
                again.seek(start)
                return again.read(num_bytes)

        return read

    return _read_stream(file, read_later)


def _read_stream(file: BinaryIO, reader: Callable[[int, int], Callable[[], Any]]) -> Any:
    """The rest of an old stream behind its magic number; `reader` gives what reads (start, number of bytes)."""
    version = pickles.load(file, {})
    if version != _STREAM_VERSION:
        raise ValueError(f"expected version {_STREAM_VERSION} of torch's old stream, found {str(version)[:50]}")
    system = pickles.load(file, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("expected little-endian values, found another byte order")
    storages: dict[str, Storage] = {}

    def persistent_load(given: Any) -> Storage:
        storage, key = _storage_of(given, 6)
        return storages.setdefault(key, storage)

    content = pickles.load(file, _names(), persistent_load)
    keys = pickles.load(file, {})
    start, end = file.tell(), file.seek(0, io.SEEK_END)
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
        raise ValueError("damaged: its list of storages does not fit its tensors")
    for key in keys:
        storage = storages[key]
        file.seek(start)
        header = file.read(8)
        size = struct.unpack("<q", header)[0] if len(header) == 8 else 0
        num_bytes = size * storage.dtype.itemsize
        if len(header) < 8 or size != storage.size or start + 8 + num_bytes > end:
            raise ValueError(
                f"truncated or damaged: expected {storage.size} values of {storage.dtype} at byte {start}, "
                f"found {max(0, end - start - 8)} bytes"
            )
        storage.num_bytes, storage.read = num_bytes, reader(start + 8, num_bytes)
        start += 8 + num_bytes
    return content


def _load_from_bytes(data: Any) -> Storage:
    """A storage that was pickled by itself: an old stream inside a pickle."""
    if not isinstance(data, (bytes, bytearray)):
        raise ValueError(f"expected the bytes of a storage, found {type(data).__name__}")
    file = io.BytesIO(data)
    if pickles.load(file, {}) != _STREAM_MAGIC:
        raise ValueError("expected the bytes of a storage, found something else")
    view = memoryview(data)
    storage = _read_stream(file, lambda start, num_bytes: lambda: view[start : start + num_bytes])
    if not isinstance(storage, Storage):
        raise ValueError(f"expected the bytes of a storage, found those of {type(storage).__name__}")
    return storage


def _storage_of(given: Any, length: int) -> tuple[Storage, str]:
    """The storage that a persistent id describes, and its key."""
    if not isinstance(given, tuple) or len(given) != length or given[0] != "storage":
        raise ValueError("damaged: expected the description of a storage")
    dtype, key, size = given[1], given[2], given[4]
    if not isinstance(dtype, np.dtype) or not isinstance(key, str) or (length == 6 and given[5] is not None):
        raise ValueError("damaged: expected the type and the key of a storage")
    return Storage(dtype, size), key


def _no_storage(given: Any) -> Any:
    raise ValueError("damaged: a plain pickle refers to a storage that it lacks")


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise ValueError(f"expected a storage, found {type(storage).__name__}")
    return StoredTensor(storage, offset, shape, strides)


class _PickledDtype(pickles.Buildable):
    """numpy.dtype: a letter and a size at first, then the byte order."""

    def __init__(self, code: Any, *_: Any):
        if not isinstance(code, str) or not re.fullmatch(r"[fiu][1248]|b1|c8|c16", code):
            raise ValueError(f"refused: expected numbers, found a numpy array of {str(code)[:50]!r}")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Takes (version, byte order, ...)."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", "|", "="):
            raise ValueError("expected little-endian values, found another byte order")


class _PickledArray(StoredTensor):
    """numpy.ndarray: nothing at first, then (version, shape, dtype, is_fortran, bytes)."""

    def __init__(self, *_: Any):
        super().__init__(Storage(np.dtype(np.uint8), 0, 0), 0, (0,), (1,))

    def build(self, state: Any) -> None:
        """Takes shape, dtype, order and values."""
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _PickledDtype):
            raise ValueError("expected the state of a numpy array")
        _, shape, kind, is_fortran, data = state
        if isinstance(data, str):  # written by Python 2
            data = data.encode("latin1")
        if not isinstance(data, (bytes, bytearray)) or not isinstance(shape, tuple):
            raise ValueError(f"expected the bytes of a numpy array, found {type(data).__name__}")
        size = len(data) // kind.dtype.itemsize
        self.storage = Storage(kind.dtype, size, len(data), lambda: data)
        self.shape, self.strides = shape, ()
        if all(type(n) is int and n >= 0 for n in shape):
            axes = range(len(shape))
            self.strides = tuple(math.prod(shape[:i] if is_fortran else shape[i + 1 :]) for i in axes)

    def problem(self) -> str | None:
        """As for any tensor; its bytes must be exactly those of its shape."""
        problem = super().problem()
        if problem is None and self.size != self.storage.size:
            return f"expected {self.size} values for shape {list(self.shape)}, found {self.storage.size}"
        return problem


def _scalar(kind: Any, data: Any) -> Any:
    if isinstance(data, str):
        data = data.encode("latin1")
    return np.frombuffer(data, kind.dtype)[0].item()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any) -> StoredTensor:
    """A numpy array in the latest version of pickle."""
    array = _PickledArray()
    array.build((1, shape, kind, order == "F", data))
    return array


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes in the versions of pickle that know only text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("expected bytes as text in latin1")
    return text.encode("latin1")


def _names() -> dict[str, Any]:
    """All that a file may name, and what it stands for here."""
    names: dict[str, Any] = {
        "collections.OrderedDict": pickles.Constructor(pickles.OrderedDict),
        "torch._utils._rebuild_tensor": pickles.Constructor(_rebuild_tensor),
        "torch._utils._rebuild_tensor_v2": pickles.Constructor(_rebuild_tensor),
        "torch._utils._rebuild_parameter": pickles.Constructor(lambda tensor, *_: tensor),
        "_codecs.encode": pickles.Constructor(_encode),
        "__builtin__.bytes": pickles.Constructor(lambda: b""),  # how version 2 of pickle writes no bytes
        "torch.storage._load_from_bytes": pickles.Constructor(_load_from_bytes),
        "numpy.ndarray": np.ndarray,  # only handed to _reconstruct, never called
        "numpy.dtype": pickles.Constructor(_PickledDtype),
        **{f"torch.{kind}Storage": np.dtype(dtype) for kind, dtype in _STORAGES.items()},
    }
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray._reconstruct"] = pickles.Constructor(_PickledArray)
        names[f"{core}.numeric._frombuffer"] = pickles.Constructor(_from_buffer)
        names[f"{core}.multiarray.scalar"] = pickles.Constructor(_scalar)
    return names


def _guess_kind(path: pathlib.Path, start: bytes) -> str:
    text = start.lstrip().lower()
    if not start:
        return "an empty file"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs: fetch the file itself with `git lfs pull`"
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page: the download gave a page in place of the file"
    if start[257:262] == b"ustar":
        return "a tar archive, as torch wrote before 2017: save it again with a later torch"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "a safetensors file"
    return f"a file that begins with {start[:16]!r}"


def _one_message(problems: list[str]) -> str:
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    return problems[0] if len(problems) == 1 else "\n  ".join(["", *problems[:20]]).lstrip(" ") + more
