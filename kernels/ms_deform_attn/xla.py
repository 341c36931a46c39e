"""Multi-scale deformable attention in plain XLA, for every platform.

Forward: the 4 * L * P corner cells of a query are added one by one, so that XLA fuses all gathers into one loop and
stores no gathered cell. That loop runs on all cores of a CPU.

Backward, per image and head (S cells of D channels fit into a core's cache):

- the value gradient is a scatter: each of the 4 * L * P cells gets weight * gradient of the output;
- the others need, for each of these cells, its dot product with the gradient of the output.

On a CPU the queries are taken a chunk at a time: what is scattered and what was gathered (4 * L * P * D numbers per
query) then stay in the cache, which makes the scatter three times as fast. Maps of few cells are left to `small_maps`
there. On other platforms one scatter takes all queries of all images and heads.

Locations, weights and accumulation are float32 whatever the dtype of the values. At a whole pixel, where bilinear
interpolation has a kink, the gradient of a location is the one to the right (as in PyTorch's grid_sample).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from kernels.ms_deform_attn import sampling, small_maps

LevelShapes = sampling.LevelShapes

# What is gathered or scattered of a chunk of queries on a CPU; measured on a core with 2 MiB of second-level cache.
_CHUNK_BYTES = 768 * 2**10


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> None:
    """Everything, everywhere."""
    return None


def forward(value, offsets, scores, reference, level_shapes: LevelShapes, *, softmax: bool) -> jax.Array:
    """See `backends`."""
    run = functools.partial(_forward, level_shapes=level_shapes, softmax=softmax)

    def float32_cells(value, *args):
        return run(value.astype(jnp.float32), *args).astype(value.dtype)

    def two_halves(value, offsets, scores, reference):
        middle = -(-offsets.shape[1] // 2)
        first = run(value, offsets[:, :middle], scores[:, :middle], reference[:middle])
        second = run(value, offsets[:, middle:], scores[:, middle:], reference[middle:])
        return jnp.concatenate([first, second], axis=1)

    return jax.lax.platform_dependent(
        value,
        offsets,
        scores,
        reference,
        # Where the caller joins heads and channels, XLA would loop over both at once and compute every index anew for
        # every channel: 5 times as slow. What is concatenated keeps a loop over its own shape.
        cpu=two_halves,
        # XLA's GPU back ends would store every cell that is gathered in bfloat16; TPUs gather half the bytes twice as
        # fast.
        cuda=float32_cells,
        rocm=float32_cells,
        default=run,
    )


def _forward(value, offsets, scores, reference, *, level_shapes: LevelShapes, softmax: bool) -> jax.Array:
    batch, num_cells, heads, head_size = value.shape
    table = value.reshape(-1, head_size)
    image = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    head = jnp.arange(heads, dtype=jnp.int32)
    x, y = sampling.locations(offsets, reference, level_shapes)
    weights = sampling.attention_weights(scores, softmax)
    out, start = 0.0, 0
    for level, (height, width) in enumerate(level_shapes):
        for point in range(offsets.shape[4]):
            at = (..., level, point)
            for bottom in (0, 1):
                row, row_weight, _ = sampling.neighbor(y[at], height, bottom)
                for right in (0, 1):
                    column, column_weight, _ = sampling.neighbor(x[at], width, right)
                    cell = image * num_cells + start + row * width + column
                    cells = table.at[cell * heads + head].get(mode="promise_in_bounds")
                    out += cells.astype(jnp.float32) * (row_weight * column_weight * weights[at])[..., None]
        start += height * width
    return out.astype(value.dtype)


def backward(value, offsets, scores, reference, level_shapes: LevelShapes, out_grad, *, softmax: bool):
    """See `backends`."""
    passes = functools.partial(grads, level_shapes=level_shapes, softmax=softmax)
    head_size, samples = value.shape[-1], offsets.shape[3] * offsets.shape[4]
    chunk = max(1, _CHUNK_BYTES // (4 * samples * head_size * 4))
    return jax.lax.platform_dependent(
        value,
        offsets,
        scores,
        reference,
        out_grad,
        cpu=functools.partial(small_maps.backward, level_shapes=level_shapes, softmax=softmax)
        if small_maps.takes(level_shapes)
        else functools.partial(passes, chunk=chunk, over_heads=one_by_one, dots=dots_by_matmul),
        # Batched over images and heads: on GPUs XLA then adds four channels per atomic instruction; over a flat table
        # of all cells it does one channel at a time, in a compare-and-swap loop.
        default=functools.partial(passes, chunk=None, over_heads=jax.vmap),
    )


def add_to_cells(num_cells: int, cell: jax.Array, update: jax.Array, total: jax.Array | None) -> jax.Array:
    """Adds update float32 [N, D] to the cells int32 [N] of total float32 [num_cells, D], or of zeros."""
    if total is None:
        total = jnp.zeros((num_cells, update.shape[-1]), jnp.float32)
    return total.at[cell].add(update, mode="promise_in_bounds")


def _dots(rows: jax.Array, vectors: jax.Array) -> jax.Array:
    """[N, Q, D], [Q, D] -> [N, Q]: dot products."""
    return jnp.sum(rows * vectors, axis=-1)


def dots_by_matmul(rows: jax.Array, vectors: jax.Array) -> jax.Array:
    """The same; a CPU would sum the last axis one number at a time, so it multiplies by a vector of ones instead."""
    products = (rows * vectors).reshape(-1, rows.shape[-1])
    return jnp.dot(products, jnp.ones(rows.shape[-1], jnp.float32), precision="highest").reshape(rows.shape[:-1])


def one_by_one(function: Callable) -> Callable:
    """As jax.vmap, but in a loop."""
    return lambda *arrays: jax.lax.map(lambda one: function(*one), arrays)


def grads(
    value: jax.Array,
    offsets: jax.Array,
    scores: jax.Array,
    reference: jax.Array,
    out_grad: jax.Array,
    *,
    level_shapes: LevelShapes,
    softmax: bool,
    chunk: int | None,
    over_heads: Callable[[Callable], Callable],
    add: Callable = add_to_cells,
    dots: Callable = _dots,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The backward pass in all its forms.

    Args:
      value, offsets, scores, reference, out_grad, level_shapes, softmax: as in `backends`.
      chunk: so many queries at a time; None takes all at once.
      over_heads: turns the function of one image and head into that of all; `jax.vmap` or a loop.
      add: as `add_to_cells`.
      dots: as `_dots`.

    Returns:
      The gradients of value, offsets and scores, each of its dtype.
    """
    batch, num_queries, heads, levels, num_points, _ = offsets.shape
    chunk = min(chunk or num_queries, num_queries)
    num_chunks = -(-num_queries // chunk)
    padding = num_chunks * chunk - num_queries

    def split(array: jax.Array) -> jax.Array:
        """[B, Q, M, ...] -> [B * M, num_chunks, ..., chunk]"""
        array = jnp.pad(array, [(0, 0), (0, padding)] + [(0, 0)] * (array.ndim - 2))
        array = array.reshape(batch, num_chunks, chunk, *array.shape[2:])
        array = jnp.moveaxis(jnp.moveaxis(array, 2, -1), 2, 1)
        return array.reshape(-1, *array.shape[2:])

    def merge(array: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        array = jnp.moveaxis(array.reshape(batch, heads, *array.shape[1:]), 1, 2)
        array = jnp.moveaxis(array, -1, 2)
        return array.reshape(batch, -1, *array.shape[3:])[:, :num_queries]

    x, y = sampling.locations(offsets, reference, level_shapes)
    weights, weights_vjp = jax.vjp(functools.partial(sampling.attention_weights, softmax=softmax), scores)
    value_grad, x_grad, y_grad, weights_grad = over_heads(
        functools.partial(_head_grads, level_shapes=level_shapes, add=add, dots=dots)
    )(
        value.astype(jnp.float32).swapaxes(1, 2).reshape(-1, value.shape[1], value.shape[3]),
        split(x),
        split(y),
        split(weights),
        split(out_grad.astype(jnp.float32)).swapaxes(-1, -2),
    )
    value_grad = value_grad.reshape(batch, heads, *value_grad.shape[1:]).swapaxes(1, 2)
    offsets_grad = jnp.stack([merge(x_grad), merge(y_grad)], axis=-1)
    return value_grad.astype(value.dtype), offsets_grad.astype(offsets.dtype), weights_vjp(merge(weights_grad))[0]


def _head_grads(value, x, y, weights, out_grad, *, level_shapes: LevelShapes, add: Callable, dots: Callable):
    """One image and head: value [S, D], x, y and weights [N, L, P, Q], out_grad [N, Q, D]; N chunks of Q queries.

    Returns the gradients of value, x, y and weights.
    """
    num_cells = value.shape[0]
    sizes = np.array(level_shapes, np.int32)[..., None, None]  # [L, 2, 1, 1]
    height, width = sizes[:, 0], sizes[:, 1]
    start = np.concatenate([[0], np.cumsum([h * w for h, w in level_shapes])[:-1]]).astype(np.int32)[:, None, None]
    # The four corners as an axis of their own: [N, 4, L, P, Q].
    bottom = np.array([0, 0, 1, 1])[:, None, None, None]
    right = np.array([0, 1, 0, 1])[:, None, None, None]
    row, row_weight, row_slope = sampling.neighbor(y[:, None], height, bottom)
    column, column_weight, column_slope = sampling.neighbor(x[:, None], width, right)
    cell = start + row * width + column
    corner_weight = row_weight * column_weight

    def of_chunk(total, queries):
        cell, weight, out_grad = queries
        update = (weight[..., None] * out_grad).reshape(-1, out_grad.shape[-1])
        total = add(num_cells, cell.reshape(-1), update, total)
        rows = value.at[cell.reshape(-1)].get(mode="promise_in_bounds")
        return total, dots(rows.reshape(-1, *out_grad.shape), out_grad).reshape(cell.shape)

    chunks = cell, corner_weight * weights[:, None], out_grad
    if x.shape[0] == 1:
        value_grad, dot = of_chunk(None, [array[0] for array in chunks])
        dot = dot[None]
    else:
        value_grad, dot = jax.lax.scan(of_chunk, jnp.zeros(value.shape, jnp.float32), chunks)
    x_grad = (dot * row_weight * column_slope).sum(1) * weights
    y_grad = (dot * column_weight * row_slope).sum(1) * weights
    return value_grad, x_grad, y_grad, (dot * corner_weight).sum(1)
