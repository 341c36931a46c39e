"""The public interface of multi-scale deformable attention, and the choice of what computes it.

The operator is that of Deformable DETR (Zhu et al., 2021): every query of every head samples P points on each of L
feature maps, bilinearly (cells outside count as zero; a normalised location of 0 is the left edge of the first cell, 1
the right edge of the last), and sums them with weights that are a softmax over all L * P points.
"""

import functools
import logging
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from kernels.ms_deform_attn import xla

# name -> function(value, locations_px, weights, level_shapes), as `xla.sample`.
BACKENDS = {"xla": xla.sample}
ENVIRONMENT_VARIABLE = "TARVIS_MS_DEFORM_ATTN"
_DEFAULT = "xla"

_logger = logging.getLogger(__name__)


def ms_deform_attn(
    value: jax.Array,
    offsets_px: jax.Array,
    logits: jax.Array,
    reference_points: jax.Array,
    level_shapes: Sequence[tuple[int, int]],
    *,
    backend: str | None = None,
) -> jax.Array:
    """Multi-scale deformable attention with softmax and locations computed inside.

    Args:
      value: [B, S, M, D], float32 or bfloat16; the levels' cells, flattened row by row and concatenated.
      offsets_px: [B, Q, M, L, P, 2], (x, y) from the reference point, in pixels (cells) of the level.
      logits: [B, Q, M, L, P].
      reference_points: [Q, L, 2] or [Q, 2], (x, y) normalised to the level.
      level_shapes: static (h, w) per level; the cells add up to S.
      backend: a name in `BACKENDS`; None takes the environment variable TARVIS_MS_DEFORM_ATTN or else the default.

    Returns:
      [B, Q, M * D] of the dtype of `value`. Locations, softmax and sums are computed in float32.

    Raises:
      ValueError: if shapes disagree or the back end is unknown.
    """
    level_shapes = _checked_level_shapes(level_shapes)
    batch, num_queries, heads, levels, points, _ = _checked_rank("offsets_px", offsets_px, 6)
    _check_shapes(value, offsets_px, logits, level_shapes, names=("offsets_px", "logits"))
    if reference_points.shape not in ((num_queries, 2), (num_queries, levels, 2)):
        raise ValueError(
            f"reference_points: expected shape {(num_queries, levels, 2)} or {(num_queries, 2)}, "
            f"found {reference_points.shape}"
        )
    reference_points = jnp.asarray(reference_points, jnp.float32).reshape(num_queries, 1, -1, 1, 2)
    reference_px = reference_points * _sizes_wh(level_shapes)[:, None, :] - 0.5
    weights = jax.nn.softmax(logits.astype(jnp.float32).reshape(batch, num_queries, heads, levels * points))
    return _backend(backend)(
        value, reference_px + offsets_px.astype(jnp.float32), weights.reshape(logits.shape), level_shapes
    )


def ms_deform_attn_classic(
    value: jax.Array,
    locations_norm: jax.Array,
    weights: jax.Array,
    level_shapes: Sequence[tuple[int, int]],
    *,
    backend: str | None = None,
) -> jax.Array:
    """The same operator with locations and weights given, as in Deformable DETR's original code.

    Args:
      value: as in `ms_deform_attn`.
      locations_norm: [B, Q, M, L, P, 2], (x, y) normalised to the level, 0..1 (outside samples zeros).
      weights: [B, Q, M, L, P].
      level_shapes: as in `ms_deform_attn`.
      backend: as in `ms_deform_attn`.

    Returns:
      [B, Q, M * D] of the dtype of `value`.

    Raises:
      ValueError: if shapes disagree or the back end is unknown.
    """
    level_shapes = _checked_level_shapes(level_shapes)
    _checked_rank("locations_norm", locations_norm, 6)
    _check_shapes(value, locations_norm, weights, level_shapes, names=("locations_norm", "weights"))
    locations_px = locations_norm.astype(jnp.float32) * _sizes_wh(level_shapes)[:, None, :] - 0.5
    return _backend(backend)(value, locations_px, weights.astype(jnp.float32), level_shapes)


def _backend(name: str | None):
    source = "argument"
    if name is None:
        source, name = f"environment variable {ENVIRONMENT_VARIABLE}", os.environ.get(ENVIRONMENT_VARIABLE)
    if not name:
        source, name = "default", _DEFAULT
    if name not in BACKENDS:
        raise ValueError(f"unknown back end of ms_deform_attn (from {source}): {name!r}; known: {sorted(BACKENDS)}")
    _log_choice(name, source)
    return BACKENDS[name]


@functools.cache
def _log_choice(name: str, source: str) -> None:
    """One line per choice and process, not one per trace."""
    _logger.info("ms_deform_attn: back end %s (%s)", name, source)


def _sizes_wh(level_shapes: xla.LevelShapes) -> np.ndarray:
    """float32 [L, 2]: (w, h) of each level."""
    return np.array([(width, height) for height, width in level_shapes], np.float32)


def _checked_level_shapes(level_shapes: Sequence[tuple[int, int]]) -> xla.LevelShapes:
    shapes = tuple((int(height), int(width)) for height, width in level_shapes)
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise ValueError(f"level_shapes: expected at least one (h, w) of positive sizes, found {level_shapes}")
    return shapes


def _checked_rank(name: str, array: jax.Array, rank: int) -> tuple[int, ...]:
    if array.ndim != rank:
        raise ValueError(f"{name}: expected {rank} dimensions, found shape {array.shape}")
    return array.shape


def _check_shapes(value, locations, weights, level_shapes, *, names: tuple[str, str]) -> None:
    """Raises one ValueError that names every array whose shape disagrees with `locations` [B, Q, M, L, P, 2]."""
    batch, _, heads, levels, _, _ = locations.shape
    num_cells = sum(height * width for height, width in level_shapes)
    errors = []
    if value.ndim != 4 or value.shape[:3] != (batch, num_cells, heads):
        errors.append(f"value: expected [{batch}, {num_cells}, {heads}, D], found {value.shape}")
    if levels != len(level_shapes) or locations.shape[-1] != 2:
        errors.append(f"{names[0]}: expected [B, Q, M, {len(level_shapes)}, P, 2], found {locations.shape}")
    if weights.shape != locations.shape[:-1]:
        errors.append(f"{names[1]}: expected {locations.shape[:-1]}, found {weights.shape}")
    if errors:
        raise ValueError(f"ms_deform_attn with levels {level_shapes}: " + "; ".join(errors))
