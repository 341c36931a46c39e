"""Cutting a video in overlapping clips, and the geometry of a clip: original, resized and padded size."""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import cv2
import numpy as np

from tarvis_jax.frame_size import resized_size
from tarvis_jax.inference.config import check_schedule

PAD_VALUE = 128  # what the reference pads images with, on the right and at the bottom


@dataclasses.dataclass(frozen=True)
class Clip:
    """Consecutive frames of a video.

    Attributes:
      first: number of the first one.
      frames: as the caller prepared them.
      length: frames of a clip that is not the last.
      overlap: frames that it shares with the clip before, unless it is the first.
      is_last: whether the video ends here.
    """

    first: int
    frames: list[np.ndarray]
    length: int
    overlap: int
    is_last: bool

    @property
    def end(self) -> int:
        return self.first + len(self.frames)

    def next_first(self, cuts: Collection[int] = ()) -> int:
        """First frame of the clip after; for the last one, the end of the video. No later clip covers those before.

        Args:
          cuts: frames at which a clip begins, whatever the schedule says.
        """
        regular = self.end if self.is_last else self.first + self.length - self.overlap
        return min((cut for cut in cuts if self.first < cut < regular), default=regular)


def iterate_clips(
    frames: Iterable[np.ndarray],
    length: int,
    overlap: int,
    first_frame: int = 0,
    cuts: Callable[[], Collection[int]] = tuple,
    start: int = 0,
) -> Iterator[Clip]:
    """Yields clips of `length` frames, each sharing `overlap` frames with the one before.

    The first clip starts at `first_frame`; the last one may be shorter, exactly as in the reference: a clip that
    reaches the end of the video is the last. At most `length + 1` frames are held: the end of a stream shows only by
    reading one frame beyond a clip.

    Args:
      frames: of the video, from frame `start` on.
      length, overlap: in frames.
      first_frame: `start` or later.
      cuts: gives frames at which a clip begins, whatever the schedule says: it shares more frames with the one before,
        and those after it follow at the usual distance. It is called when the clip after is asked for.
      start: number of the first of `frames`.

    Raises:
      ValueError: length < 1, overlap not in 0..length-1, or the video ends before `first_frame`.
    """
    check_schedule(length, overlap)
    window: list[np.ndarray] = []
    first = first_frame
    number = start - 1
    for number, frame in enumerate(frames, start):
        if len(window) == length:  # one frame beyond the clip: it is not the last
            clip = Clip(first, list(window), length, overlap, is_last=False)
            yield clip
            first = clip.next_first(cuts())
            del window[: first - clip.first]
        if number >= first_frame:
            window.append(frame)
    if number < first_frame:
        raise ValueError(f"first clip starts at frame {first_frame}, but the video has only {number + 1} frames")
    while window:
        clip = Clip(first, list(window), length, overlap, is_last=True)
        yield clip
        first = clip.next_first(cuts())
        del window[: first - clip.first]


def group_clips(clips: Iterable[Clip], most: int, has_room: Callable[[list[Clip]], bool]) -> Iterator[list[Clip]]:
    """Successive clips that go through the network together: 1, 2, 4, ... of them, as many as there are up to `most`.

    So nothing is computed for clips that are not there, and few sizes of batches are compiled for. A last clip that is
    shorter than the others goes alone.

    Args:
      clips: of `iterate_clips`; at most `most` are read ahead.
      most: at least 1.
      has_room: whether there is memory for these at once, 2 or more; where there is none, half as many are tried.
    """
    waiting: list[Clip] = []
    upcoming = iter(clips)
    while True:
        waiting += itertools.islice(upcoming, max(0, most - len(waiting)))
        if not waiting:
            return
        num_whole = sum(len(clip.frames) == clip.length for clip in waiting[:most])
        size = 1 << max(0, num_whole.bit_length() - 1)
        while size > 1 and not has_room(waiting[:size]):
            size = most = size // 2
        yield waiting[:size]
        del waiting[:size]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes (height, width) in pixels of a frame: as read, as resized for the network, and padded.

    Attributes:
      original: as read.
      resized: as resized for the network.
      padded: as padded for the network, with PAD_VALUE.
      extent: what of the padded frame the network is told of, in multiples of its size_divisor, so that frames of
        several sizes share a program; None: all.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]
    extent: tuple[int, int] | None = None

    def prepare_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> resized (bilinear on uint8, as the reference) and padded uint8 [H', W', 3]."""
        if self.resized != self.original:
            image = cv2.resize(image, self.resized[::-1], interpolation=cv2.INTER_LINEAR)
        return self._pad(image, PAD_VALUE)

    def prepare_mask(self, mask: np.ndarray) -> np.ndarray:
        """bool [H, W] with a pixel -> resized (bilinear, then > 0.5) and padded bool [H', W'].

        Differs from the reference: a mask so thin that resizing would empty it keeps one pixel, at its mean.
        """
        if self.resized != self.original:
            resized = cv2.resize(mask.astype(np.float32), self.resized[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
            if not resized.any():
                center = (np.argwhere(mask).mean(axis=0) + 0.5) / self.original * self.resized
                resized[tuple(center.astype(int))] = True
            mask = resized
        return self._pad(mask, False)

    def normalize_point(self, point_yx: Sequence[float]) -> np.ndarray:
        """Pixel (y, x) of the original frame -> float32 [2], its center over the size of the padded image."""
        scale = np.asarray(self.resized, np.float64) / np.asarray(self.padded, np.float64)
        return ((np.asarray(point_yx, np.float64) + 0.5) / self.original * scale).astype(np.float32)

    def upsampling(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrices [H, H'/4] and [W, W'/4], float32, that take stride-4 logits to the original frame.

        They are the product of the reference's three steps, each of which is linear and works on rows and columns
        separately: bilinear x4, cutting the padding, bilinear to the original size.
        """
        matrices = []
        for original, resized, extent, padded in zip(
            self.original, self.resized, self.extent or self.padded, self.padded, strict=True
        ):
            matrix = _bilinear(resized, original) @ _bilinear(extent // 4, extent)[:resized]
            matrices.append(np.pad(matrix, ((0, 0), (0, (padded - extent) // 4))).astype(np.float32))
        return tuple(matrices)

    def _pad(self, array: np.ndarray, value) -> np.ndarray:
        bottom, right = (p - r for p, r in zip(self.padded, self.resized, strict=True))
        return np.pad(array, ((0, bottom), (0, right)) + ((0, 0),) * (array.ndim - 2), constant_values=value)


def plan_geometry(
    size: tuple[int, int], min_dim: int | None, max_dim: int, size_divisor: int, *, use_table: bool = False
) -> Geometry:
    """Geometry of frames of `size` (height, width).

    Args:
      min_dim: length of the smaller side after resizing, in pixels; None keeps the size.
      max_dim: bound on the larger side after resizing, in pixels (only with min_dim).
      size_divisor: padded sides are multiples of this.
      use_table: pad to a size of `padded_sizes`, instead of the next multiples.
    """
    size = tuple(size)
    resized = resized_size(size, min_dim, max_dim)
    extent = tuple(_round_up(side, size_divisor) for side in resized)
    if not use_table or min_dim is None:
        return Geometry(original=size, resized=resized, padded=extent)
    table = padded_sizes(min_dim, max_dim, size_divisor)
    padded = next(padded for padded in table if all(p >= e for p, e in zip(padded, extent, strict=True)))
    return Geometry(original=size, resized=resized, padded=padded, extent=extent)


def padded_sizes(min_dim: int, max_dim: int, size_divisor: int) -> list[tuple[int, int]]:
    """The table of padded sizes: each (height, width) has its own programs, and every frame fits into one.

    Most videos are 16 to 9 or less wide; the others are as wide as `max_dim` allows. Both lie or stand.

    Args:
      min_dim, max_dim, size_divisor: see `plan_geometry`.

    Returns:
      The sizes, each no larger than those after it.
    """
    short = min(min_dim, max_dim)
    longs = sorted({min(round(short * 16 / 9), max_dim), max_dim})
    sides = [(_round_up(short, size_divisor), _round_up(long, size_divisor)) for long in longs]
    return list(dict.fromkeys(size for short, long in sides for size in ((short, long), (long, short))))


def _round_up(side: int, divisor: int) -> int:
    return -(-side // divisor) * divisor


def _bilinear(size_in: int, size_out: int) -> np.ndarray:
    """Matrix [size_out, size_in] of bilinear interpolation with half-pixel centers and clamped borders."""
    source = np.maximum((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0.0)
    low = np.minimum(np.floor(source).astype(int), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    matrix = np.zeros((size_out, size_in))
    np.add.at(matrix, (np.arange(size_out), low), 1.0 - (source - low))
    np.add.at(matrix, (np.arange(size_out), high), source - low)
    return matrix
