"""Multi-scale deformable attention in plain XLA, for every platform.

Bilinear sampling is linear in the values: a query's output is the sum over levels of `A_level @ value_level`, where row
q of A holds the bilinear weights, times the attention weights, of the cells around its P points. Two ways to compute
it, chosen per level by its number of cells (`DENSE_MAX_CELLS`):

- dense: build A, the sum over points of hat(y) outer hat(x) with hat(d) = max(0, 1 - |d|), and multiply matrices. The
  cost grows with the number of cells, but the gradient of the values is `A^T @ gradient`: no scatter.
- gather: add the 4P corner cells one by one, so that XLA fuses the gathers and never stores the gathered cells; the
  gradient of the values is scattered, which is serial on a CPU.

Locations, weights and accumulation are float32 whatever the dtype of the values. At a whole pixel, where bilinear
interpolation has a kink, the gradient of a location is the one to the right (as in PyTorch's grid_sample).

Inside this file heads lie before queries: value [B, M, S, D], x, y and weights [B, M, L, Q, P].
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

# One core, float32, forward + backward: at 96 and 112 cells dense takes about half the time of gather; at 448 cells
# about the same for the backward and four times as much for the forward pass.
DENSE_MAX_CELLS = 128

LevelShapes = tuple[tuple[int, int], ...]

# Interpolation at full float32 precision on every platform: no TF32, no bfloat16 passes.
_einsum = functools.partial(jnp.einsum, precision="highest")


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> None:
    """Everything, everywhere."""
    return None


def forward(value, offsets, scores, reference, level_shapes: LevelShapes, *, softmax: bool) -> jax.Array:
    """See `backends`."""
    x, y = _locations(offsets, reference, level_shapes)
    weights = _weights(scores, softmax)
    value = value.transpose(0, 2, 1, 3)
    out = jnp.zeros((*x.shape[:2], x.shape[3], value.shape[-1]), jnp.float32)
    for level, cells, height, width in _levels(level_shapes):
        level_sum = _dense_sum if height * width <= DENSE_MAX_CELLS else _gather_sum
        out += level_sum(value[:, :, cells], x[:, :, level], y[:, :, level], weights[:, :, level], height, width)
    return out.transpose(0, 2, 1, 3).astype(value.dtype)


def backward(value, offsets, scores, reference, level_shapes: LevelShapes, out_grad, *, softmax: bool, scatter=None):
    """See `backends`; `scatter` replaces the function of that name."""
    x, y = _locations(offsets, reference, level_shapes)
    weights, weights_vjp = jax.vjp(functools.partial(_weights, softmax=softmax), scores)
    heads_first_value = value.transpose(0, 2, 1, 3)
    out_grad = out_grad.astype(jnp.float32).transpose(0, 2, 1, 3)
    grads = []
    for level, cells, height, width in _levels(level_shapes):
        level_grads = _dense_grads if height * width <= DENSE_MAX_CELLS else _gather_grads
        if level_grads is _gather_grads:
            level_grads = functools.partial(_gather_grads, scatter=scatter or globals()["scatter"])
        args = heads_first_value[:, :, cells], x[:, :, level], y[:, :, level], weights[:, :, level]
        grads.append(level_grads(*args, out_grad, height, width))
    value_grads, x_grads, y_grads, weight_grads = zip(*grads, strict=True)
    offsets_grad = jnp.stack([jnp.stack(x_grads, axis=2), jnp.stack(y_grads, axis=2)], axis=-1)
    return (
        jnp.concatenate(value_grads, axis=2).transpose(0, 2, 1, 3).astype(value.dtype),
        offsets_grad.transpose(0, 3, 1, 2, 4, 5).astype(offsets.dtype),
        weights_vjp(jnp.stack(weight_grads, axis=2))[0],
    )


def _locations(offsets: jax.Array, reference: jax.Array, level_shapes: LevelShapes) -> tuple[jax.Array, jax.Array]:
    """x and y in cells of the level, float32 [B, M, L, Q, P]; 0 is the centre of the first cell."""
    sizes_wh = np.array([(width, height) for height, width in level_shapes], np.float32)
    start = (reference * sizes_wh - 0.5)[:, None, :, None, :]
    locations = (start + offsets.astype(jnp.float32)).transpose(0, 2, 3, 1, 4, 5)
    return locations[..., 0], locations[..., 1]


def _weights(scores: jax.Array, softmax: bool) -> jax.Array:
    """float32 [B, M, L, Q, P]."""
    weights = scores.astype(jnp.float32)
    if softmax:
        weights = jax.nn.softmax(weights, axis=(-2, -1))
    return weights.transpose(0, 2, 3, 1, 4)


def _levels(level_shapes: LevelShapes) -> Iterator[tuple[int, slice, int, int]]:
    """(level, its cells in S, h, w) of each level."""
    start = 0
    for level, (height, width) in enumerate(level_shapes):
        yield level, slice(start, start + height * width), height, width
        start += height * width


# The functions below work on one level: value [B, M, h * w, D], x, y and weights [B, M, Q, P], out_grad [B, M, Q, D].


def _hat(distance: jax.Array) -> jax.Array:
    """Bilinear weight of a cell at this distance; written so that NaN stays NaN."""
    return jnp.where(jnp.abs(distance) >= 1, 0.0, 1 - jnp.abs(distance))


def _sampling_matrix(x: jax.Array, y: jax.Array, weights: jax.Array, height: int, width: int) -> jax.Array:
    """A: float32 [B, M, Q, h * w]."""
    matrix = 0.0
    for p in range(x.shape[-1]):
        column = _hat(x[..., p, None] - jnp.arange(width, dtype=jnp.float32))
        row = _hat(y[..., p, None] - jnp.arange(height, dtype=jnp.float32)) * weights[..., p, None]
        matrix += row[..., :, None] * column[..., None, :]
    return matrix.reshape(*x.shape[:-1], height * width)


def _dense_sum(value, x, y, weights, height, width):
    matrix = _sampling_matrix(x, y, weights, height, width)
    return _einsum("bmqs,bmsd->bmqd", matrix, value.astype(jnp.float32))


def _dense_grads(value, x, y, weights, out_grad, height, width):
    matrix = _sampling_matrix(x, y, weights, height, width)
    value_grad = _einsum("bmqs,bmqd->bmsd", matrix, out_grad)
    matrix_grad = _einsum("bmqd,bmsd->bmqs", out_grad, value.astype(jnp.float32))

    def cell_grad(cell: jax.Array) -> jax.Array:
        return jnp.take_along_axis(matrix_grad, cell, axis=-1, mode="promise_in_bounds")

    return value_grad, *_location_grads(cell_grad, x, y, weights, height, width)


def _clip(x: jax.Array, low: float, high: float) -> jax.Array:
    """As jnp.clip, which on a CPU would turn NaN into `low`."""
    return jnp.where(x < low, low, jnp.where(x > high, high, x))


def _corners(x: jax.Array, y: jax.Array, height: int, width: int) -> Iterator[tuple[jax.Array, ...]]:
    """The four cells around (x, y): (cell, weight, d weight / dx, d weight / dy); all zero for cells outside.

    `cell` always indexes into h * w.
    """
    # At -1 and beyond, and at the size and beyond, nothing is sampled; clipping first keeps integers defined for any x.
    beyond = (x <= -1) | (x >= width) | (y <= -1) | (y >= height)
    x_clipped, y_clipped = _clip(x, -1, width), _clip(y, -1, height)
    left, top = jnp.floor(x_clipped), jnp.floor(y_clipped)
    right_part, bottom_part = x_clipped - left, y_clipped - top
    for bottom in (0, 1):
        row = top + bottom
        row_weight = bottom_part if bottom else 1 - bottom_part
        for right in (0, 1):
            column = left + right
            column_weight = right_part if right else 1 - right_part
            # Comparisons with NaN are false: asking for what is outside, instead of inside, lets NaN through.
            is_outside = beyond | (row < 0) | (row >= height) | (column < 0) | (column >= width)
            row_index = jnp.clip(row.astype(jnp.int32), 0, height - 1)
            column_index = jnp.clip(column.astype(jnp.int32), 0, width - 1)
            yield (
                row_index * width + column_index,
                jnp.where(is_outside, 0.0, row_weight * column_weight),
                jnp.where(is_outside, 0.0, row_weight * (1 if right else -1)),
                jnp.where(is_outside, 0.0, column_weight * (1 if bottom else -1)),
            )


def _location_grads(cell_grad: Callable[[jax.Array], jax.Array], x, y, weights, height: int, width: int):
    """Gradients of x, y and weights; `cell_grad` gives the dot product of a cell with the gradient of the output."""
    x_grad = y_grad = weight_grad = 0.0
    for cell, weight, x_slope, y_slope in _corners(x, y, height, width):
        dot = cell_grad(cell)
        weight_grad += dot * weight
        x_grad += dot * x_slope
        y_grad += dot * y_slope
    return x_grad * weights, y_grad * weights, weight_grad


def _take_cells(value: jax.Array, cell: jax.Array) -> jax.Array:
    """[B, M, h * w, D], int32 [B, M, ...] -> [B, M, ..., D]."""
    take = jax.vmap(jax.vmap(lambda cells, index: cells.at[index].get(mode="promise_in_bounds")))
    return take(value, cell)


def scatter(num_cells: int, cell: jax.Array, weight: jax.Array, out_grad: jax.Array) -> jax.Array:
    """Gradient of one level's values: weight times gradient of the output, added to the cells.

    Args:
      num_cells: h * w.
      cell: int32 [B, M, Q, N], in h * w.
      weight: float32 [B, M, Q, N].
      out_grad: float32 [B, M, Q, D].

    Returns:
      float32 [B, M, h * w, D].
    """

    # Batched over images and heads: on GPUs XLA then adds four channels per atomic instruction; over a flat table of
    # all cells it does one channel at a time, in a compare-and-swap loop.
    @jax.vmap
    @jax.vmap
    def add(cell, weight, out_grad):
        zeros = jnp.zeros((num_cells, out_grad.shape[-1]), jnp.float32)
        return zeros.at[cell].add(weight[..., None] * out_grad[:, None, :], mode="promise_in_bounds")

    return add(cell, weight, out_grad)


def _gather_sum(value, x, y, weights, height, width):
    out = 0.0
    for p in range(x.shape[-1]):
        for cell, weight, _, _ in _corners(x[..., p], y[..., p], height, width):
            out += _take_cells(value, cell).astype(jnp.float32) * (weight * weights[..., p])[..., None]
    return out


def _gather_grads(value, x, y, weights, out_grad, height, width, scatter):
    corners = [(cell, weight * weights) for cell, weight, _, _ in _corners(x, y, height, width)]
    cell, weight = (jnp.concatenate(parts, axis=-1) for parts in zip(*corners, strict=True))
    value_grad = scatter(height * width, cell, weight, out_grad)

    def cell_grad(cell: jax.Array) -> jax.Array:
        # A contraction, not a sum of products: on a CPU the reduction would run one number at a time, 6 times slower.
        return _einsum("bmqpd,bmqd->bmqp", _take_cells(value, cell).astype(jnp.float32), out_grad)

    return value_grad, *_location_grads(cell_grad, x, y, weights, height, width)
