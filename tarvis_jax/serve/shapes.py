"""CVAT's shapes: the numbers that an object is given in and handed out in.

A mask is [run, run, ..., left, top, right, bottom]: lengths of runs, row by row inside of the box, the first one
outside of the object; the box includes `right` and `bottom`. A polygon is [x, y, x, y, ...].
"""

import re
from typing import Any

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.formats.cvat_video import box_runs, outline

MASK, POLYGON = "mask", "polygon"
TYPES = (MASK, POLYGON)
_MAX_CORNERS = 10_000


def to_mask(kind: str, points: Any, size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of a shape.

    Args:
      kind: one of TYPES.
      points: its numbers; not trusted.
      size: (height, width) of the image.
      where: for errors.

    Returns:
      bool [H, W].

    Raises:
      ValueError: another kind, or numbers that are no shape of this image.
    """
    if kind not in TYPES:
        raise ValueError(f"{where}: expected a shape of type {' or '.join(TYPES)}, found {kind!r:.40}")
    height, width = size
    most = height * width + 5 if kind == MASK else 2 * _MAX_CORNERS
    if not isinstance(points, list) or len(points) > most:
        found = f"{len(points)} numbers" if isinstance(points, list) else type(points).__name__
        raise ValueError(f"{where}: expected a list of at most {most} numbers, found {found}")
    if kind == POLYGON:
        return rle.decode(rle.to_rle([points], height, width, where))
    if not all(type(value) in (int, float) and abs(value) < 2**31 and value == int(value) for value in points):
        raise ValueError(f"{where}: expected whole numbers in a mask, found others")
    *runs, left, top, right, bottom = [int(value) for value in points] if len(points) > 4 else [-1] * 5
    if not (0 <= left <= right < width and 0 <= top <= bottom < height):
        raise ValueError(
            f"{where}: expected runs and a box left, top, right, bottom inside of the image of {width}x{height} "
            f"pixels (width x height), found {points[-4:]!r:.80}"
        )
    area = (right - left + 1) * (bottom - top + 1)
    if min(runs) < 0 or sum(runs) != area:
        raise ValueError(f"{where}: the runs of the mask add up to {sum(runs)}, its box has {area} pixels")
    mask = np.zeros(size, bool)
    inside = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask[top : bottom + 1, left : right + 1] = inside.reshape(bottom - top + 1, right - left + 1)
    return mask


def from_mask(kind: str, mask: np.ndarray) -> list[float]:
    """The numbers of a shape; `mask` is bool [H, W] with a pixel. A polygon is the outline of its largest part."""
    if kind == POLYGON:
        return [float(value) for value in re.split("[,;]", outline(mask))]
    (left, top, width, height), runs = box_runs(mask)
    return [*map(int, runs.split(",")), left, top, left + width - 1, top + height - 1]
