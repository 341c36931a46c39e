"""The safetensors file format: a header of names, dtypes, shapes and offsets in JSON, then the tensors' bytes.

Written one tensor at a time and read by mapping the file: neither side holds more than one tensor. The format is
public (github.com/huggingface/safetensors); its Python package writes only what is in memory as a whole.
"""

import json
import math
import mmap
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from tarvis_jax.config import unique_names
from tarvis_jax.fields import shown

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_HEADER = 16 * 2**20  # bytes; that of our largest model has 300 kB
_MAX_NAME = 500  # characters
_MAX_AXES = 32
_MAX_VALUES = 2**40
_METADATA = "__metadata__"


def write(path: str | pathlib.Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> int:
    """Writes tensors one after another; the file appears under its name when it is complete.

    Args:
      path: of the file; replaced if it exists (whoever has mapped the old one keeps it).
      tensors: name -> anything with `shape` and `dtype` that `np.asarray` takes, such as arrays on a device. Each is
        brought to the host only while it is written.
      metadata: strings to keep in the header.

    Returns:
      Size of the file in bytes.

    Raises:
      ValueError: a dtype that the format lacks, or a tensor whose values are not of the shape and dtype it declared.
    """
    path = pathlib.Path(path)
    header: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        dtype = np.dtype(tensor.dtype)
        if dtype not in _NAMES or name == _METADATA:
            raise ValueError(f"{path}: tensor {name}: expected a dtype of {sorted(_DTYPES)}, found {dtype}")
        end = offset + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(map(int, tensor.shape)), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        with open(unfinished, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, tensor in tensors.items():
                file.write(_bytes_of(tensor, f"{path}: tensor {name}"))
            size = file.tell()
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return size


def _bytes_of(tensor: Any, where: str) -> memoryview:
    array = np.ascontiguousarray(np.asarray(tensor))
    if array.dtype != np.dtype(tensor.dtype) or array.size != math.prod(tensor.shape):
        declared, found = f"{tensor.dtype} {tuple(tensor.shape)}", f"{array.dtype} {array.shape}"
        raise ValueError(f"{where}: declared {declared}, found {found}")
    return array.reshape(-1).view(np.uint8).data  # bfloat16 itself has no buffer interface


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """All tensors of a file as read-only views of the mapped file: pages are read when values are used.

    Nothing in the file is executed, and no size in it is trusted before it is checked against the file's.

    Raises:
      ValueError: not such a file, truncated, overlapping or out-of-range tensors, an unknown dtype; the message names
        the file and the tensor.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        found = "something else" if os.path.lexists(path) else "no such file"  # a folder, a pipe, a link to nothing
        raise ValueError(f"{path}: expected a safetensors file, found {found}")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise ValueError(
                f"{path}: not a safetensors file: its first 8 bytes announce a header of {length} bytes, "
                f"the file has {size} bytes (and a header at most {_MAX_HEADER})"
            )
        header = _parse_header(path, file.read(length))
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start, tensors, end = 8 + length, {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        dtype, shape, (begin, stop) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        num_bytes = math.prod(shape) * dtype.itemsize
        if begin != end or stop - begin != num_bytes or start + stop > size:
            raise ValueError(
                f"{path}: tensor {name} of {entry['dtype']}{list(shape)}: expected bytes {end}..{end + num_bytes} of "
                f"the {size - start} there are, found {begin}..{stop}"
            )
        if math.prod(size for size in shape if size) > _MAX_VALUES:  # [0, 10**12] is empty, but no array has this shape
            raise ValueError(f"{path}: tensor {name}: expected at most {_MAX_VALUES} values, found shape {list(shape)}")
        values = np.frombuffer(data, np.uint8, num_bytes, offset=start + begin) if num_bytes else np.empty(0, np.uint8)
        tensors[name] = values.view(dtype).reshape(shape)
        end = stop
    if start + end != size:
        raise ValueError(f"{path}: expected {end} bytes of tensors, found {size - start}")
    return {name: tensors[name] for name in header}


def _parse_header(path: pathlib.Path, text: bytes) -> dict[str, dict[str, Any]]:
    try:
        header = json.loads(text, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"{path}: not a safetensors file: its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: expected a header that maps names to tensors, found {type(header).__name__}")
    header.pop(_METADATA, None)
    for name, entry in header.items():
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise ValueError(
                f"{path}: expected names of tensors of 1..{_MAX_NAME} printable characters, found {shown(name)}"
            )
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{path}: tensor {name}: expected dtype, shape and data_offsets, found {shown(entry)}")
        if not isinstance(entry["dtype"], str) or entry["dtype"] not in _DTYPES:
            raise ValueError(
                f"{path}: tensor {name}: expected a dtype of {sorted(_DTYPES)}, found {shown(entry['dtype'])}"
            )
        for key in ("shape", "data_offsets"):
            numbers = entry[key]
            most = 2 if key == "data_offsets" else _MAX_AXES
            is_list = isinstance(numbers, list) and len(numbers) <= most
            is_list = is_list and all(type(n) is int and 0 <= n < 2**62 for n in numbers)
            if not is_list or (key == "data_offsets" and len(numbers) != 2):
                raise ValueError(f"{path}: tensor {name}: expected {key} of whole numbers >= 0, found {shown(numbers)}")
    return header
