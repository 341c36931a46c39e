"""Where multi-scale deformable attention samples, and with which weights: what all back ends in plain XLA share."""

import jax
import jax.numpy as jnp
import numpy as np

LevelShapes = tuple[tuple[int, int], ...]


def locations(offsets: jax.Array, reference: jax.Array, level_shapes: LevelShapes) -> tuple[jax.Array, jax.Array]:
    """x and y in cells of the level, float32 [B, Q, M, L, P]; 0 is the center of the first cell. See `backends`."""
    sizes_wh = np.array([(width, height) for height, width in level_shapes], np.float32)
    start = (reference * sizes_wh - 0.5)[:, None, :, None, :]
    locations = start + offsets.astype(jnp.float32)
    return locations[..., 0], locations[..., 1]


def attention_weights(scores: jax.Array, softmax: bool) -> jax.Array:
    """float32 [B, Q, M, L, P] of scores [B, Q, M, L, P]: their softmax over L * P, or they themselves."""
    weights = scores.astype(jnp.float32)
    return jax.nn.softmax(weights, axis=(-2, -1)) if softmax else weights


def neighbor(x: jax.Array, size, side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One of the two cells around each location along one axis.

    Args:
      x: float32, in cells.
      size: the number of cells; an integer or an array.
      side: 0 for the cell at or before x, 1 for the one after; an integer or an array.

    Returns:
      (int32 index within 0 .. size - 1 whatever x is, linear weight, its derivative by x); the last two are zero where
      the cell lies outside, and the weight is NaN where x is.
    """
    # At -1 and beyond, and at the size and beyond, nothing is sampled; clipping first keeps integers defined for any x.
    # Not jnp.clip, which on a CPU would turn NaN into -1.
    is_beyond = (x <= -1) | (x >= size)
    x = jnp.where(x < -1, -1.0, jnp.where(x > size, jnp.float32(size), x))
    before = jnp.floor(x)
    part = x - before
    position = before + side
    # Comparisons with NaN are false: asking for what is outside, instead of inside, lets NaN through.
    is_outside = (position < 0) | (position >= size)
    weight = jnp.where(is_outside, 0.0, jnp.where(side == 1, part, 1 - part))
    slope = jnp.where(is_outside | is_beyond, 0.0, jnp.float32(2 * side - 1))
    return jnp.clip(position.astype(jnp.int32), 0, size - 1), weight, slope
