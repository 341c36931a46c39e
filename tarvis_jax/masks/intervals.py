"""Many masks, or whole tracks, as intervals of pixels: compared with each other without decoding one of them.

The pixels of an image [H, W] are numbered column by column, as in COCO's RLE; those of a video frame after frame.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tarvis_jax.masks import rle


@dataclasses.dataclass(frozen=True, eq=False)
class Intervals:
    """The pixels of n masks.

    Attributes:
      starts, stops: int64 [R]: the intervals [start, stop) of the first mask, then those of the second, ...; they are
        not empty, rise within a mask and do not overlap there.
      first: int64 [n + 1]: where the intervals of each mask begin, and R.
    """

    starts: np.ndarray
    stops: np.ndarray
    first: np.ndarray

    def __len__(self) -> int:
        return len(self.first) - 1

    def areas(self) -> np.ndarray:
        """Number of pixels, int64 [n]."""
        return np.diff(np.append(0, np.cumsum(self.stops - self.starts))[self.first])

    def take(self, index: np.ndarray) -> "Intervals":
        """Only the masks of these numbers, in this order."""
        counts = np.diff(self.first)[index]
        first = np.append(0, np.cumsum(counts))
        place = np.arange(first[-1]) + np.repeat(self.first[index] - first[:-1], counts)
        return Intervals(self.starts[place], self.stops[place], first)

    def joined(self, frames: np.ndarray, tracks: np.ndarray, num_tracks: int, num_pixels: int) -> "Intervals":
        """Tracks as one mask each, of all frames of a video.

        Args:
          frames, tracks: int [n]: the frame of each mask and the number of its track; the masks are ordered by track,
            and within a track by frame.
          num_tracks: some of which may have no mask.
          num_pixels: of a frame.
        """
        shift = np.repeat(np.asarray(frames, np.int64) * num_pixels, np.diff(self.first))
        begins = np.searchsorted(tracks, np.arange(num_tracks + 1))
        return Intervals(self.starts + shift, self.stops + shift, self.first[begins])

    def boxes(self, height: int) -> np.ndarray:
        """left, top, width, height of the masks of one image, float64 [n, 4]; zeros where a mask is empty."""
        result = np.zeros((len(self), 4))
        shown = np.flatnonzero(np.diff(self.first))
        if len(shown) == 0:
            return result
        left, top = np.divmod(self.starts, height)
        right, bottom = np.divmod(self.stops - 1, height)
        is_wide = right > left  # from the bottom of a column to the top of the next one
        top, bottom = np.where(is_wide, 0, top), np.where(is_wide, height - 1, bottom)
        begins = self.first[shown]
        low = [np.minimum.reduceat(values, begins) for values in (left, top)]
        high = [np.maximum.reduceat(values, begins) for values in (right, bottom)]
        result[shown] = np.stack([*low, *(b - a + 1 for a, b in zip(low, high, strict=True))], axis=1)
        return result


def intersections(one: Intervals, other: Intervals) -> np.ndarray:
    """Number of pixels that each mask of one and each of the other share, int64 [n, m]."""
    result = np.zeros((len(one), len(other)), np.int64)
    ends = np.stack((one.starts, one.stops), axis=1).astype(np.float64)
    for j in range(len(other)):
        part = slice(other.first[j], other.first[j + 1])
        starts, stops = other.starts[part], other.stops[part]
        if len(starts) == 0:
            continue
        until = np.cumsum(stops - starts)
        # How many pixels of the mask lie before a place rises by 1 within its intervals and by 0 between them.
        places, pixels = (np.stack(each, axis=1).ravel() for each in ((starts, stops), (until - stops + starts, until)))
        covered = np.diff(np.interp(ends, places, pixels), axis=1)
        shared = np.append(0, np.cumsum(covered))
        result[:, j] = np.diff(shared[one.first])
    return result


def union_iou(one: Intervals, other: Intervals) -> np.ndarray:
    """Intersection over union, float64 [n, m]; 0 where both masks are empty."""
    shared = intersections(one, other)
    union = one.areas()[:, None] + other.areas()[None, :] - shared
    return np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)


def from_segmentations(segmentations: Sequence[Any], height: int, width: int, where: Callable[[int], str]) -> Intervals:
    """Masks as annotation files hold them, checked; many together take a fraction of the time of one after the other.

    Args:
      segmentations: what `rle.to_rle` takes.
      height, width: of the image, in pixels.
      where: number of the segmentation -> file and place in it, for errors.
    Raises:
      ValueError: see `rle.to_rle`.
    """
    texts, runs = {}, {}
    for i, segmentation in enumerate(segmentations):
        counts = segmentation
        if isinstance(segmentation, dict) and _has_size(segmentation, height, width):
            counts = segmentation.get("counts")
        if isinstance(counts, str) and counts.isascii() and counts:
            texts[i] = counts
        elif isinstance(counts, np.ndarray):
            runs[i] = counts
        elif isinstance(counts, list) and counts and all(type(run) is int and 0 <= run < 2**31 for run in counts):
            runs[i] = np.asarray(counts)
        else:
            checked = rle.to_rle(segmentation, height, width, where(i))
            texts[i] = checked["counts"]
    flat, lengths = _decode(list(texts.values()))
    if runs:
        runs |= zip(texts, np.split(flat, np.cumsum(lengths)[:-1]), strict=True) if texts else {}
        lengths = np.asarray([len(runs[i]) for i in range(len(segmentations))], np.int64)
        flat = np.concatenate([runs[i] for i in range(len(segmentations))]).astype(np.int64)
    begins = np.append(0, np.cumsum(lengths))
    ends = np.zeros(len(flat) + 1, np.int64)  # of each run: how many pixels all masks have before it
    np.cumsum(flat, out=ends[1:])
    totals = np.diff(ends[begins])
    if flat.min(initial=0) < 0 or (totals != height * width).any():
        for i, segmentation in enumerate(segmentations):
            rle.to_rle(segmentation, height, width, where(i))  # raises for the first one that is wrong
        raise AssertionError("a mask that rle.to_rle takes is refused here")
    is_inside = np.repeat((begins[:-1] & 1).astype(bool), lengths)  # every second run of a mask
    is_inside[1::2] ^= True
    inside = np.flatnonzero(is_inside & (flat > 0))
    first = np.searchsorted(inside, begins)
    stops = ends[inside + 1] - np.repeat(ends[begins[:-1]], np.diff(first))
    return Intervals(stops - flat[inside], stops, first)


def _has_size(segmentation: dict, height: int, width: int) -> bool:
    size = segmentation.get("size")
    return isinstance(size, list) and size == [height, width]


def _decode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The runs of compressed RLEs (not empty, ASCII), one after the other, and how many each has; int64.

    Where `rle.run_lengths` would raise, a run is negative.
    """
    if not texts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chars = np.frombuffer("".join(texts).encode("ascii"), np.uint8) - np.uint8(48)  # below 48: above 63
    lasts = np.cumsum([len(text) for text in texts]) - 1
    is_end = chars & 32 == 0  # of a value
    wrong = np.concatenate((np.flatnonzero(chars > 63), lasts[~is_end[lasts]]))
    is_end[lasts] = True
    digits = (chars & 31).view(np.int8)
    digits -= (is_end & (chars & 16 > 0)).view(np.int8) << 5  # the last one has a sign
    ends = np.flatnonzero(is_end)
    starts = np.append(0, ends[:-1] + 1)
    values = digits[starts].astype(np.int64)
    longer = np.flatnonzero(~is_end[starts])
    chars_of_longer = starts[longer]
    for place in range(1, 6):
        chars_of_longer += 1
        values[longer] += digits[chars_of_longer].astype(np.int64) << (5 * place)
        goes_on = ~is_end[chars_of_longer]
        longer, chars_of_longer = longer[goes_on], chars_of_longer[goes_on]
    wrong = np.concatenate((wrong, chars_of_longer))  # more than 6 characters
    # From the fourth run of a text on, a value is the difference to the run two places before.
    begins = np.searchsorted(ends, np.append(0, lasts + 1))
    first_runs = values[begins[:-1]]
    values[begins[:-1]] = 0
    for parity in (0, 1):
        sums = np.append(0, np.cumsum(values[parity::2]))
        texts_begin = (begins + 1 - parity) // 2
        values[parity::2] = sums[1:] - np.repeat(sums[texts_begin[:-1]], np.diff(texts_begin))
    values[begins[:-1]] = first_runs
    values[begins[np.searchsorted(lasts, wrong)]] = -1
    return values, np.diff(begins)
