"""The backward pass of multi-scale deformable attention as matrix products, for maps of few cells on a CPU.

What a query samples is a mean over all cells of the maps, in which most weights are zero. With some hundred cells it is
faster to compute all weights and to multiply with matrices than to gather and scatter cell by cell. The weight of a
cell is a product of a weight for its row and one for its column, summed over the points.

A value that is not finite reaches the gradients of all queries of its image and head, since zero times infinity is not
zero.
"""

import functools
import math

import jax
import jax.numpy as jnp

from kernels.ms_deform_attn import sampling

# Of all levels together. On one core, 12 images with 4 heads take 15 instead of 24 ms with 126 cells, and 350 instead
# of 50 ms with 504, since the work grows with their square. Where the two meet was not measured.
_MAX_CELLS = 192


def takes(level_shapes: sampling.LevelShapes) -> bool:
    """Whether the maps are small enough for this to be faster."""
    return sum(math.prod(shape) for shape in level_shapes) <= _MAX_CELLS


def backward(value, offsets, scores, reference, out_grad, *, level_shapes: sampling.LevelShapes, softmax: bool):
    """`backward` of `backends` for these maps; letters of shapes are its letters."""
    x, y = sampling.locations(offsets, reference, level_shapes)
    weights, weights_vjp = jax.vjp(functools.partial(sampling.attention_weights, softmax=softmax), scores)
    # Queries are the last axis everywhere, along which a CPU computes several at once.
    x, y, weights = (jnp.moveaxis(array, 1, -1) for array in (x, y, weights))  # [B, M, L, P, Q]

    def along_axes(locations: tuple[jax.Array, jax.Array]) -> list[tuple[jax.Array, ...]]:
        x, y = locations  # [M, L, P, Q]
        return [
            (*_along(y[:, level], height), *_along(x[:, level], width))
            for level, (height, width) in enumerate(level_shapes)
        ]

    # In a loop over images only because what a loop makes is stored: XLA would compute it anew for each cell.
    levels = jax.lax.map(along_axes, (x, y))
    maps = []
    for level, (rows, _, columns, _) in enumerate(levels):
        columns = columns * weights[:, :, level, :, None]
        of_points = (rows[:, :, point, :, None] * columns[:, :, point, None] for point in range(rows.shape[2]))
        maps.append(_flat(sum(of_points)))
    cell_weights = jnp.concatenate(maps, axis=2)  # [B, M, S, Q]

    values, out_grads = value.astype(jnp.float32), out_grad.astype(jnp.float32)
    value_grad = jnp.einsum("bmsq,bqmd->bsmd", cell_weights, out_grads, precision="highest")
    of_cells = jnp.einsum("bsmd,bqmd->bmsq", values, out_grads, precision="highest")  # the gradient of `cell_weights`
    x_grads, y_grads, weights_grads, start = [], [], [], 0
    for level, ((height, width), (rows, row_slopes, columns, column_slopes)) in enumerate(
        zip(level_shapes, levels, strict=True)
    ):
        of_level = of_cells[:, :, start : start + height * width]
        of_level = of_level.reshape(*of_level.shape[:2], 1, height, width, -1)  # [B, M, 1, h, w, Q]
        of_columns = (of_level * rows[:, :, :, :, None]).sum(3)  # [B, M, P, w, Q]
        of_rows = (of_level * columns[:, :, :, None]).sum(4)  # [B, M, P, h, Q]
        x_grads.append((of_columns * column_slopes).sum(3) * weights[:, :, level])
        y_grads.append((of_rows * row_slopes).sum(3) * weights[:, :, level])
        weights_grads.append((of_columns * columns).sum(3))
        start += height * width
    x_grad, y_grad, weights_grad = (
        jnp.moveaxis(jnp.stack(grads, axis=2), -1, 1) for grads in (x_grads, y_grads, weights_grads)
    )  # [B, Q, M, L, P]
    offsets_grad = jnp.stack([x_grad, y_grad], axis=-1)
    return value_grad.astype(value.dtype), offsets_grad.astype(offsets.dtype), weights_vjp(weights_grad)[0]


def _along(x: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Linear weights of all cells along one axis for locations [..., Q], and their derivatives: [..., size, Q].

    At a whole pixel the derivative is the one to the right.
    """
    x = x[..., None, :]
    distance = x - jnp.arange(size, dtype=jnp.float32)[:, None]
    weights = jnp.maximum(1 - jnp.abs(distance), 0)
    rises = (distance >= -1) & (distance < 0) & (x > -1)  # at -1 and beyond nothing is sampled
    falls = (distance >= 0) & (distance < 1)
    return weights, jnp.where(rises, 1.0, 0.0) - jnp.where(falls, 1.0, 0.0)


def _flat(array: jax.Array) -> jax.Array:
    """[B, M, h, w, Q] -> [B, M, h * w, Q]"""
    return array.reshape(*array.shape[:2], -1, array.shape[-1])
