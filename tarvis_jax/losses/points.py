"""Losses on points instead of whole masks: bilinear sampling and the choice of uncertain points.

Source: PointRend (Kirillov et al., CVPR 2020, section 3.3), as Mask2Former and TarViS train with it. Points are (x, y),
normalized to 0..1 over the map (0 and 1 are the outer edges of the first and last cell).

Every random number comes in as an argument, a "draw": either the uniform numbers themselves (float32 of the full shape,
to replay a recorded run) or a typed JAX random key for each clip, from which they are made where they are needed, so
that a training step never holds all of them at once. A clip's numbers depend on its key alone, not on the clips beside
it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.parallel.clips import map_devices


class PointDraws(NamedTuple):
    """Draws for the choice of uncertain points; each keys [B] or uniform numbers (see the module's head).

    Attributes:
      candidates: [B, ..., oversample_ratio * P, 2], the points among which the uncertain ones are found.
      random: [B, ..., P - int(importance_ratio * P), 2], the points taken regardless.
    """

    candidates: jax.Array
    random: jax.Array


def split_keys(keys: jax.Array, shape: int | tuple[int, ...] = 2) -> jax.Array:
    """Splits the key of each clip: keys [B] -> [*shape, B]."""
    return jax.vmap(lambda key: jax.random.split(key, shape), out_axes=-1)(keys)


def draw_points(keys: jax.Array, num_layers: int) -> PointDraws:
    """Draws of all layers, as keys [L, B], from the keys [B] of the clips."""
    return PointDraws(*split_keys(keys, (2, num_layers)))


def of_slots(draws: PointDraws, *index: jax.Array) -> PointDraws:
    """The draws of S masks: keys [S], or numbers [S, ...].

    A slot's numbers depend on its clip's key and on its place among the slots, not on how many slots there are.

    Args:
      draws: of all layers: keys [L, B], or numbers [L, B, N, ...].
      index: the layer, clip and slot of each mask, int32 [S] each.
    """

    def take(draw: jax.Array) -> jax.Array:
        if jnp.issubdtype(draw.dtype, jax.dtypes.prng_key):
            return jax.vmap(jax.random.fold_in)(draw[index[:2]], index[2])
        return draw[index]

    return jax.tree.map(take, draws)


def uniform(draw: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The uniform numbers of a draw, float32 in [0, 1).

    Args:
      draw: keys [B], or recorded numbers, which are returned as they are.
      shape: (B, ...).

    Raises:
      ValueError: keys or recorded numbers of another shape.
    """
    if jnp.issubdtype(draw.dtype, jax.dtypes.prng_key):
        if draw.shape != shape[:1]:
            raise ValueError(f"keys of a draw: expected shape {shape[:1]}, one for each clip, found {draw.shape}")
        return jax.vmap(lambda key: jax.random.uniform(key, shape[1:]))(draw)
    if draw.shape != shape:
        raise ValueError(f"recorded draw: expected shape {shape}, found {draw.shape}")
    return draw


def _corners(points_xy: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Flat indices int32 and weights float32 [*batch, 4, P] of the cells around each point; outside cells weigh 0."""
    x = points_xy[..., 0] * width - 0.5
    y = points_xy[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    right_share, bottom_share = x - left, y - top
    indices, weights = [], []
    for row, row_weight in ((top, 1 - bottom_share), (top + 1, bottom_share)):
        for column, column_weight in ((left, 1 - right_share), (left + 1, right_share)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            indices.append(index.astype(jnp.int32))
            weights.append(jnp.where(inside, row_weight * column_weight, 0.0))
    return jnp.stack(indices, -2), jnp.stack(weights, -2)


def sample_points(maps: jax.Array, points_xy: jax.Array) -> jax.Array:
    """Bilinear values of maps at points of their own; zero outside.

    Args:
      maps: [*batch, h, w], float or bool.
      points_xy: float32 [*batch, P, 2], (x, y) in 0..1.

    Returns:
      float32 [*batch, P]; equals torch's grid_sample with align_corners=False and zero padding.
    """
    *batch, height, width = maps.shape
    num_points = points_xy.shape[-2]
    indices, weights = _corners(points_xy, height, width)
    values = jnp.take_along_axis(
        maps.reshape(*batch, height * width), indices.reshape(*batch, 4 * num_points), axis=-1, mode="promise_in_bounds"
    )
    return (values.reshape(*batch, 4, num_points).astype(jnp.float32) * weights).sum(-2)


def sample_channels(maps: jax.Array, points_xy: jax.Array) -> jax.Array:
    """Bilinear values of all channels at points that the channels share; zero outside.

    Args:
      maps: [*batch, h, w, C], float or bool.
      points_xy: float32 [*batch, P, 2], (x, y) in 0..1.

    Returns:
      float32 [*batch, P, C].
    """
    *batch, height, width, channels = maps.shape
    num_points = points_xy.shape[-2]
    indices, weights = _corners(points_xy, height, width)
    rows = jnp.take_along_axis(
        maps.reshape(*batch, height * width, channels),
        indices.reshape(*batch, 4 * num_points, 1),
        axis=-2,
        mode="promise_in_bounds",
    )
    rows = rows.reshape(*batch, 4, num_points, channels).astype(jnp.float32)
    return (rows * weights[..., None]).sum(-3)


def sample_nearest(maps: jax.Array, points_xy: jax.Array) -> jax.Array:
    """Values [*batch, P] of the cells that contain the points; maps [*batch, h, w] of any dtype, which is kept."""
    *batch, height, width = maps.shape
    column = jnp.clip(jnp.round(points_xy[..., 0] * width - 0.5), 0, width - 1)
    row = jnp.clip(jnp.round(points_xy[..., 1] * height - 0.5), 0, height - 1)
    index = (row * width + column).astype(jnp.int32)
    return jnp.take_along_axis(maps.reshape(*batch, height * width), index, axis=-1, mode="promise_in_bounds")


def top_k(scores: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """The k largest of the last axis and their indices: [B, ..., M] -> [B, ..., k], float32 and int32.

    Each device sorts its own clips; left alone, XLA may gather the scores of all of them first.
    """
    return map_devices(lambda scores: tuple(jax.lax.top_k(scores, k)), (0,), (0, 0))(scores)


def uncertain_points(
    uncertainty: Callable[[jax.Array], jax.Array],
    batch_shape: tuple[int, ...],
    num_points: int,
    draws: PointDraws,
    config: LossConfig,
) -> jax.Array:
    """Chooses P points: the most uncertain of an oversampled set, and some at random.

    Args:
      uncertainty: maps points [*batch, M, 2] to scores [*batch, M]; the higher, the less sure the prediction.
      batch_shape: the leading axes of the points.
      num_points: P.
      draws: the random numbers for this call (no layer axis).
      config: oversampling and share of uncertain points.

    Returns:
      float32 [*batch, P, 2], (x, y) in 0..1, without gradient.
    """
    num_uncertain = int(config.importance_ratio * num_points)
    candidates = uniform(draws.candidates, (*batch_shape, int(num_points * config.oversample_ratio), 2))
    scores = jax.lax.stop_gradient(uncertainty(candidates))
    chosen = top_k(scores, num_uncertain)[1]
    points = jnp.take_along_axis(candidates, chosen[..., None], axis=-2, mode="promise_in_bounds")
    random = uniform(draws.random, (*batch_shape, num_points - num_uncertain, 2))
    return jax.lax.stop_gradient(jnp.concatenate([points, random], axis=-2))
