"""Multi-scale deformable attention, slow and obvious: the oracle of every other back end.

numpy, one loop per level, point and corner; computes in the dtype of its inputs, so float64 in gives float64 out.
"""

from collections.abc import Sequence

import numpy as np


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last two axes (levels and points) of [..., L, P]."""
    e = np.exp(logits - logits.max(axis=(-2, -1), keepdims=True))
    return e / e.sum(axis=(-2, -1), keepdims=True)


def sample_level(value: np.ndarray, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Bilinear samples of one level; cells outside count as zero.

    Args:
      value: [B, h, w, M, D].
      x_px: [B, Q, M]; 0 is the center of the first cell.
      y_px: [B, Q, M].

    Returns:
      [B, Q, M, D].
    """
    batch, height, width, heads, _ = value.shape
    b = np.arange(batch)[:, None, None]
    m = np.arange(heads)[None, None, :]
    # Anything further out than one cell samples only zeros; the clip keeps the conversion to integers defined.
    x_px = np.clip(x_px, -2, width + 1)
    y_px = np.clip(y_px, -2, height + 1)
    x0, y0 = np.floor(x_px).astype(int), np.floor(y_px).astype(int)
    out = 0
    for y in (y0, y0 + 1):
        for x in (x0, x0 + 1):
            weight = (1 - np.abs(x_px - x)) * (1 - np.abs(y_px - y))
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            cell = value[b, np.clip(y, 0, height - 1), np.clip(x, 0, width - 1), m]
            out = out + np.where(inside, weight, 0)[..., None] * cell
    return out


def ms_deform_attn_classic(
    value: np.ndarray, locations_norm: np.ndarray, weights: np.ndarray, level_shapes: Sequence[tuple[int, int]]
) -> np.ndarray:
    """See `operator.ms_deform_attn_classic`."""
    batch, _, heads, depth = value.shape
    out, start = 0, 0
    for level, (height, width) in enumerate(level_shapes):
        cells = value[:, start : start + height * width].reshape(batch, height, width, heads, depth)
        start += height * width
        for point in range(weights.shape[-1]):
            x_px = locations_norm[:, :, :, level, point, 0] * width - 0.5
            y_px = locations_norm[:, :, :, level, point, 1] * height - 0.5
            out = out + weights[:, :, :, level, point, None] * sample_level(cells, x_px, y_px)
    return out.reshape(*out.shape[:2], heads * depth)


def ms_deform_attn(
    value: np.ndarray,
    offsets_px: np.ndarray,
    logits: np.ndarray,
    reference_points: np.ndarray,
    level_shapes: Sequence[tuple[int, int]],
) -> np.ndarray:
    """See `operator.ms_deform_attn`."""
    if reference_points.ndim == 2:
        reference_points = np.repeat(reference_points[:, None], len(level_shapes), axis=1)
    sizes_wh = np.array([(width, height) for height, width in level_shapes], dtype=offsets_px.dtype)
    locations = reference_points[None, :, None, :, None, :] + offsets_px / sizes_wh[:, None, :]
    return ms_deform_attn_classic(value, locations, softmax(logits), level_shapes)
