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
    pixels = np.ascontiguousarray(masks, bool).view(np.uint8)
    boxes = [cv2.boundingRect(mask) for mask in pixels]  # x, y, width, height
    empty = [n for n, box in enumerate(boxes) if not box[2]]
    if empty:
        raise ValueError(f"masks: expected some pixels in each, found none in masks {empty} of {len(masks)}")
    points = np.array([_center(*each) for each in zip(pixels, boxes, strict=True)], np.float32).reshape(-1, 2)
    return (points + np.float32(0.5)) / np.array(masks.shape[1:], np.float32)


def _center(mask: np.ndarray, box: tuple[int, int, int, int]) -> tuple[int, int]:
    """Row and column of the pixel; the mask is of 0 and 1, its box (x, y, width, height)."""
    # Only the mask's box matters, and the pixels around it, where the image has any: they are the nearest outside.
    x, y, width, height = box
    top, left = max(0, y - 1), max(0, x - 1)
    mask = mask[top : y + height + 1, left : x + width + 1]
    if mask.all():
        farthest = np.argwhere(mask)
    else:
        distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        # Squared distances are integers: of these pixels rounding chooses the ones that are equally far.
        near = np.argwhere(distance > distance.max() - 0.01)
        squared = np.rint(distance[tuple(near.T)].astype(np.float64) ** 2)
        farthest = near[squared == squared.max()]
    if len(farthest) > 1:
        mean = [(mask.sum(1 - axis) @ np.arange(mask.shape[axis])) / mask.sum() for axis in (0, 1)]
        farthest = farthest[np.abs(farthest - mean).sum(1).argmin()][None]
    return top + int(farthest[0, 0]), left + int(farthest[0, 1])
