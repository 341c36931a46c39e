"""The point that stands for a mask in point exemplar-guided tracking (PET)."""

import cv2
import numpy as np


def mask_to_point(masks: np.ndarray) -> np.ndarray:
    """The center of the pixel of each mask that is farthest from the mask's border.

    Among equally far pixels the one nearest to the mask's mean is taken (sum of the distances in y and x), then the
    first in row-major order. The border of the image is not a border of the mask, so give masks as large as the images
    that the network sees, padding included.

    Differs from the reference: a mask that covers the image gives the pixel nearest to its mean; there the distance to
    the border is undefined.

    Args:
      masks: bool [N, H, W], none empty.

    Returns:
      float32 [N, 2], (y, x) in 0..1.

    Raises:
      ValueError: for another shape or an empty mask.
    """
    if masks.ndim != 3:
        raise ValueError(f"masks: expected shape [N, H, W], found {masks.shape}")
    empty = np.flatnonzero(~masks.any((1, 2)))
    if empty.size:
        raise ValueError(f"masks: expected some pixels in each, found none in masks {empty.tolist()} of {len(masks)}")
    points = np.array([_center(mask) for mask in masks.astype(bool)], np.float32).reshape(-1, 2)
    return (points + np.float32(0.5)) / np.array(masks.shape[1:], np.float32)


def _center(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the pixel."""
    # Only the mask's box matters, and the pixels around it, where the image has any: they are the nearest outside.
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = max(0, rows[0] - 1), max(0, columns[0] - 1)
    mask = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    if mask.all():
        farthest = np.argwhere(mask)
    else:
        distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are integers: of these pixels rounding chooses the ones that are equally far.
        near = np.argwhere(distance > distance.max() - 0.01)
        squared = np.rint(distance[tuple(near.T)].astype(np.float64) ** 2)
        farthest = near[squared == squared.max()]
    if len(farthest) > 1:
        mean = [(mask.sum(1 - axis) @ np.arange(mask.shape[axis])) / mask.sum() for axis in (0, 1)]
        farthest = farthest[np.abs(farthest - mean).sum(1).argmin()][None]
    return top + int(farthest[0, 0]), left + int(farthest[0, 1])
