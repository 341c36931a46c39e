"""Sine position encodings (Vaswani et al., 2017; Carion et al., 2020), channels last.

Functions of static shapes: the sines are computed with numpy when a function is traced, one short table per axis; only
their combination over the grid is part of the compiled program. A program of several sizes takes its tables as
arguments.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Axes = tuple[jax.Array, jax.Array]  # tables [height, C/2] and [width, C/2]

_TEMPERATURE = 10000.0
_EPSILON = 1e-6  # the reference divides by (last position + this)


def sine_1d(length: int, num_features: int, *, normalize: bool = True, last: int | None = None) -> np.ndarray:
    """[length, num_features] float32: sine at even features, cosine at odd ones, of positions 1, 2, ..., length.

    With `normalize`, position `last` becomes 2 pi; None: `length`.
    """
    positions = np.arange(1, length + 1, dtype=np.float64)
    if normalize:
        positions *= 2 * math.pi / ((length if last is None else last) + _EPSILON)
    pair = np.arange(num_features) // 2
    angles = positions[:, None] / _TEMPERATURE ** (2 * pair / num_features)
    return np.where(np.arange(num_features) % 2 == 0, np.sin(angles), np.cos(angles)).astype(np.float32)


def sine_2d(
    height: int, width: int, num_features: int, *, normalize: bool = True, axes: Axes | None = None
) -> jax.Array:
    """Encodes the cells of a grid.

    Args:
      height: rows.
      width: columns.
      num_features: C, a multiple of 4; the first half encodes y, the second x.
      normalize: scale positions so that the last one is 2 pi; otherwise they are 1, 2, 3, ...
      axes: tables to take for y and x where fewer rows and columns are used (`Extent.axes`); None: all are.

    Returns:
      float32 [height, width, C].
    """
    if num_features % 4:
        raise ValueError(f"num_features must be a multiple of 4 (sine and cosine of y and x), found {num_features}")
    half = num_features // 2
    if axes is None:
        axes = sine_1d(height, half, normalize=normalize), sine_1d(width, half, normalize=normalize)
    y, x = jnp.asarray(axes[0])[:, None], jnp.asarray(axes[1])[None, :]
    shape = (height, width, half)
    return jnp.concatenate([jnp.broadcast_to(y, shape), jnp.broadcast_to(x, shape)], axis=-1)


def sine_3d(
    num_frames: int,
    height: int,
    width: int,
    num_features: int,
    *,
    times: jax.Array | None = None,
    axes: Axes | None = None,
) -> jax.Array:
    """Encodes the cells of a clip: the normalized 2D encoding plus a normalized encoding of time over all C features.

    Args:
      num_frames: T.
      height: rows.
      width: columns.
      num_features: C, a multiple of 4.
      times: table [T, C] to take for t where fewer frames are used (`Extent.times`); None: all are.
      axes: see `sine_2d`.

    Returns:
      float32 [T, height, width, C].
    """
    t = jnp.asarray(sine_1d(num_frames, num_features) if times is None else times)
    return sine_2d(height, width, num_features, axes=axes)[None] + t[:, None, None]
