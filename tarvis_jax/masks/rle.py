"""Run-length encoded masks (COCO), with the checks that pycocotools does not make.

An encoded mask here is always `{"size": [height, width], "counts": text}`: compressed, column-major, first run zeros,
and ready for JSON.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

Rle = dict[str, Any]  # {"size": [height, width], "counts": str}
_MANY_RUNS = 10_000  # from here on it is faster to decode a mask than to go through its runs
_CORRUPT = "{}: corrupt RLE (empty, cut off, or with characters that no RLE has)"
_TOO_LONG = "{}: corrupt RLE (a run longer than 30 bits)"  # of which pycocotools would read another number
_FEW_CHARS = 120  # up to here it is faster to go through compressed counts in Python than to start NumPy's loops


def encode(mask: np.ndarray) -> Rle:
    """A mask [H, W] (nonzero = inside) as RLE."""
    if mask.ndim != 2:
        raise ValueError(f"mask to encode: expected shape [H, W], found {mask.shape}")
    return _with_text(coco_mask.encode(np.asfortranarray(mask != 0, dtype=np.uint8)))


def encode_labels(labels: np.ndarray) -> dict[int, Rle]:
    """Every label of a map, unsigned int [H, W], as RLE: label -> its pixels. One pass over the map serves them all."""
    height, width = labels.shape
    columns = labels.T.reshape(-1)
    starts = np.concatenate(([0], np.flatnonzero(columns[1:] != columns[:-1]) + 1))
    # By label, then by place: sorting one number for both takes a tenth of the time of a stable argsort.
    order = np.sort(columns[starts].astype(np.int64) * len(starts) + np.arange(len(starts))) % len(starts)
    # The boundaries of a label are where its runs start and where they end; those of each label follow one another.
    boundaries = np.stack([starts, np.append(starts[1:], height * width)], axis=1)[order].reshape(-1)
    found, counts = np.unique(columns[starts], return_counts=True)
    return dict(zip(found.tolist(), encode_boundaries(boundaries, 2 * counts, (height, width)), strict=True))


def encode_boundaries(boundaries: np.ndarray, counts: np.ndarray, size: tuple[int, int]) -> list[Rle]:
    """Many masks of one size as RLEs, given where each of them begins and ends.

    Args:
      boundaries: int [B], those of the first mask, then those of the second, ...: in rising order, the column-major
        numbers (x * H + y) of the pixels that differ from the pixel before, where before the first is outside. The
        number of pixels may be the last one of a mask: its end.
      counts: int [N], how many boundaries each mask has; a mask without any is empty.
      size: (H, W) of the masks in pixels.
    """
    if not len(counts):
        return []
    pixels = size[0] * size[1]
    owner = np.repeat(np.arange(len(counts)), counts)
    inside = boundaries < pixels
    boundaries, owner = boundaries[inside], owner[inside]
    # A mask of n boundaries has n + 1 runs, and each ends at a boundary or with the mask.
    num_runs = np.bincount(owner, minlength=len(counts)) + 1
    stops = np.cumsum(num_runs)
    ends = np.empty(len(boundaries) + len(counts), np.int64)
    ends[np.arange(len(boundaries)) + owner] = boundaries
    ends[stops - 1] = pixels
    runs = np.diff(ends, prepend=0)
    runs[(stops - num_runs)[1:]] = ends[(stops - num_runs)[1:]]
    return [{"size": [int(size[0]), int(size[1])], "counts": text} for text in _texts(runs, num_runs)]


def _texts(runs: np.ndarray, num_runs: np.ndarray) -> list[str]:
    """Compressed counts (see `run_lengths`) of several masks, whose runs follow one another."""
    stops = np.cumsum(num_runs)
    place = np.arange(len(runs)) - np.repeat(stops - num_runs, num_runs)
    values = runs.copy()
    later = np.flatnonzero(place > 2)
    values[later] -= runs[later - 2]
    # A group of five bits must follow as long as the sign of what is written is not that of the number.
    rest = np.where(values < 0, ~values, values) >> 4
    num_groups = np.ones(len(values), np.int64)
    while rest.any():
        num_groups += rest > 0
        rest >>= 5
    ends = np.cumsum(num_groups)
    chars = np.empty(ends[-1], np.uint8)
    starts, level = ends - num_groups, 0
    while len(values):
        has_more = num_groups > level + 1
        chars[starts + level] = 48 + (values & 31) + 32 * has_more
        values, starts, num_groups = values[has_more] >> 5, starts[has_more], num_groups[has_more]
        level += 1
    text = chars.tobytes().decode("ascii")
    limits = [0, *ends[stops - 1].tolist()]
    return [text[start:stop] for start, stop in zip(limits[:-1], limits[1:], strict=True)]


def decode(rle: Rle) -> np.ndarray:
    """An RLE as a bool mask [H, W]."""
    return coco_mask.decode(rle).astype(bool)


def paint(pixels: np.ndarray, rle: Rle, value: int) -> int:
    """Sets the pixels of a mask to `value`, which takes less time than to decode it; returns how many they are.

    Args:
      pixels: the whole image column by column, [W * H].
    """
    ends = np.cumsum(run_lengths(rle["counts"], "mask"))
    stops = ends[1::2]
    starts = ends[::2][: len(stops)]
    lengths = stops - starts
    if len(stops) > _MANY_RUNS:
        pixels[coco_mask.decode(rle).T.reshape(-1) != 0] = value
    elif len(stops):
        # Slices of a memoryview are assigned in half the time of an array's.
        view, values = memoryview(pixels), memoryview(np.full(lengths.max(), value, pixels.dtype))
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            view[start:stop] = values[: stop - start]
    return int(lengths.sum())


def area(rle: Rle) -> int:
    """Number of pixels inside."""
    return int(coco_mask.area(rle))


def union(parts: Sequence[Rle]) -> Rle:
    """The pixels of at least one of some RLEs of one size."""
    return parts[0] if len(parts) == 1 else _with_text(coco_mask.merge(list(parts)))


def box(rle: Rle) -> np.ndarray:
    """int64 [4]: top, left, bottom, right of the pixels inside, the last two exclusive; zeros for an empty mask."""
    left, top, width, height = coco_mask.toBbox(rle)
    return np.array([top, left, top + height, left + width]).astype(np.int64)


def run_lengths(counts: bytes | str, where: str) -> np.ndarray:
    """The runs of a compressed RLE as int64, without decoding it.

    Each number is written in groups of five bits, lowest first, one printable character (48 + group + 32 if more
    follow) each; from the fourth run on it is the difference to the run two places before.
    """
    # What is no ASCII becomes a byte below 48, which is none of an RLE.
    raw = counts.encode("ascii", "xmlcharrefreplace") if isinstance(counts, str) else counts
    return _few_run_lengths(raw, where) if len(raw) <= _FEW_CHARS else _many_run_lengths(raw, where)


def _few_run_lengths(raw: bytes, where: str) -> np.ndarray:
    """`run_lengths` of short texts, such as those of small images, in a third of the time."""
    runs: list[int] = []
    value = shift = 0
    for char in raw:
        if not 48 <= char < 112:
            raise ValueError(_CORRUPT.format(where))
        char -= 48
        value |= (char & 31) << shift
        shift += 5
        if char & 32:
            continue
        if shift > 30:
            raise ValueError(_TOO_LONG.format(where))
        if char & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift or not runs:
        raise ValueError(_CORRUPT.format(where))
    return np.array(runs, np.int64)


def _many_run_lengths(raw: bytes, where: str) -> np.ndarray:
    """`run_lengths` of long texts."""
    chars = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if chars.min() < 0 or chars.max() > 63 or chars[-1] & 32:
        raise ValueError(_CORRUPT.format(where))
    last = (chars & 32) == 0
    starts = np.concatenate(([0], np.flatnonzero(last)[:-1] + 1))
    place = np.arange(chars.size) - np.repeat(starts, np.diff(np.append(starts, chars.size)))
    if place.max() > 5:
        raise ValueError(_TOO_LONG.format(where))
    values = np.add.reduceat((chars & 31) << (5 * place), starts)
    ends = np.flatnonzero(last)
    negative = (chars[ends] & 16) != 0
    values -= np.where(negative, np.int64(1) << (5 * (place[ends] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def to_rle(segmentation: Any, height: int, width: int, where: str) -> Rle:
    """What annotation files hold for a mask, as a checked RLE of the image's size.

    Args:
      segmentation: compressed counts (text); runs (list or array of ints); polygons (list of lists x0, y0, x1, y1,
        ...); or {"size": [height, width], "counts": text or runs}.
      height, width: of the image, in pixels.
      where: file and place in it, for errors.
    Raises:
      ValueError: another size than the image's, runs that do not add up to it, polygons with fewer than 3 points or
        numbers that are not finite, or another type.
    """
    counts = segmentation
    if isinstance(segmentation, dict):
        if "counts" not in segmentation:
            raise ValueError(f"{where}: RLE without key 'counts'")
        counts = segmentation["counts"]
        size = segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise ValueError(
                f"{where}: RLE has size {size!r:.80}, but the image is [height, width] = {[height, width]}"
            )
    if isinstance(counts, list) and counts and all(isinstance(polygon, list) for polygon in counts):
        for polygon in counts:
            _check_polygon(polygon, height, width, where)
        return _with_text(coco_mask.merge(coco_mask.frPyObjects(counts, height, width)))
    if isinstance(counts, list) and counts and all(isinstance(run, int) for run in counts):
        if max(map(abs, counts)) > 2**31:
            raise ValueError(
                f"{where}: a run of the RLE is {max(counts, key=abs)}, the image has {height * width} pixels"
            )
        counts = np.asarray(counts, np.int64)
    if isinstance(counts, np.ndarray):
        runs = counts
        result = None
    elif isinstance(counts, (str, bytes)):
        runs = run_lengths(counts, where)
        result = {"size": [height, width], "counts": counts if isinstance(counts, str) else counts.decode("ascii")}
    else:
        raise ValueError(f"{where}: expected an RLE or polygons, found {type(counts).__name__} {counts!r:.80}")
    if runs.min() < 0:
        raise ValueError(f"{where}: a run of the RLE is {int(runs.min())}, expected at least 0")
    if runs.sum() != height * width:
        raise ValueError(
            f"{where}: the runs of the RLE add up to {int(runs.sum())} pixels, but the image has "
            f"{height} x {width} = {height * width}"
        )
    if result is None:
        result = coco_mask.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width)
        result = _with_text(result)
    return result


def _check_polygon(polygon: list, height: int, width: int, where: str) -> None:
    """Raises ValueError for what no polygon is, and for one that takes more work than its image is worth."""
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(
            f"{where}: a polygon needs an even number of coordinates, at least 6 (3 points), found {len(polygon)}"
        )
    if not all(type(value) in (int, float) and abs(value) < 1e9 for value in polygon):  # NaN is not below 1e9
        wrong = next(value for value in polygon if not (type(value) in (int, float) and abs(value) < 1e9))
        raise ValueError(f"{where}: expected finite numbers of pixels as coordinates of a polygon, found {wrong!r:.80}")
    points = np.asarray(polygon, np.float64).reshape(-1, 2)
    outline = np.abs(points - np.roll(points, 1, axis=0)).max(1).sum()
    longest = 4 * height * width + 1000
    if outline > longest:
        raise ValueError(
            f"{where}: the outline of the polygon is {outline:.0f} pixels long, expected at most {longest} in an image "
            f"of {height} x {width}"
        )


def _with_text(encoded: Rle) -> Rle:
    """pycocotools' RLE, whose counts are bytes, as ours."""
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}
