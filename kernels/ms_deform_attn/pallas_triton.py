"""Multi-scale deformable attention for NVIDIA GPUs in Pallas, lowered to Triton (JAX 0.10 and 0.11).

One program computes a few queries of one head of one image, so few that no thread works on two. All points are
unrolled; a point is four gathers of a [queries, D] tile, one per corner of its cell. Softmax and locations are computed
inside, so neither goes through memory. Every index is clamped into its level, so that no load needs a mask and none can
leave the array; what lies outside counts by a weight of zero.

The backward kernel recomputes the weights. It adds to the gradient of the values with atomic additions: their order,
and with it the last bits of that gradient, differ from run to run. The buffer they add to is float32 whatever the dtype
of the values.

Pallas's own `atomic_add` asks for acquire-release order, which costs a memory barrier over the whole GPU per addition.
Nothing here reads what others add, so `_scatter_add` asks for relaxed order instead.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax._src.pallas.triton import lowering as _triton_lowering
from jax._src.pallas.triton import primitives as _triton_primitives
from jax._src.state import discharge as _discharge
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plt
from jax.extend import core as _core
from jax.extend.mlir import ir as _ir

from kernels.ms_deform_attn import triton_sizes
from kernels.ms_deform_attn.triton_sizes import (
    ATOMIC_CHANNELS,
    BACKWARD_WARPS,
    FORWARD_WARPS,
    LOAD_BYTES,
    LevelShapes,
    unsupported,
)


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> str | None:
    """See `backends`."""
    reason = unsupported(value_dtype, head_size, platform, level_shapes, num_points)
    return reason or _why_pallas_refuses()


def _why_pallas_refuses() -> str | None:
    """Why Pallas has no Triton for the GPU that is compiled for, or None.

    JAX 0.10 asks the GPU for its compute capability. JAX 0.11 looks its name up in a table, which in 0.11.0 and 0.11.1
    lacks many (GeForce RTX 3090, RTX A6000, L40S ...): for those the lowering would fail.
    """
    if not hasattr(plt, "get_gpu_info"):
        return None
    try:
        plt.get_gpu_info()
    except ValueError as error:
        return f"Pallas does not know this GPU ({error})"
    return None


def forward(
    value: jax.Array,
    offsets: jax.Array,
    scores: jax.Array,
    reference: jax.Array,
    level_shapes: LevelShapes,
    *,
    softmax: bool,
    block_queries: int | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Output [B, Q, M, D] of the dtype of `value`.

    Args:
      value: [B, S, M, D], float32 or bfloat16.
      offsets: [B, Q, M, L, P, 2], (x, y) in pixels of the level.
      scores: [B, Q, M, L, P]; logits if `softmax`, else weights.
      reference: float32 [Q, L, 2], (x, y) normalized to the level.
      level_shapes: static (h, w) per level.
      softmax: whether to take the softmax of `scores` over L * P.
      block_queries: queries per program, a power of two; None takes one per group of threads that shares a query.
      interpret: run as plain JAX operations, on any platform.
    """
    batch, num_queries, heads = offsets.shape[:3]
    num_warps = FORWARD_WARPS
    block_queries = block_queries or triton_sizes.block_queries(
        value.shape[-1], LOAD_BYTES // value.dtype.itemsize, num_warps
    )
    kernel = functools.partial(_forward_kernel, level_shapes=level_shapes, softmax=softmax, block_queries=block_queries)
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((batch, num_queries, heads, value.shape[-1]), value.dtype),
        grid=(heads * pl.cdiv(num_queries, block_queries), batch),
        compiler_params=plt.CompilerParams(num_warps=num_warps, num_stages=1),
        interpret=interpret,
        name="ms_deform_attn_forward",
    )(*_flat(value, offsets, scores, reference))


def backward(
    value: jax.Array,
    offsets: jax.Array,
    scores: jax.Array,
    reference: jax.Array,
    level_shapes: LevelShapes,
    out_grad: jax.Array,
    *,
    softmax: bool,
    block_queries: int | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of (value, offsets, scores), each of the shape and dtype of its input.

    Args:
      value: see `forward`, also for all arguments not listed here.
      out_grad: [B, Q, M, D].
    """
    batch, num_queries, heads, levels, points, _ = offsets.shape
    num_warps = BACKWARD_WARPS
    block_queries = block_queries or triton_sizes.block_queries(value.shape[-1], ATOMIC_CHANNELS, num_warps)
    kernel = functools.partial(
        _backward_kernel, level_shapes=level_shapes, softmax=softmax, block_queries=block_queries
    )
    inputs = (*_flat(value, offsets, scores, reference), out_grad)
    value_grad, offsets_grad, scores_grad = pl.pallas_call(
        kernel,
        out_shape=(
            jax.ShapeDtypeStruct(value.shape, jnp.float32),
            jax.ShapeDtypeStruct((batch, num_queries, heads, levels * points * 2), offsets.dtype),
            jax.ShapeDtypeStruct((batch, num_queries, heads, levels * points), scores.dtype),
        ),
        grid=(heads * pl.cdiv(num_queries, block_queries), batch),
        # The atomic additions start from these zeros, in place.
        input_output_aliases={len(inputs): 0},
        compiler_params=plt.CompilerParams(num_warps=num_warps, num_stages=1),
        interpret=interpret,
        name="ms_deform_attn_backward",
    )(*inputs, jnp.zeros(value.shape, jnp.float32))
    return value_grad.astype(value.dtype), offsets_grad.reshape(offsets.shape), scores_grad.reshape(scores.shape)


def _flat(value, offsets, scores, reference):
    """Levels and points as one axis: offsets [B, Q, M, L * P * 2], scores [B, Q, M, L * P], reference [Q, L * 2]."""
    return (
        value,
        offsets.reshape(*offsets.shape[:3], -1),
        scores.reshape(*scores.shape[:3], -1),
        reference.astype(jnp.float32).reshape(reference.shape[0], -1),
    )


def _forward_kernel(
    value_ref, offsets_ref, scores_ref, reference_ref, out_ref, *, level_shapes, softmax, block_queries
):
    head, block, image = _program(value_ref.shape[2])
    query, query_clamped, is_query = _queries(block, block_queries, out_ref.shape[1])
    channel, is_channel = _channels(value_ref.shape[-1], block_queries)
    weights, scale = _softmax(scores_ref, image, query_clamped, head, softmax)
    out = jnp.zeros((block_queries, channel.shape[1]), jnp.float32)
    for point, cells, height, width in _points(level_shapes, len(weights)):
        x, y = _location(offsets_ref, reference_ref, image, query_clamped, head, point, len(weights), height, width)
        for corner, cell_weight, _, _ in _corners(x, y, height, width):
            cell_values = plt.load(
                value_ref.at[image, (cells + corner)[:, None], head, channel], mask=is_channel, other=_zero(is_channel)
            )
            out += (cell_weight * weights[point])[:, None] * cell_values.astype(jnp.float32)
    out *= scale[:, None]
    plt.store(
        out_ref.at[image, query[:, None], head, channel], out.astype(out_ref.dtype), mask=_both(is_query, is_channel)
    )


def _backward_kernel(
    value_ref,
    offsets_ref,
    scores_ref,
    reference_ref,
    out_grad_ref,
    _zeros_ref,
    value_grad_ref,
    offsets_grad_ref,
    scores_grad_ref,
    *,
    level_shapes,
    softmax,
    block_queries,
):
    head, block, image = _program(value_ref.shape[2])
    query, query_clamped, is_query = _queries(block, block_queries, out_grad_ref.shape[1])
    # Also where bfloat16 loads could take eight channels per thread: atomic additions could not, and every corner's
    # update would be exchanged between threads.
    channel, is_channel = _channels(value_ref.shape[-1], block_queries, per_thread=ATOMIC_CHANNELS)
    out_grad = plt.load(
        out_grad_ref.at[image, query_clamped[:, None], head, channel], mask=is_channel, other=_zero(is_channel)
    ).astype(jnp.float32)
    weights, scale = _softmax(scores_ref, image, query_clamped, head, softmax)
    weights = [weight * scale for weight in weights]
    weight_grads = []
    for point, cells, height, width in _points(level_shapes, len(weights)):
        x, y = _location(offsets_ref, reference_ref, image, query_clamped, head, point, len(weights), height, width)
        x_grad = y_grad = weight_grad = jnp.zeros((block_queries,), jnp.float32)
        for corner, cell_weight, x_slope, y_slope in _corners(x, y, height, width):
            index = (image, (cells + corner)[:, None], head, channel)
            cell_values = plt.load(value_ref.at[index], mask=is_channel, other=_zero(is_channel))
            dot = jnp.sum(cell_values.astype(jnp.float32) * out_grad, axis=1)
            weight_grad += cell_weight * dot
            x_grad += x_slope * dot
            y_grad += y_slope * dot
            corner_weight = cell_weight * weights[point]
            # Adding zeros costs as much as adding anything else; NaN differs from zero and is added.
            is_added = _both(is_query & (corner_weight != 0), is_channel)
            _scatter_add(value_grad_ref.at[index], corner_weight[:, None] * out_grad, is_added)
        weight_grads.append(weight_grad)
        for axis, grad in enumerate((x_grad, y_grad)):
            grad = (grad * weights[point]).astype(offsets_grad_ref.dtype)
            plt.store(offsets_grad_ref.at[image, query, head, 2 * point + axis], grad, mask=is_query)
    mean_grad = 0.0
    if softmax:
        mean_grad = sum(weight * grad for weight, grad in zip(weights, weight_grads, strict=True))
    for point, grad in enumerate(weight_grads):
        if softmax:
            grad = weights[point] * (grad - mean_grad)
        plt.store(scores_grad_ref.at[image, query, head, point], grad.astype(scores_grad_ref.dtype), mask=is_query)


def _program(heads: int):
    """(head, block of queries, image): heads change fastest, for those of one query share cache lines.

    Heads and blocks are one axis of the grid, as only its first may be longer than 65535.
    """
    program, heads = pl.program_id(0), jnp.int32(heads)
    return jax.lax.rem(program, heads), jax.lax.div(program, heads), pl.program_id(1)


def _queries(block, block_queries: int, num_queries: int):
    """Queries of a program: index, index clamped to those that exist, whether it exists; each [block_queries]."""
    query = block * block_queries + jnp.arange(block_queries, dtype=jnp.int32)
    return query, jnp.minimum(query, num_queries - 1), query < num_queries


def _channels(num_channels: int, block_queries: int, per_thread: int | None = None):
    """Channel index [1, D up to the next power of two], and whether it exists, or None where all do."""
    padded = pl.next_power_of_2(num_channels)
    channel = jnp.arange(padded, dtype=jnp.int32)
    if per_thread is not None:
        channel = plt.max_contiguous(channel, per_thread)
    channel = channel[None, :]
    if padded == num_channels:
        return channel, None
    return channel, jnp.broadcast_to(channel < num_channels, (block_queries, padded))


def _zero(mask):
    return None if mask is None else 0.0


def _both(rows, tile):
    """[block_queries], [block_queries, D] or None -> a mask that broadcasts to [block_queries, D]."""
    return rows[:, None] if tile is None else rows[:, None] & tile


def _softmax(scores_ref, image, query, head, softmax: bool):
    """Per point a weight [block_queries], unnormalized, and their common factor [block_queries]."""
    num_points = scores_ref.shape[-1]
    scores = [plt.load(scores_ref.at[image, query, head, k]).astype(jnp.float32) for k in range(num_points)]
    if not softmax:
        return scores, jnp.ones(query.shape, jnp.float32)
    highest = functools.reduce(jnp.maximum, scores)
    weights = [jnp.exp2((score - highest) * math.log2(math.e)) for score in scores]
    return weights, 1 / sum(weights)


def _points(level_shapes: LevelShapes, num_points: int):
    """(point, its level's first cell, h, w) of all L * P points."""
    points_per_level = num_points // len(level_shapes)
    first_cell = 0
    for level, (height, width) in enumerate(level_shapes):
        for point in range(level * points_per_level, (level + 1) * points_per_level):
            yield point, first_cell, height, width
        first_cell += height * width


def _location(offsets_ref, reference_ref, image, query, head, point: int, num_points: int, height: int, width: int):
    """(x, y) in pixels of the level, each float32 [block_queries]."""
    level = point // (num_points // (reference_ref.shape[-1] // 2))
    location = []
    for axis, size in enumerate((width, height)):
        offset = plt.load(offsets_ref.at[image, query, head, 2 * point + axis]).astype(jnp.float32)
        location.append(plt.load(reference_ref.at[query, 2 * level + axis]) * size - 0.5 + offset)
    return location


def _axis(x, size: int):
    """The two cells around x on one axis of `size` cells: ((cell, weight, d weight / dx), same of the next cell).

    Cells outside have an index inside and a weight of zero. The conversion to integers sees -1..size - 1 for any x:
    Triton's minimum and maximum drop NaN. Comparisons with NaN are false, so that NaN is never outside.
    """
    first = jnp.floor(jnp.clip(x, -1, size - 1)).astype(jnp.int32)
    part = x - first.astype(jnp.float32)
    is_outside = (x < 0) | (x >= size)
    is_next_outside = (x <= -1) | (x >= size - 1)
    return (
        (jnp.maximum(first, 0), jnp.where(is_outside, 0.0, 1 - part), jnp.where(is_outside, 0.0, -1.0)),
        (jnp.minimum(first + 1, size - 1), jnp.where(is_next_outside, 0.0, part), jnp.where(is_next_outside, 0.0, 1.0)),
    )


def _corners(x, y, height: int, width: int):
    """The four cells around (x, y): (cell, weight, d weight / dx, d weight / dy), each [block_queries]."""
    columns, rows = _axis(x, width), _axis(y, height)
    for row, row_weight, row_slope in rows:
        for column, column_weight, column_slope in columns:
            yield (
                row * width + column,
                row_weight * column_weight,
                row_weight * column_slope,
                row_slope * column_weight,
            )


# Atomic addition with relaxed order: a primitive that is Pallas's `atomic_rmw` except for the order. In interpret mode
# equal indices in one call add up, and masks work (with Pallas's own neither does).

_scatter_add_p = _core.Primitive("relaxed_atomic_add")


def _scatter_add(view, update, mask) -> None:
    """view += update where mask; `view` is `ref.at[indices]`, `update` [block_queries, D]."""
    leaves, tree = jax.tree.flatten((view.ref, view.transforms, update, jnp.broadcast_to(mask, update.shape)))
    _scatter_add_p.bind(*leaves, args_tree=tree, atomic_type=_triton_primitives.AtomicOpType.ADD)


_scatter_add_p.def_effectful_abstract_eval(_triton_primitives.atomic_rmw_p.abstract_eval)


@_triton_lowering.register_lowering(_scatter_add_p)
def _scatter_add_to_triton(ctx, *leaves, **params):
    old = _triton_lowering.triton_lowering_rules[_triton_primitives.atomic_rmw_p](ctx, *leaves, **params)
    relaxed = 1  # tt.mem_semantic
    attributes = old.owner.attributes
    attributes["sem"] = _ir.IntegerAttr.get(attributes["sem"].type, relaxed)
    return old


@_discharge.register_discharge_rule(_scatter_add_p)
def _scatter_add_as_jax(*args, args_tree, atomic_type):
    del atomic_type
    # What comes before the leaves differs between JAX 0.10 and 0.11.
    ref, (indexer,), update, mask = args_tree.unflatten(args[-args_tree.num_leaves :])
    old = ref[indexer.indices]
    new = ref.at[indexer.indices].add(jnp.where(mask, update, 0))
    return (new, *[None] * (args_tree.num_leaves - 1)), old
