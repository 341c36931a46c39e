"""Readers of the JSON and PNG files that benchmarks are made of. The files may come from anyone."""

import io
import json
import math
import pathlib
import struct
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from tarvis_jax.fields import shown

_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_GRAY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6  # color types of the PNG standard
_COLOR_NAMES = {_GRAY: "gray", _RGB: "RGB", _PALETTE: "palette", 4: "gray with alpha", _RGBA: "RGB with alpha"}
_KINDS = {int: "an integer", float: "a finite number", str: "a text", list: "a list", dict: "an object"}


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file.

    Raises:
      ValueError: it is absent, no JSON, has a number that is not finite or an object with a name twice; names the file.
    """
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_unique_names, parse_constant=_refuse_constant)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"{path}: is not valid JSON ({error})") from None


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """`record[name]`, which should be a `kind` (float: any finite number). ValueError naming `where` if it is not."""
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with {name!r}, found {shown(record)}")
    if name not in record:
        raise ValueError(f"{where}: has no {name!r}")
    value = record[name]
    kinds = (int, float) if kind is float else kind
    if not isinstance(value, kinds) or isinstance(value, bool) or (kind is float and not math.isfinite(value)):
        raise ValueError(f"{where}: {name!r} should be {_KINDS[kind]}, found {shown(value)}")
    return value


def file_name(record: Any, name: str, where: str) -> str:
    """`record[name]` as the name of a file or folder inside another: it may not lead elsewhere."""
    value = field(record, name, str, where)
    if value in ("", ".", "..") or any(character in value for character in "/\\\0"):
        raise ValueError(f"{where}: {name!r} should be a file name without folders, found {shown(value)}")
    return value


def folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name; hidden ones are left out. ValueError if there is none."""
    found = [each for each in _listed(path) if each.is_dir()]
    if not found:
        raise ValueError(f"{path}: expected one folder per video, found none")
    return found


def png_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The PNG files in a folder, by name; hidden ones are left out. ValueError if there is none."""
    found = [each for each in _listed(path) if each.suffix == ".png"]
    if not found:
        raise ValueError(f"{path}: expected one PNG file per frame, found none")
    return found


def first_that_exists(candidates: Iterable[pathlib.Path]) -> pathlib.Path:
    """The first of some paths that exists; ValueError naming all of them if none does."""
    candidates = list(candidates)
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(f"{candidates[0]}: is missing" + "".join(f"; neither is there {each}" for each in candidates[1:]))


def read_rgb_values(path: pathlib.Path) -> np.ndarray:
    """R + 256 G + 65536 B of an RGB PNG with 8 bits per color (alpha is not looked at): int32 [H, W].

    Raises:
      ValueError: it is absent, broken, or another kind of file; names the file.
    """
    image = _read_png(path, "RGB with 8 bits per color", lambda bits, color: bits == 8 and color in (_RGB, _RGBA))
    return np.ascontiguousarray(np.asarray(image.convert("RGBA")).view("<i4")[..., 0] & 0xFFFFFF)


def read_class_values(path: pathlib.Path) -> np.ndarray:
    """The values of a gray PNG with 8 bits, or the palette indices of one with a palette: uint8 [H, W].

    Raises:
      ValueError: it is absent, broken, or another kind of file; names the file.
    """
    image = _read_png(
        path, "gray with 8 bits, or palette", lambda bits, color: color == _PALETTE or (bits == 8 and color == _GRAY)
    )
    return np.asarray(image)


def _listed(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a folder ({error.strerror})") from None


def _read_png(path: pathlib.Path, expected: str, is_expected) -> Image.Image:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    if not content.startswith(_PNG_START) or len(content) < 33:
        raise ValueError(f"{path}: is not a PNG file")
    bits, color = content[24:26]
    if not is_expected(bits, color):
        name = _COLOR_NAMES.get(color, f"color type {color}")
        raise ValueError(f"{path}: expected a PNG file of kind {expected}; found {name} with {bits} bits")
    if _PNG_END not in content[-1024:]:
        raise ValueError(f"{path}: the PNG file is cut off")
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        image.load()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"{path}: the PNG file is broken ({error})") from None
    return image


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)} occurs twice in one object")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, found {name}")
