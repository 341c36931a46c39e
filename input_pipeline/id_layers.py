"""The masks of a clip as layers of id maps: the work on them depends on the size of the clip, not on its targets.

A pixel of a layer holds the number 1..N of its target, or 0. Targets that share a pixel lie in different layers; most
clips have one layer. Maps that were made of run-length encodings, which run down the columns, are laid out in memory by
columns; all functions take either layout.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle


@dataclasses.dataclass(frozen=True)
class IdLayers:
    """N targets in L layers.

    Attributes:
      maps: uint8 [L, T, H, W], or uint16 for more than 254 targets.
      count: N.
    """

    maps: np.ndarray
    count: int

    @classmethod
    def of_masks(cls, masks: np.ndarray) -> "IdLayers":
        """Of bool [N, T, H, W]."""
        layers = [np.zeros(masks.shape[1:], _dtype(len(masks)))]
        for n, mask in enumerate(masks):
            free = next((layer for layer in layers if not layer[mask].any()), None)
            if free is None:
                layers.append(free := np.zeros_like(layers[0]))
            free[mask] = n + 1
        return cls(np.stack(layers), len(masks))

    @classmethod
    def of_id_maps(cls, id_maps: Sequence[np.ndarray], ids: Sequence[int]) -> "IdLayers":
        """Of the targets `ids`, in their order, in maps of ids int32 [H, W], one a frame."""
        table = np.zeros(max(*(int(each.max()) for each in id_maps), *ids) + 1, _dtype(len(ids)))
        table[list(ids)] = np.arange(1, len(ids) + 1)
        return cls(np.stack([table[each] for each in id_maps])[None], len(ids))

    @classmethod
    def of_segments(cls, video: VideoRecord, frames: Sequence[int], instances: Sequence[int]) -> "IdLayers":
        """Of `instances` of a video whose masks are run-length encodings, in their order, in some of its frames."""
        dtype, size = _dtype(len(instances)), (video.width, video.height)  # by columns
        segments = [[video.segmentations[t].get(instance) for instance in instances] for t in frames]
        layer, painted = np.zeros((len(frames), *size), dtype), 0
        for plane, of_frame in zip(layer, segments, strict=True):
            for n, segment in enumerate(of_frame):
                painted += rle.paint(plane.reshape(-1), segment, n + 1) if segment else 0
        layers = [layer]
        if np.count_nonzero(layer) < painted:  # some share a pixel: each goes into the first layer where it is alone
            layers = [np.zeros_like(layer)]
            mask = np.zeros(size, dtype)
            for t, of_frame in enumerate(segments):
                for n, segment in enumerate(of_frame):
                    if segment is None:
                        continue
                    mask[:] = 0
                    rle.paint(mask.reshape(-1), segment, 1)
                    free = next((layer for layer in layers if not (layer[t] * mask).any()), None)
                    if free is None:
                        layers.append(free := np.zeros_like(layer))
                    free[t] += mask * dtype(n + 1)
        return cls(np.stack(layers).swapaxes(2, 3), len(instances))

    def to_bool(self) -> np.ndarray:
        """bool [N, T, H, W]."""
        numbers = np.arange(1, self.count + 1, dtype=self.maps.dtype).reshape(-1, 1, 1, 1)
        masks = self.maps[0] == numbers
        for layer in self.maps[1:]:
            masks |= layer == numbers
        return masks

    def of_frame(self, frame: int) -> np.ndarray:
        """bool [N, H, W]."""
        return IdLayers(self.maps[:, frame : frame + 1], self.count).to_bool()[:, 0]

    def union(self, frames: slice = slice(None)) -> np.ndarray:
        """bool [H, W]: pixels of any target in any of the frames."""
        return np.bitwise_or.reduce(self.maps[:, frames], axis=(0, 1)) != 0

    def areas(self, frames: slice = slice(None)) -> np.ndarray:
        """int64 [N, T]: pixels of each target in each of the frames."""
        maps = self.maps[:, frames]
        planes = maps.reshape(-1, *maps.shape[-2:]) if maps.size else maps[:0, 0]
        counts = np.array([_histogram(plane, self.count + 1) for plane in planes]).reshape(*maps.shape[:2], -1)
        return counts.sum(0)[:, 1:].T

    def select(self, targets: np.ndarray) -> "IdLayers":
        """The targets of these indices (int [M], ascending) alone, numbered anew."""
        if len(targets) == self.count:
            return self
        table = np.zeros(self.count + 1, self.maps.dtype)
        table[targets + 1] = np.arange(1, len(targets) + 1)
        return IdLayers(table[self.maps], len(targets))

    def flip(self) -> "IdLayers":
        """Mirrored left and right."""
        maps = mirrored(self.maps.reshape(-1, *self.maps.shape[2:]))
        return IdLayers(maps.reshape(self.maps.shape), self.count)

    def crop(self, rows: slice, columns: slice) -> "IdLayers":
        return IdLayers(self.maps[..., rows, columns], self.count)

    def resize(self, size: tuple[int, int]) -> "IdLayers":
        """A pixel is of the target whose mask, bilinearly interpolated, is above 0.5 there."""
        planes = self.maps.reshape(-1, *self.maps.shape[2:])
        result = np.zeros((len(planes), *size), planes.dtype)
        box = _box(planes)
        if box is not None:
            axes = [_neighbors(new, old, *ends) for new, old, ends in zip(size, planes.shape[1:], box, strict=True)]
            (source_rows, rows, *y), (source_columns, columns, *x) = axes
            if result[:, rows, columns].size:  # otherwise targets are too small to be seen at this size
                result[:, rows, columns] = _resize_ids(planes[:, source_rows, source_columns], y, x)
        return IdLayers(result.reshape(*self.maps.shape[:2], *size), self.count)


def mirrored(planes: np.ndarray) -> np.ndarray:
    """Maps [P, H, W] with left and right exchanged.

    A view where they lie by columns. By rows, a view would take ten times as long to copy as the maps themselves.
    """
    if abs(planes.strides[1]) < abs(planes.strides[2]):
        return planes[..., ::-1]
    return np.stack([cv2.flip(plane, 1) for plane in planes])


def resize_classes(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A class map uint8 [H, W] at another size, by the nearest pixel (OpenCV's INTER_NEAREST)."""
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.intp), old - 1)
        for new, old in zip(size, classes.shape, strict=True)
    )
    result = np.empty(size, classes.dtype)
    _take(classes, rows, columns, result)
    return result


def _dtype(count: int) -> type[np.unsignedinteger]:
    return np.uint8 if count < 255 else np.uint16  # the largest number stays free, for `_resize_ids`


def _histogram(plane: np.ndarray, size: int) -> np.ndarray:
    """How often each of 0..size - 1 occurs in a map."""
    plane = plane if plane.flags.c_contiguous else np.ascontiguousarray(plane.T)
    return cv2.calcHist([plane], [0], None, [size], [0, size]).ravel().astype(np.int64)


def _take(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """out[:] = plane[rows][:, columns], whole rows or columns of memory at a time."""
    if abs(plane.strides[0]) < abs(plane.strides[1]):
        np.take(cv2.transpose(plane.T[columns]), rows, axis=0, out=out, mode="clip")
    else:
        cv2.transpose(cv2.transpose(plane[rows])[columns], dst=out)


def _box(planes: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """(first, last + 1) row and column of all maps [P, H, W] that has a target; None where none has."""
    occupied = np.bitwise_or.reduce(planes) != 0
    rows, columns = np.flatnonzero(occupied.any(1)), np.flatnonzero(occupied.any(0))
    if not rows.size:
        return None
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _neighbors(new: int, old: int, start: int, stop: int) -> tuple[slice, slice, np.ndarray, np.ndarray]:
    """What one axis of a map needs to get `new` pixels of `old`, of which only [start, stop) are of a target.

    Returns:
      the old pixels that matter, the new ones that depend on targets, and for each of these the first of the two old
      ones around it, int, counted from the first that matters, and the share of the second, float32.
    """
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    place = np.clip(place, 0, old - 1)
    first = np.floor(place).astype(np.intp)
    source = slice(max(0, start - 1), min(old, stop + 1))
    inside = slice(*np.searchsorted(first, (source.start, source.stop)).tolist())
    return source, inside, first[inside] - source.start, (place - first)[inside].astype(np.float32)


def _resize_ids(planes: np.ndarray, vertical: Sequence[np.ndarray], horizontal: Sequence[np.ndarray]) -> np.ndarray:
    """Maps [P, H, W] at another size, by rows; see `IdLayers.resize` and `_neighbors`."""
    (top, below), (left, beside) = vertical, horizontal
    mark = planes.dtype.type(np.iinfo(planes.dtype).max)
    result = np.empty((len(planes), len(top), len(left)), planes.dtype)
    for plane, resized in zip(_marked(planes, mark), result, strict=True):
        _take(plane, top, left, resized)
    # The others are few: elsewhere all four neighbors agree.
    places = np.flatnonzero(result == mark)
    plane, place = np.divmod(places, len(top) * len(left))
    rows, columns = np.divmod(place, len(left))
    y, x, rows, columns = below[rows], beside[columns], top[rows], left[columns]
    next_rows, next_columns = (
        np.minimum(first + 1, old - 1) for first, old in zip((rows, columns), planes.shape[1:], strict=True)
    )
    values = np.stack([planes[plane, row, column] for row in (rows, next_rows) for column in (columns, next_columns)])
    weights = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    winner = np.zeros(len(places), planes.dtype)
    for value in values:
        share = np.einsum("ij,ij->j", values == value, weights)
        winner = np.where(share > 0.5, value, winner)
    result.reshape(-1)[places] = winner
    return result


def _marked(planes: np.ndarray, mark: np.unsignedinteger) -> np.ndarray:
    """Maps [P, H, W] with `mark`, all bits set, where a pixel is not the same as the next in its row and those below.

    Pixels of the last row and column may be marked without need.
    """
    by_columns = abs(planes.strides[1]) < abs(planes.strides[2])
    lines = np.ascontiguousarray(planes.swapaxes(1, 2) if by_columns else planes)
    pixels, length = lines.reshape(-1), lines.shape[2]
    along, across = pixels[1:] != pixels[:-1], pixels[length:] != pixels[:-length]  # also past the end of a line
    differ = np.zeros(pixels.shape, planes.dtype)
    differ[:-1] = along
    differ[:-length] |= across
    differ[: -length - 1] |= along[length:]
    marked = (pixels | differ * mark).reshape(lines.shape)
    return marked.swapaxes(1, 2) if by_columns else marked
