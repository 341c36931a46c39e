"""PNGs whose pixels are numbers: ids, classes and colors that stand for ids. They may come from anyone."""

import pathlib
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

_MAX_PIXELS = 2**26
_PLACE_OF_DEPTH = 24  # in the file: bits of each color
# What Pillow raises for files that are broken or no PNG.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def save_png(path: pathlib.Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Writes uint8 [H, W] (gray, or indices of a palette), uint16 [H, W] or uint8 [H, W, 3] (RGB)."""
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", compress_level=1 if pixels.size > 2**20 else 6)


def read_png(path: pathlib.Path, kinds: tuple[str, ...]) -> np.ndarray:
    """The pixels of a PNG as they are stored: indices of a palette, gray values, or colors of 8 bits.

    Args:
      kinds: Pillow's modes that are expected ("P", "L", "I;16", "RGB", "RGBA").
    Raises:
      ValueError: no such PNG; names the file.
    """
    try:
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as image:
            size, mode = (image.height, image.width), image.mode
            file.seek(_PLACE_OF_DEPTH)
            if mode.startswith("RGB") and file.read(1) != b"\x08":  # Pillow would leave out the lower bits
                mode = f"{mode} of 16 bits"
            # The size comes before the pixels are read, so that no more memory is used than a frame is worth.
            is_expected = mode in kinds or (mode == "I" and "I;16" in kinds)
            pixels = np.asarray(image) if is_expected and size[0] * size[1] <= _MAX_PIXELS else None
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not a PNG that can be read ({error})") from error
    if not is_expected:
        raise ValueError(f"{path}: expected a PNG of kind {' or '.join(kinds)}, found {mode}")
    if pixels is None:
        raise ValueError(f"{path}: expected at most {_MAX_PIXELS} pixels, found {size[0]} x {size[1]}")
    return pixels


def frame_stack(paths: list[pathlib.Path], kinds: tuple[str, ...]) -> Iterator[np.ndarray]:
    """The frames of a video one by one; ValueError unless all have the size of the first."""
    size = None
    for path in paths:
        pixels = read_png(path, kinds)
        size = size or pixels.shape
        if pixels.shape != size:
            raise ValueError(f"{path}: expected {size[0]} x {size[1]} pixels as before, found {pixels.shape[:2]}")
        yield pixels
