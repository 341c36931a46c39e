"""Sine position encodings (Vaswani et al., 2017; Carion et al., 2020), channels last.

Functions of static shapes: the sines are computed with numpy when a function is traced, one short table per axis; only
their combination over the grid is part of the compiled program. Where a program serves several sizes, the tables are too.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

_TEMPERATURE = 10000.0
_EPSILON = 1e-6  # the reference divides by (last position + this)


def _sine_1d(length: int, num_features: int, normalize: bool, used: jax.Array | None = None) -> jax.Array | np.ndarray:
    """[length, num_features] float32: sine at even features, cosine at odd ones, of positions 1, 2, ..., length.

    With `normalize` the last position becomes 2 pi; the last is `used` if only so many are, which is then computed in
    the program.
    """
    array = np if used is None else jnp
    positions = np.arange(1, length + 1, dtype=np.float64)
    if normalize:
        positions = positions * (2 * math.pi / ((length if used is None else used) + _EPSILON))
    pair = np.arange(num_features) // 2
    angles = positions[:, None] / _TEMPERATURE ** (2 * pair / num_features)
    sines = array.where(np.arange(num_features) % 2 == 0, array.sin(angles), array.cos(angles))
    return sines.astype(np.float32)


def sine_2d(
    height: int, width: int, num_features: int, *, normalize: bool = True, used: jax.Array | None = None
) -> jax.Array:
    """Encodes the cells of a grid.

    Args:
      height: rows.
      width: columns.
      num_features: C, a multiple of 4; the first half encodes y, the second x.
      normalize: scale positions so that the last one is 2 pi; otherwise they are 1, 2, 3, ...
      used: int32 [2], rows and columns that are used, the last of which are then the last; None: all.

    Returns:
      float32 [height, width, C].
    """
    if num_features % 4:
        raise ValueError(f"num_features must be a multiple of 4 (sine and cosine of y and x), found {num_features}")
    half = num_features // 2
    used_rows, used_columns = (None, None) if used is None else used
    y = jnp.asarray(_sine_1d(height, half, normalize, used_rows))[:, None]
    x = jnp.asarray(_sine_1d(width, half, normalize, used_columns))[None, :]
    shape = (height, width, half)
    return jnp.concatenate([jnp.broadcast_to(y, shape), jnp.broadcast_to(x, shape)], axis=-1)


def sine_3d(
    num_frames: int,
    height: int,
    width: int,
    num_features: int,
    *,
    used_frames: jax.Array | None = None,
    used: jax.Array | None = None,
) -> jax.Array:
    """Encodes the cells of a clip: the normalized 2D encoding plus a normalized encoding of time over all C features.

    Args:
      num_frames: T.
      height: rows.
      width: columns.
      num_features: C, a multiple of 4.
      used_frames: int32 [], frames that are used, the last of which is then the last; None: all.
      used: rows and columns likewise, see `sine_2d`.

    Returns:
      float32 [T, height, width, C].
    """
    t = jnp.asarray(_sine_1d(num_frames, num_features, normalize=True, used=used_frames))
    return sine_2d(height, width, num_features, normalize=True, used=used)[None] + t[:, None, None]
