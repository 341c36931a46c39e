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
      maps: uint8 [L, T, H, W], or uint16 for more than 255 targets.
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
        numbers = np.arange(1, self.count + 1).reshape(-1, 1, 1, 1)
        return np.logical_or.reduce([layer == numbers for layer in self.maps])

    def of_frame(self, frame: int) -> np.ndarray:
        """bool [N, H, W]."""
        return IdLayers(self.maps[:, frame : frame + 1], self.count).to_bool()[:, 0]

    def union(self, frames: slice = slice(None)) -> np.ndarray:
        """bool [H, W]: pixels of any target in any of the frames."""
        return np.bitwise_or.reduce(self.maps[:, frames], axis=(0, 1)) != 0

    def areas(self) -> np.ndarray:
        """int64 [N, T]: pixels of each target in each frame."""
        planes = self.maps.reshape(-1, *self.maps.shape[-2:]) if self.maps.size else self.maps[:0, 0]
        counts = np.array([_histogram(plane, self.count + 1) for plane in planes]).reshape(*self.maps.shape[:2], -1)
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
        return IdLayers(self.maps[..., ::-1], self.count)

    def crop(self, rows: slice, columns: slice) -> "IdLayers":
        return IdLayers(self.maps[..., rows, columns], self.count)

    def resize(self, size: tuple[int, int]) -> "IdLayers":
        """A pixel is of the target whose mask, bilinearly interpolated, is above 0.5 there."""
        planes = [[_resize_ids(plane, size) for plane in layer] for layer in self.maps]
        return IdLayers(np.stack([np.stack(layer) for layer in planes]), self.count)


def resize_classes(classes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A class map uint8 [H, W] at another size, by the nearest pixel (OpenCV's INTER_NEAREST)."""
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (1 / (new / old))).astype(np.intp), old - 1)
        for new, old in zip(size, classes.shape, strict=True)
    )
    return _take(classes, rows, columns)


def _dtype(count: int) -> type[np.unsignedinteger]:
    return np.uint8 if count < 256 else np.uint16


def _histogram(plane: np.ndarray, size: int) -> np.ndarray:
    """How often each of 0..size - 1 occurs in a map."""
    plane = plane if plane.flags.c_contiguous else np.ascontiguousarray(plane.T)
    return cv2.calcHist([plane], [0], None, [size], [0, size]).ravel().astype(np.int64)


def _take(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """plane[rows][:, columns], whole rows or columns of memory at a time."""
    if abs(plane.strides[0]) < abs(plane.strides[1]):
        return cv2.transpose(plane.T[columns])[rows]
    return cv2.transpose(cv2.transpose(plane[rows])[columns])


def _neighbors(new: int, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of `new` pixels the two of `old` pixels around it, int [new], and the share of the second, float32."""
    place = (np.arange(new) + 0.5) * (old / new) - 0.5
    place = np.clip(place, 0, old - 1)
    first = np.floor(place).astype(np.intp)
    return first, np.minimum(first + 1, old - 1), (place - first).astype(np.float32)


def _resize_ids(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if abs(ids.strides[1]) < abs(ids.strides[0]):  # by rows
        return _resize_ids(ids.T, size[::-1]).T
    (top, bottom, below), (left, right, beside) = (
        _neighbors(new, old) for new, old in zip(size, ids.shape, strict=True)
    )
    sides = [cv2.transpose(ids.T[columns]) for columns in (left, right)]
    corners = [side[rows] for rows in (top, bottom) for side in sides]
    result = corners[0].copy()
    differ = result != corners[1]
    for corner in corners[2:]:
        differ |= result != corner
    places = np.flatnonzero(differ)  # few: elsewhere all four neighbors agree
    rows, columns = np.divmod(places, size[1])
    y, x = below[rows], beside[columns]
    weights = ((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x)
    values = [corner.reshape(-1)[places] for corner in corners]
    winner = np.zeros(len(places), ids.dtype)
    for value in values:
        share = sum(np.where(other == value, weight, 0) for other, weight in zip(values, weights, strict=True))
        winner = np.where(share > 0.5, value, winner)
    result.reshape(-1)[places] = winner
    return result
