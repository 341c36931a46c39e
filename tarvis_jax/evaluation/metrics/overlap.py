"""How many pixels two maps share, the one thing that the metrics of segmentation count."""

import numpy as np

_HIGHEST = 2**31


def count_pairs(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of values that two maps have at the same pixel, in ascending order.

    Maps of segments are flat: the pixels are cut into runs of one pair of values, and only the runs are sorted.

    Args:
      first: int [H, W], values 0..2^31-1.
      second: the same size and range.
    Returns:
      Three int64 [P]: values of the first map, values of the second, number of pixels (at least 1).
    Raises:
      ValueError: sizes that differ, or values out of range.
    """
    if first.shape != second.shape:
        raise ValueError(f"expected maps of one size, found {first.shape} and {second.shape}")
    first, second = first.ravel(), second.ravel()
    if not first.size:
        return (np.zeros(0, np.int64),) * 3
    starts = np.flatnonzero((first[1:] != first[:-1]) | (second[1:] != second[:-1])) + 1
    starts = np.concatenate([[0], starts])
    values = np.stack([first[starts], second[starts]]).astype(np.int64)
    if values.min() < 0 or values.max() >= _HIGHEST:
        raise ValueError(f"expected values in 0..{_HIGHEST - 1}, found {values.min()}..{values.max()}")
    keys, index = np.unique(values[0] * _HIGHEST + values[1], return_inverse=True)
    pixels = np.bincount(index, np.diff(np.append(starts, first.size)))  # sums of float64, exact up to 2^53
    return keys // _HIGHEST, keys % _HIGHEST, pixels.astype(np.int64)
