"""Several frames in one picture."""

from collections.abc import Sequence

import numpy as np

CELL_WIDTH = 400  # pixels that a frame of a sheet should have
_GAP = 4  # white pixels between frames


def fit_scale(width: int) -> float:
    """How a frame of this width comes near CELL_WIDTH: a whole number that enlarges it, or a fraction below 1."""
    return float(CELL_WIDTH // width) if width <= CELL_WIDTH else CELL_WIDTH / width


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of images, uint8 RGB [h, w, 3] of any size, as one image with white gaps."""
    if not rows or not all(rows):
        raise ValueError(f"contact sheet: expected at least one image in every row, found {[len(row) for row in rows]}")
    return _stacked([_stacked(row, axis=1) for row in rows], axis=0)


def _stacked(images: Sequence[np.ndarray], axis: int) -> np.ndarray:
    across = max(image.shape[1 - axis] for image in images)
    padded = []
    for index, image in enumerate(images):
        padding = [(0, 0), (0, 0), (0, 0)]
        padding[1 - axis] = (0, across - image.shape[1 - axis])
        padding[axis] = (_GAP if index else 0, 0)
        padded.append(np.pad(image, padding, constant_values=255))
    return np.concatenate(padded, axis=axis)
