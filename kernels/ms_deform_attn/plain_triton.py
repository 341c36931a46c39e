"""`pallas_triton` without Pallas: the same kernels in Triton itself, called through jax_triton.

JAX has deprecated Pallas's Triton back end (0.11.0). When a release drops it, this module takes its place: see
docs/kernels.md. Needs the packages triton (3.6 or newer) and jax_triton (0.3.1 for JAX 0.10, 0.4.1 from JAX 0.11 on).

Kernels take flat arrays; rows are (query, head) pairs of one image. What the kernels do, and why, is told in
`pallas_triton`.
"""

import inspect

import jax
import jax.numpy as jnp
import triton
import triton.language as tl

from kernels.ms_deform_attn.triton_sizes import (
    ATOMIC_CHANNELS,
    BACKWARD_WARPS,
    FORWARD_WARPS,
    LOAD_BYTES,
    LevelShapes,
    block_queries,
    unsupported,
)


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> str | None:
    """See `backends`."""
    return unsupported(value_dtype, head_size, platform, level_shapes, num_points)


def forward(value, offsets, scores, reference, level_shapes: LevelShapes, *, softmax: bool) -> jax.Array:
    """See `backends`."""
    out = jax.ShapeDtypeStruct((*offsets.shape[:3], value.shape[-1]), value.dtype)
    channels = LOAD_BYTES // value.dtype.itemsize
    call = _caller(forward_kernel, value, offsets, level_shapes, softmax, channels, FORWARD_WARPS)
    return call(value, offsets, scores, reference.astype(jnp.float32), out=out)


def backward(value, offsets, scores, reference, level_shapes: LevelShapes, out_grad, *, softmax: bool):
    """See `backends`."""
    out = (
        jax.ShapeDtypeStruct(value.shape, jnp.float32),
        jax.ShapeDtypeStruct(offsets.shape, offsets.dtype),
        jax.ShapeDtypeStruct(scores.shape, scores.dtype),
    )
    call = _caller(backward_kernel, value, offsets, level_shapes, softmax, ATOMIC_CHANNELS, BACKWARD_WARPS)
    arrays = value, offsets, scores, reference.astype(jnp.float32), out_grad
    value_grad, offsets_grad, scores_grad = call(*arrays, out=out, zeroed_outputs=(0,))
    return value_grad.astype(value.dtype), offsets_grad, scores_grad


def kernel_constants(value_shape, offsets_shape, level_shapes, softmax: bool, queries: int) -> dict:
    """Compile-time arguments of both kernels."""
    num_cells, heads, head_size = value_shape[1:]
    return {
        "Q": offsets_shape[1],
        "S": num_cells,
        "M": heads,
        "D": head_size,
        "SHAPES": level_shapes,
        "P": offsets_shape[4],
        "SOFTMAX": softmax,
        "BLOCK": queries,
        "PADDED_D": triton.next_power_of_2(head_size),
    }


def _caller(kernel, value, offsets, level_shapes, softmax: bool, channels_per_thread: int, num_warps: int):
    import jax_triton  # here, so that the kernels can be compiled and interpreted without it

    queries = block_queries(value.shape[-1], channels_per_thread, num_warps)
    batch, num_queries, heads = offsets.shape[:3]
    # Named out_shape up to jax_triton 0.3.
    out_name = "out_type" if "out_type" in inspect.signature(jax_triton.triton_call).parameters else "out_shape"

    def call(*arrays, out, **options):
        return jax_triton.triton_call(
            *arrays,
            kernel=kernel,
            grid=(heads * triton.cdiv(num_queries, queries), batch),
            num_warps=num_warps,
            num_stages=1,
            **{out_name: out},
            **options,
            **kernel_constants(value.shape, offsets.shape, level_shapes, softmax, queries),
        )

    return call


@triton.jit
def forward_kernel(
    value,
    offsets,
    scores,
    reference,
    out,
    Q: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    SHAPES: tl.constexpr,
    P: tl.constexpr,
    SOFTMAX: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED_D: tl.constexpr,
):
    head, image = tl.program_id(0) % M, tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) // M * BLOCK + tl.arange(0, BLOCK)
    existing_query = tl.minimum(query, Q - 1)
    row = existing_query * M + head
    channel = tl.arange(0, PADDED_D)[None, :]
    L: tl.constexpr = len(SHAPES)
    weights = _weights(scores + image * Q * M * L * P, row, L * P, SOFTMAX)
    image_value = value + image * S * M * D + head * D
    image_offsets = offsets + image * Q * M * L * P * 2
    total = tl.zeros((BLOCK, PADDED_D), tl.float32)
    for l in tl.static_range(L):
        start = _first_cell(SHAPES, l)
        for p in tl.static_range(P):
            xs, ys = _location(
                image_offsets + (row * L * P + l * P + p) * 2,
                reference + (existing_query * L + l) * 2,
                SHAPES[l][0],
                SHAPES[l][1],
            )
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    cell = start + ys[i][0] * SHAPES[l][1] + xs[j][0]
                    values = tl.load(image_value + cell[:, None] * (M * D) + channel, mask=channel < D, other=0.0)
                    total += (ys[i][1] * xs[j][1] * weights[l * P + p])[:, None] * values.to(tl.float32)
    row_out = out + image * Q * M * D + (query * M + head)[:, None] * D
    tl.store(row_out + channel, total, mask=(query < Q)[:, None] & (channel < D))


@triton.jit
def backward_kernel(
    value,
    offsets,
    scores,
    reference,
    out_grad,
    value_grad,
    offsets_grad,
    scores_grad,
    Q: tl.constexpr,
    S: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    SHAPES: tl.constexpr,
    P: tl.constexpr,
    SOFTMAX: tl.constexpr,
    BLOCK: tl.constexpr,
    PADDED_D: tl.constexpr,
):
    head, image = tl.program_id(0) % M, tl.program_id(1).to(tl.int64)
    query = tl.program_id(0) // M * BLOCK + tl.arange(0, BLOCK)
    is_query = query < Q
    existing_query = tl.minimum(query, Q - 1)
    row = existing_query * M + head
    # Four channels per thread: what one atomic instruction adds.
    channel = tl.max_contiguous(tl.arange(0, PADDED_D), 4)[None, :]
    L: tl.constexpr = len(SHAPES)
    image_scores = image * Q * M * L * P
    weights = _weights(scores + image_scores, row, L * P, SOFTMAX)
    gradient = tl.load(out_grad + image * Q * M * D + row[:, None] * D + channel, mask=channel < D, other=0.0)
    gradient = gradient.to(tl.float32)
    weight_grads = ()
    for l in tl.static_range(L):
        start = _first_cell(SHAPES, l)
        for p in tl.static_range(P):
            sample = image_scores * 2 + (row * L * P + l * P + p) * 2
            xs, ys = _location(offsets + sample, reference + (existing_query * L + l) * 2, SHAPES[l][0], SHAPES[l][1])
            weight_grad = tl.zeros((BLOCK,), tl.float32)
            x_grad = weight_grad
            y_grad = weight_grad
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    cell = start + ys[i][0] * SHAPES[l][1] + xs[j][0]
                    at = image * S * M * D + head * D + cell[:, None] * (M * D) + channel
                    values = tl.load(value + at, mask=channel < D, other=0.0).to(tl.float32)
                    dot = tl.sum(values * gradient, axis=1)
                    weight_grad += ys[i][1] * xs[j][1] * dot
                    x_grad += ys[i][1] * xs[j][2] * dot
                    y_grad += ys[i][2] * xs[j][1] * dot
                    weight = ys[i][1] * xs[j][1] * weights[l * P + p]
                    is_added = (is_query & (weight != 0))[:, None] & (channel < D)
                    tl.atomic_add(value_grad + at, weight[:, None] * gradient, mask=is_added, sem="relaxed")
            tl.store(offsets_grad + sample, x_grad * weights[l * P + p], mask=is_query)
            tl.store(offsets_grad + sample + 1, y_grad * weights[l * P + p], mask=is_query)
            weight_grads = weight_grads + (weight_grad,)
    mean_grad = tl.zeros((BLOCK,), tl.float32)
    if SOFTMAX:
        for k in tl.static_range(L * P):
            mean_grad += weights[k] * weight_grads[k]
    for k in tl.static_range(L * P):
        score_grad = weight_grads[k]
        if SOFTMAX:
            score_grad = weights[k] * (score_grad - mean_grad)
        tl.store(scores_grad + image_scores + row * L * P + k, score_grad, mask=is_query)


@triton.jit
def _first_cell(SHAPES: tl.constexpr, level: tl.constexpr):
    cells = 0
    for l in tl.static_range(level):
        cells += SHAPES[l][0] * SHAPES[l][1]
    return cells


@triton.jit
def _weights(scores, row, NUM: tl.constexpr, SOFTMAX: tl.constexpr):
    """Of all L * P points, each [BLOCK]."""
    weights = ()
    highest = tl.full(row.shape, float("-inf"), tl.float32)
    for k in tl.static_range(NUM):
        weights = weights + (tl.load(scores + row * NUM + k).to(tl.float32),)
        highest = tl.maximum(highest, weights[k])
    if SOFTMAX:
        exponentials = ()
        total = tl.zeros_like(highest)
        for k in tl.static_range(NUM):
            exponentials = exponentials + (tl.exp(weights[k] - highest),)
            total += exponentials[k]
        weights = ()
        for k in tl.static_range(NUM):
            weights = weights + (exponentials[k] / total,)
    return weights


@triton.jit
def _location(offset, reference, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Cells around the location that two pointers (to x, followed by y) give: of x, of y; each as `_axis` returns."""
    x = tl.load(reference) * WIDTH - 0.5 + tl.load(offset).to(tl.float32)
    y = tl.load(reference + 1) * HEIGHT - 0.5 + tl.load(offset + 1).to(tl.float32)
    return _axis(x, WIDTH), _axis(y, HEIGHT)


@triton.jit
def _axis(x, SIZE: tl.constexpr):
    """The two cells around x: ((cell, weight, d weight / dx), same of the next cell)."""
    first = tl.floor(tl.minimum(tl.maximum(x, -1.0), SIZE - 1.0)).to(tl.int32)
    part = x - first.to(tl.float32)
    is_outside = (x < 0) | (x >= SIZE)
    is_next_outside = (x <= -1) | (x >= SIZE - 1)
    this = (tl.maximum(first, 0), tl.where(is_outside, 0.0, 1 - part), tl.where(is_outside, 0.0, -1.0))
    following = (
        tl.minimum(first + 1, SIZE - 1),
        tl.where(is_next_outside, 0.0, part),
        tl.where(is_next_outside, 0.0, 1.0),
    )
    return this, following
