"""How many pixels of a mask fall in each cell of the stride-4 map.

The object encoder looks at pixels, but reads their features from the stride-4 map by nearest neighbor: all pixels of a
4x4 block give the same key. Counting them says everything about a mask that the encoder needs, in a static shape.
"""

import jax
import jax.numpy as jnp
import numpy as np

STRIDE = 4


def count_pixels(is_member: jax.Array) -> jax.Array:
    """Members in each STRIDE x STRIDE block: bool [..., H, W] -> uint8 [..., H/4, W/4]."""
    *leading, H, W = is_member.shape
    blocks = is_member.reshape(*leading, H // STRIDE, STRIDE, W // STRIDE, STRIDE)
    return blocks.sum((-3, -1), dtype=jnp.uint8)


def part_counts(masks: jax.Array, num_parts: int) -> jax.Array:
    """Splits the pixels of each mask in equal parts and counts them by cell (paper section 3.3).

    The pixels in row-major order of (T, H, W) are cut in `num_parts` runs; the first (size mod num_parts) runs have one
    pixel more. A mask with fewer pixels than parts is repeated until there is at least one pixel for each part.

    Args:
      masks: bool [B, N, T, H, W].
      num_parts: q.

    Returns:
      uint8 [B, N, q, T, H/4, W/4]; zero for empty masks.
    """
    # One object after the other: the ranks of its pixels take four times the memory of its mask, or more.
    return jax.lax.map(lambda mask: _parts_of_one(mask, num_parts), masks.swapaxes(0, 1)).swapaxes(0, 1)


def _parts_of_one(mask: jax.Array, num_parts: int) -> jax.Array:
    """bool [B, T, H, W] -> uint8 [B, q, T, H/4, W/4]."""
    B, T, H, W = mask.shape
    flat = mask.reshape(B, -1)
    rank = jnp.cumsum(flat, axis=-1, dtype=jnp.int32)[:, None]  # 1.. for members, [B, 1, T H W]
    size = rank[..., -1:]  # [B, 1, 1]
    length = size * -(-num_parts // jnp.maximum(size, 1))  # after repeating
    part = jnp.arange(num_parts)[:, None]
    start = part * (length // num_parts) + jnp.minimum(part, length % num_parts)
    part_size = length // num_parts + (part < length % num_parts)  # [B, q, 1]
    offset = rank - 1 - start % jnp.maximum(size, 1)
    offset = jnp.where(offset < 0, offset + size, offset)  # a part may begin again at the first pixel
    is_member = flat[:, None] & (offset < part_size)
    return count_pixels(is_member.reshape(B, num_parts, T, H, W))


def grid_counts(free: jax.Array, grid: tuple[int, int], used: jax.Array | None = None) -> jax.Array:
    """Counts the pixels of each cell of a coarse grid over the image, by stride-4 cell.

    Args:
      free: bool [B, T, H, W], the pixels that count.
      grid: rows and columns of the coarse grid.
      used: int32 [2], height and width that the grid divides, from the upper left; None: all.

    Returns:
      uint8 [B, rows * columns, T, H/4, W/4].
    """
    used = (None, None) if used is None else used
    rows, columns = (_grid_index(*args) for args in zip(free.shape[-2:], grid, used, strict=True))
    index = rows[:, None] * grid[1] + columns  # [H, W]
    is_inside = index == np.arange(grid[0] * grid[1])[:, None, None]  # [G, H, W]
    return count_pixels(free[:, None] & is_inside[:, None])


def _grid_index(length: int, parts: int, used: jax.Array | None) -> jax.Array | np.ndarray:
    """Which of `parts` each of `length` pixels belongs to; the outer parts are a trifle wider, as in the reference."""
    low, high = -0.499, parts - 1 + 0.499
    if used is None:
        return np.rint(np.linspace(low, high, length)).astype(np.int32)
    return jnp.rint(low + jnp.arange(length) * ((high - low) / (used - 1))).astype(jnp.int32)


def nearest_cell(points_yx: jax.Array, height: int, width: int) -> tuple[jax.Array, jax.Array]:
    """Row and column of the cell that a point lies in.

    Differs from the reference: a coordinate of exactly 1 belongs to the last cell; there it reads zeros.

    Args:
      points_yx: [..., 2] in 0..1.
      height: rows of the map.
      width: columns of the map.

    Returns:
      int32 [...] rows and columns.
    """
    size = jnp.array([height, width])
    position = points_yx.astype(jnp.float32) * size - 0.5
    index = jnp.clip(jnp.rint(position).astype(jnp.int32), 0, size - 1)
    return index[..., 0], index[..., 1]
