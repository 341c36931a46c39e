"""Multi-scale deformable attention for TPUs, in Pallas: sampling as matrix products, without gather or scatter.

TPUs have no fast gather, but bilinear sampling is linear in the values. For a tile of 128 queries and a block of 128
cells (8 x 16 of one level), the matrix

    A[cell, query] = sum over points p of  weight_p * hat(y_p - row) * hat(x_p - column),    hat(d) = max(0, 1 - |d|)

holds the bilinear weights times the attention weights, and

    out[:, query] += value_block [D, 128] @ A                              forward
    value_block_grad [D, 128] += out_grad [D, 128] @ A^T                   backward; no scatter, same bits in every run
    A_grad = value_block^T @ out_grad                                      backward; then location and weight gradients

Each tile visits the blocks of every level that lie within the rectangle around its samples, found from the data
beforehand. So the result is exact for any offset; only the time depends on how far the offsets spread. Queries are put
into tiles of 8 x 16 neighbors where they are the cells of the levels themselves (Q == S, as in an encoder), which
keeps these rectangles small; otherwise a tile is 128 consecutive queries.

Precision: locations, softmax and sums are float32. With bfloat16 values, A is rounded to bfloat16 at the input of the
matrix unit, as the values are; with float32 values the products have full float32 precision.

Layout inside this file: everything lies in [B, tiles, heads, ..., 128], queries or cells of a tile in the 128 lanes.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from kernels.ms_deform_attn import pallas_tpu_tiles
from kernels.ms_deform_attn.pallas_tpu_tiles import (
    LANES,
    TILE_COLUMNS,
    TILE_ROWS,
    LevelShapes,
    grid_of_tiles,
    num_tiles,
)

# Of the 16 MiB of VMEM of the smallest chip (TPU v4; the others have 64 to 128 MiB).
VMEM_BUDGET_BYTES = 12 * 2**20
# Query tiles per grid step: enough that the cost of a step (about 0.35 us) does not count.
TILES_PER_STEP = 38
# Blocks per iteration of the inner loop: more hide the latency of the matrix unit better, but round up the work.
FORWARD_UNROLL, BACKWARD_UNROLL = 2, 2
# Stands for the location of what is not sampled; no cell is within reach.
_NOWHERE = -1e4


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> str | None:
    """None if `forward` and `backward` can compute this on the platform, or else the reason why not."""
    del num_points  # any
    if platform != "tpu":
        return f"it needs a TPU, and this is compiled for {platform}"
    if head_size % 4:
        return f"the head size must be a multiple of 4, found {head_size}"
    if max(max(shape) for shape in level_shapes) > 8 * 127:
        return f"a level has at most {8 * 127} rows and columns, found {level_shapes}"
    values = num_tiles(level_shapes) * head_size * LANES
    needed = values * (jnp.dtype(value_dtype).itemsize + 4)  # one head's values and their float32 gradients
    if needed > VMEM_BUDGET_BYTES:
        return (
            f"levels {level_shapes} of head size {head_size} need {needed / 2**20:.1f} MiB of VMEM in the backward "
            f"pass; at most {VMEM_BUDGET_BYTES / 2**20:.0f} MiB are used"
        )
    return None


def forward(value, offsets, scores, reference, level_shapes: LevelShapes, *, softmax: bool, interpret: bool = False):
    """[B, Q, M, D] of the dtype of `value`; arguments as in `backends`."""
    sizes = _Sizes.of(value, offsets, level_shapes, interpret)
    blocks = _value_blocks(value, sizes)
    x, y, weights, bounds = _samples(offsets, scores, reference, sizes, softmax)
    out = pl.pallas_call(
        functools.partial(_forward_kernel, sizes=sizes),
        out_shape=jax.ShapeDtypeStruct(sizes.out_tiles, value.dtype),
        in_specs=[sizes.bounds_spec(), *[sizes.query_spec(sizes.samples)] * 3, sizes.value_spec()],
        out_specs=sizes.query_spec(sizes.head_size),
        scratch_shapes=sizes.hat_scratch(),
        **sizes.call_options("ms_deform_attn_forward"),
    )(bounds, x, y, weights, blocks)
    out = out.reshape(*out.shape[:2], -1, LANES)
    out = pallas_tpu_tiles.from_tiles(out, sizes.query_shapes, value.dtype, interpret=interpret)
    return out[:, : sizes.num_queries].reshape(sizes.out)


def backward(
    value, offsets, scores, reference, level_shapes: LevelShapes, out_grad, *, softmax: bool, interpret: bool = False
):
    """Gradients of value, offsets and scores, of their dtypes; arguments as in `backends`."""
    sizes = _Sizes.of(value, offsets, level_shapes, interpret)
    blocks = _value_blocks(value, sizes)
    x, y, weights, bounds = _samples(offsets, scores, reference, sizes, softmax)
    out_grad = _pad_queries(out_grad.astype(value.dtype), sizes)
    out_grad = pallas_tpu_tiles.to_tiles(out_grad, sizes.query_shapes, interpret=interpret)
    samples = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    sample_spec = sizes.query_spec(sizes.samples)
    blocks_grad, x_grad, y_grad, scores_grad = pl.pallas_call(
        functools.partial(_backward_kernel, sizes=sizes, softmax=softmax),
        out_shape=[jax.ShapeDtypeStruct(sizes.value_tiles, jnp.float32), samples, samples, samples],
        in_specs=[sizes.bounds_spec(), *[sample_spec] * 3, sizes.query_spec(sizes.head_size), sizes.value_spec()],
        out_specs=[sizes.value_spec(), *[sample_spec] * 3],
        scratch_shapes=[*sizes.hat_scratch(), *sizes.gradient_scratch()],
        **sizes.call_options("ms_deform_attn_backward"),
    )(bounds, x, y, weights, out_grad.reshape(sizes.out_tiles), blocks)
    blocks_grad = blocks_grad.reshape(*blocks.shape[:2], -1, LANES)
    value_grad = pallas_tpu_tiles.from_tiles(blocks_grad, level_shapes, value.dtype, interpret=interpret)
    offsets_grad, scores_grad = _sample_grads(x_grad, y_grad, scores_grad, offsets.dtype, scores.dtype, sizes)
    return value_grad.reshape(value.shape), offsets_grad.reshape(offsets.shape), scores_grad.reshape(scores.shape)


@dataclasses.dataclass(frozen=True)
class _Sizes:
    """Everything static about a call, and the shapes and blocks that follow from it."""

    batch: int
    num_queries: int
    heads: int
    head_size: int
    num_points: int
    level_shapes: LevelShapes
    query_shapes: LevelShapes
    interpret: bool

    @classmethod
    def of(cls, value, offsets, level_shapes: LevelShapes, interpret: bool) -> "_Sizes":
        batch, num_cells, heads, head_size = value.shape
        num_queries, num_points = offsets.shape[1], offsets.shape[4]
        one_column = ((math.ceil(num_queries / LANES) * TILE_ROWS, TILE_COLUMNS),)
        query_shapes = level_shapes if num_queries == num_cells else one_column
        return cls(batch, num_queries, heads, head_size, num_points, level_shapes, query_shapes, interpret)

    @property
    def levels(self) -> int:
        return len(self.level_shapes)

    @property
    def samples(self) -> int:
        """Of one query and head."""
        return self.levels * self.num_points

    @property
    def padded_queries(self) -> int:
        return sum(math.prod(shape) for shape in self.query_shapes)

    @property
    def query_tiles(self) -> int:
        return num_tiles(self.query_shapes)

    @property
    def steps(self) -> int:
        return num_steps(self.query_tiles)

    @property
    def tiles_per_step(self) -> int:
        return math.ceil(self.query_tiles / self.steps)

    @property
    def out(self) -> tuple[int, ...]:
        return self.batch, self.num_queries, self.heads, self.head_size

    @property
    def out_tiles(self) -> tuple[int, ...]:
        return self.batch, self.query_tiles, self.heads, self.head_size, LANES

    @property
    def value_tiles(self) -> tuple[int, ...]:
        return self.batch, num_tiles(self.level_shapes), self.heads, self.head_size, LANES

    def bounds_spec(self) -> pl.BlockSpec:
        block = (1, 1, self.query_tiles * self.levels)
        return pl.BlockSpec(block, lambda b, m, step: (b * self.heads + m, 0, 0), memory_space=pltpu.SMEM)

    def query_spec(self, rows: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, self.tiles_per_step, 1, rows, LANES), lambda b, m, step: (b, step, m, 0, 0))

    def value_spec(self) -> pl.BlockSpec:
        block = (1, self.value_tiles[1], 1, self.head_size, LANES)
        # Changes only with the head: a second buffer would hide one short copy per head and double the memory.
        return pl.BlockSpec(block, lambda b, m, step: (b, 0, m, 0, 0), pipeline_mode=pl.Buffered(1))

    def hat_scratch(self) -> list:
        """Hat functions of the columns and rows of one level: [blocks, P, rows or columns of a block, 128]."""
        rows, columns = (max(sizes) for sizes in zip(*map(grid_of_tiles, self.level_shapes), strict=True))
        return [
            pltpu.VMEM((columns, self.num_points, TILE_COLUMNS, LANES), jnp.float32),
            pltpu.VMEM((rows + 1, self.num_points, TILE_ROWS, LANES), jnp.float32),
        ]

    def gradient_scratch(self) -> list:
        columns = max(grid_of_tiles(shape)[1] for shape in self.level_shapes)
        return [
            pltpu.VMEM((columns, self.num_points, TILE_COLUMNS, LANES), jnp.float32),
            pltpu.VMEM((3, self.num_points, 8, LANES), jnp.float32),
        ]

    def call_options(self, name: str) -> dict:
        return {
            "grid": (self.batch, self.heads, self.steps),
            "compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            "interpret": self.interpret,
            "name": name,
        }


def num_steps(query_tiles: int) -> int:
    """Grid steps of one head; a number that divides the tiles evenly if there is one near."""
    fewest = math.ceil(query_tiles / TILES_PER_STEP)
    return next((n for n in range(fewest, 2 * fewest + 1) if query_tiles % n == 0), fewest)


def _merge_heads(array: jax.Array) -> jax.Array:
    """[B, Q, M, ...] -> [B, Q, C]."""
    return array.reshape(*array.shape[:2], -1)


def _value_blocks(value: jax.Array, sizes: _Sizes) -> jax.Array:
    """[B, S, M, D] -> [B, blocks, M, D, 128], 0 outside the levels."""
    blocks = pallas_tpu_tiles.to_tiles(_merge_heads(value), sizes.level_shapes, interpret=sizes.interpret)
    return blocks.reshape(sizes.value_tiles)


def _pad_queries(array: jax.Array, sizes: _Sizes) -> jax.Array:
    """[B, Q, ...] -> [B, all cells of query_shapes, C]."""
    array = _merge_heads(array)
    return jnp.pad(array, ((0, 0), (0, sizes.padded_queries - sizes.num_queries), (0, 0)))


def _reference_tiles(reference: jax.Array, sizes: _Sizes) -> jax.Array:
    """float32 [1, tiles, 2, L * P, 128]: (x, y) in cells that the offsets start from, far outside where no query is."""
    size_wh = np.array([(width, height) for height, width in sizes.level_shapes], np.float32)
    # The last channel tells queries from padding.
    table = (reference * size_wh - 0.5).reshape(sizes.num_queries, -1)
    table = jnp.concatenate([table, jnp.ones((sizes.num_queries, 1))], axis=1)
    tiles = pallas_tpu_tiles.to_tiles(
        _pad_queries(table[None], sizes), sizes.query_shapes, name="reference_to_tiles", interpret=sizes.interpret
    )
    start = jnp.where(tiles[:, :, -1:] == 1, tiles[:, :, :-1], _NOWHERE)
    start = start.reshape(1, -1, sizes.levels, 2, LANES).swapaxes(2, 3)
    return jnp.repeat(start, sizes.num_points, axis=3)


def _samples(offsets, scores, reference, sizes: _Sizes, softmax: bool):
    """Where the queries of each tile sample, with which weights.

    Where a location or weight of a query and head is NaN, its weights are NaN and all its samples nowhere.

    Returns:
      x, y: float32 [B, tiles, M, L * P, 128], in cells of the level, or `_NOWHERE` for samples outside.
      weights: the same.
      bounds: int32 [B * M, 1, tiles * L]: the rectangle of blocks to visit, see `_unpack_bounds`.
    """
    samples = (sizes.heads, sizes.samples, LANES)
    x, y, weights = pallas_tpu_tiles.over_tiles(
        functools.partial(_samples_kernel, sizes=sizes, softmax=softmax),
        sizes.query_shapes,
        cells=[_pad_queries(offsets, sizes), _pad_queries(scores, sizes)],
        tiles=[_reference_tiles(reference, sizes)],
        out_tiles=[(samples, jnp.float32)] * 3,
        scratch=[pltpu.VMEM((sizes.heads * sizes.samples * k, LANES), jnp.float32) for k in (2, 1)],
        name="ms_deform_attn_samples",
        interpret=sizes.interpret,
    )
    widths, heights = ([shape[axis] for shape in sizes.level_shapes] for axis in (1, 0))
    first_x, end_x = _block_range(x, widths, TILE_COLUMNS, sizes)
    first_y, end_y = _block_range(y, heights, TILE_ROWS, sizes)
    bounds = (first_x | end_x << 8 | first_y << 16 | end_y << 24).swapaxes(1, 2)
    return x, y, weights, bounds.reshape(-1, 1, sizes.query_tiles * sizes.levels)


def _samples_kernel(
    tile, offsets_ref, scores_ref, start_ref, x_ref, y_ref, weights_ref, offsets, scores, *, load, sizes, softmax, **_
):
    offsets[...] = load(offsets_ref, tile).T
    scores[...] = load(scores_ref, tile).T
    widths, heights = (_per_sample([shape[axis] for shape in sizes.level_shapes], sizes) for axis in (1, 0))
    for m in range(sizes.heads):
        first = m * sizes.samples
        x = offsets[pl.ds(2 * first, sizes.samples, stride=2), :] + start_ref[0, tile, 0]
        y = offsets[pl.ds(2 * first + 1, sizes.samples, stride=2), :] + start_ref[0, tile, 1]
        weights = scores[pl.ds(first, sizes.samples), :]
        if softmax:
            weights = jnp.exp(weights - weights.max(0, keepdims=True))
            weights = weights / weights.sum(0, keepdims=True)
        # NaN * 0 is NaN, but infinity * 0 too: an infinite location is only far outside.
        spoils = jnp.where(jnp.isnan(x) | jnp.isnan(y), jnp.nan, weights * 0.0).sum(0, keepdims=True)
        inside = (x > -1) & (x < widths) & (y > -1) & (y < heights) & (spoils == 0)
        x_ref[0, tile, m] = jnp.where(inside, x, _NOWHERE)
        y_ref[0, tile, m] = jnp.where(inside, y, _NOWHERE)
        weights_ref[0, tile, m] = weights + spoils


def _sample_grads(x_grad, y_grad, scores_grad, offsets_dtype, scores_dtype, sizes: _Sizes):
    """float32 [B, tiles, M, L * P, 128] -> [B, Q, M * L * P * 2] and [B, Q, M * L * P]."""
    channels = sizes.heads * sizes.samples
    outputs = pallas_tpu_tiles.over_tiles(
        functools.partial(_sample_grads_kernel, sizes=sizes),
        sizes.query_shapes,
        tiles=[x_grad, y_grad, scores_grad],
        out_cells=[(2 * channels, offsets_dtype), (channels, scores_dtype)],
        scratch=[pltpu.VMEM((channels * k, LANES), jnp.float32) for k in (2, 1)],
        name="ms_deform_attn_sample_grads",
        interpret=sizes.interpret,
    )
    return [array[:, : sizes.num_queries] for array in outputs]


def _sample_grads_kernel(
    tile, x_ref, y_ref, scores_ref, offsets_out_ref, scores_out_ref, offsets, scores, *, store, sizes, **_
):
    for m in range(sizes.heads):
        first = m * sizes.samples
        offsets[pl.ds(2 * first, sizes.samples, stride=2), :] = x_ref[0, tile, m]
        offsets[pl.ds(2 * first + 1, sizes.samples, stride=2), :] = y_ref[0, tile, m]
        scores[pl.ds(first, sizes.samples), :] = scores_ref[0, tile, m]
    store(offsets_out_ref, tile, offsets[...].T)
    store(scores_out_ref, tile, scores[...].T)


def _per_sample(per_level: list[int], sizes: _Sizes) -> jax.Array:
    """float32 [L * P, 128]: a number of each level, for its points."""
    level = lax.broadcasted_iota(jnp.int32, (sizes.samples, LANES), 0)
    result = jnp.zeros(level.shape, jnp.float32)
    for index, number in enumerate(per_level):
        result = jnp.where(level >= index * sizes.num_points, float(number), result)
    return result


def _block_range(location: jax.Array, size: list[int], block: int, sizes: _Sizes) -> tuple[jax.Array, jax.Array]:
    """int32 [B, tiles, M, L]: first block with a sampled cell and one past the last; 0, 0 where nothing is sampled."""
    low = jnp.where(location == _NOWHERE, -_NOWHERE, location).min(-1)
    high = location.max(-1)
    low, high = (z.reshape(*z.shape[:-1], sizes.levels, sizes.num_points) for z in (low, high))
    low, high = jnp.floor(low.min(-1)), jnp.floor(high.max(-1)) + 1
    first = jnp.floor(jnp.maximum(low, 0) / block)
    end = jnp.floor(jnp.minimum(high, np.array(size, np.float32) - 1) / block) + 1
    return tuple(jnp.where(low <= high, number, 0).astype(jnp.int32) for number in (first, end))


def _unpack_bounds(bounds: jax.Array) -> tuple[jax.Array, ...]:
    """(first column, last column + 1, first row, last row + 1), in blocks."""
    return bounds & 255, bounds >> 8 & 255, bounds >> 16 & 255, bounds >> 24 & 255


def _hat(distance: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1.0 - jnp.abs(distance))


def _hat_slope(distance: jax.Array) -> jax.Array:
    """d hat / d location, for distance = location - cell; at a whole pixel the slope to the right."""
    falling, rising = (distance >= 0) & (distance < 1), (distance >= -1) & (distance < 0)
    return jnp.where(falling, -1.0, jnp.where(rising, 1.0, 0.0))


def _steps_of(block: jax.Array, size: int) -> jax.Array:
    """float32 [size, 128]: the rows or columns of a block."""
    return (lax.broadcasted_iota(jnp.int32, (size, LANES), 0) + block * size).astype(jnp.float32)


def _sampling_matrix(hat_x_ref, hat_y_ref, column, row, dtype) -> jax.Array:
    """A of one block: [128 cells, 128 queries]."""
    points = hat_x_ref.shape[1]
    hat_x = [hat_x_ref[column, p] for p in range(points)]
    rows = []
    for r in range(TILE_ROWS):
        products = [hat_x[p] * hat_y_ref[row, p, r : r + 1, :] for p in range(points)]
        rows.append(functools.reduce(jnp.add, products))
    return jnp.concatenate(rows, axis=0).astype(dtype)


def _for_blocks(bounds, unroll: int, function, carry):
    """carry = function(column, row, carry) for the blocks within bounds, `unroll` at a time.

    Up to unroll - 1 calls at the end are for blocks of the row after the last one.
    """
    first_column, end_column, first_row, end_row = bounds
    count = (end_column - first_column) * (end_row - first_row)

    def body(_, state):
        column, row, carry = state
        for _ in range(unroll):
            carry = function(column, row, carry)
            wraps = column + 1 >= end_column
            column = jnp.where(wraps, first_column, column + 1)
            row = jnp.minimum(jnp.where(wraps, row + 1, row), end_row)
        return column, row, carry

    return lax.fori_loop(0, lax.div(count + unroll - 1, unroll), body, (first_column, first_row, carry))[2]


def _precision(dtype) -> lax.Precision | None:
    return lax.Precision.HIGHEST if dtype == jnp.float32 else None


def _for_tiles_and_levels(sizes: _Sizes, bounds_ref, level_function, start_tile, end_tile) -> None:
    """Runs carry = level_function(tile, level, first value block, bounds, carry) over the tiles of this grid step."""

    first_tile = pl.program_id(2) * sizes.tiles_per_step

    def tile(t, _):
        carry, first_block = start_tile(t), 0
        for level, shape in enumerate(sizes.level_shapes):
            bounds = _unpack_bounds(bounds_ref[0, 0, (first_tile + t) * sizes.levels + level])
            carry = level_function(t, level, first_block, bounds, carry)
            first_block += math.prod(grid_of_tiles(shape))
        end_tile(t, carry)
        return 0

    lax.fori_loop(0, jnp.minimum(sizes.tiles_per_step, sizes.query_tiles - first_tile), tile, 0)


def _fill_hats(sizes, level, bounds, x, y, weights, hat_x_ref, hat_y_ref, slope_x_ref=None) -> None:
    """Hat functions of the columns and (times the weights) rows of the blocks within bounds.

    x, y, weights: functions from the point to [1, 128].
    """
    first_column, end_column, first_row, end_row = bounds

    def fill(i, _):  # one loop for both: short loops cost more than doing a column or row twice
        column, row = jnp.minimum(first_column + i, end_column - 1), jnp.minimum(first_row + i, end_row)
        for p in range(sizes.num_points):
            distance = x(p) - _steps_of(column, TILE_COLUMNS)
            hat_x_ref[column, p] = _hat(distance)
            if slope_x_ref is not None:
                slope_x_ref[column, p] = _hat_slope(distance)
            hat = _hat(y(p) - _steps_of(row, TILE_ROWS))
            hat_y_ref[row, p] = jnp.where(hat > 0, weights(p) * hat, 0.0)  # keeps NaN weights out
        return 0

    lax.fori_loop(0, jnp.maximum(end_column - first_column, end_row - first_row), fill, 0)
    hat_y_ref[end_row] = jnp.zeros(hat_y_ref.shape[1:], jnp.float32)  # of the row after the last one: A is 0


def _forward_kernel(bounds_ref, x_ref, y_ref, weights_ref, value_ref, out_ref, hat_x_ref, hat_y_ref, *, sizes: _Sizes):
    dtype = value_ref.dtype

    def level(t, level, first_block, bounds, out):
        x, y, weights = (_rows_of(ref, t, level, sizes) for ref in (x_ref, y_ref, weights_ref))
        _fill_hats(sizes, level, bounds, x, y, weights, hat_x_ref, hat_y_ref)
        rows, columns = grid_of_tiles(sizes.level_shapes[level])

        def block(column, row, out):
            matrix = _sampling_matrix(hat_x_ref, hat_y_ref, column, row, dtype)
            values = value_ref[0, first_block + jnp.minimum(row, rows - 1) * columns + column, 0]
            return out + jnp.dot(values, matrix, preferred_element_type=jnp.float32, precision=_precision(dtype))

        return _for_blocks(bounds, FORWARD_UNROLL, block, out)

    def start_tile(t):
        spoils = (weights_ref[0, t, 0] * 0.0).sum(0, keepdims=True)  # NaN where a weight is, else 0
        return jnp.broadcast_to(spoils, (sizes.head_size, LANES))

    def end_tile(t, out):
        out_ref[0, t, 0] = out.astype(dtype)

    _for_tiles_and_levels(sizes, bounds_ref, level, start_tile, end_tile)


def _rows_of(ref, t, level: int, sizes: _Sizes):
    """The function from the point of a level to its row [1, 128] of [1, tiles, 1, L * P, 128]."""
    return lambda p: ref[0, t, 0, level * sizes.num_points + p : level * sizes.num_points + p + 1, :]


def _backward_kernel(
    bounds_ref,
    x_ref,
    y_ref,
    weights_ref,
    grad_ref,
    value_ref,
    value_grad_ref,
    x_grad_ref,
    y_grad_ref,
    scores_grad_ref,
    hat_x_ref,
    hat_y_ref,
    slope_x_ref,
    sums_ref,
    *,
    sizes: _Sizes,
    softmax: bool,
):
    dtype = value_ref.dtype
    dot = functools.partial(lax.dot_general, preferred_element_type=jnp.float32, precision=_precision(dtype))

    @pl.when(pl.program_id(2) == 0)
    def _():
        value_grad_ref[...] = jnp.zeros(value_grad_ref.shape, jnp.float32)

    def level(t, level, first_block, bounds, out_grad):
        x, y, weights = (_rows_of(ref, t, level, sizes) for ref in (x_ref, y_ref, weights_ref))
        _fill_hats(sizes, level, bounds, x, y, weights, hat_x_ref, hat_y_ref, slope_x_ref)
        # Sums over cells of A_grad times hat_y hat_x, hat_y slope_x and slope_y hat_x; 8 partial sums each.
        sums_ref[...] = jnp.zeros(sums_ref.shape, jnp.float32)
        rows, columns = grid_of_tiles(sizes.level_shapes[level])

        def block(column, row, _):
            matrix = _sampling_matrix(hat_x_ref, hat_y_ref, column, row, dtype)
            index = first_block + jnp.minimum(row, rows - 1) * columns + column
            value_grad_ref[0, index, 0] += dot(out_grad, matrix, (((1,), (1,)), ((), ())))
            matrix_grad = dot(value_ref[0, index, 0], out_grad, (((0,), (0,)), ((), ())))
            # No point is in a block after the last one, whose values are those of another block.
            first_row = jnp.where(row < bounds[3], row * TILE_ROWS, -2 * int(_NOWHERE)).astype(jnp.float32)
            for p in range(sizes.num_points):
                # Rows of A_grad above and below the point: one of each matches, so that a choice does for a sum.
                top_row = jnp.floor(y(p))
                part_below = y(p) - top_row
                row_in_block = jnp.broadcast_to(top_row - first_row, (TILE_COLUMNS, LANES))
                top = bottom = jnp.zeros((TILE_COLUMNS, LANES), jnp.float32)
                for r in range(TILE_ROWS):
                    cells = matrix_grad[r * TILE_COLUMNS : (r + 1) * TILE_COLUMNS]
                    top = jnp.where(row_in_block == r, cells, top)
                    bottom = jnp.where(row_in_block == r - 1, cells, bottom)
                slope_y = bottom - top
                mixed = top + part_below * slope_y
                for k, terms in enumerate(
                    (mixed * hat_x_ref[column, p], mixed * slope_x_ref[column, p], slope_y * hat_x_ref[column, p])
                ):
                    sums_ref[k, p] += terms[:8] + terms[8:]
            return 0

        _for_blocks(bounds, BACKWARD_UNROLL, block, 0)
        for p in range(sizes.num_points):
            of_weight, of_x, of_y = (sums_ref[k, p].sum(0, keepdims=True) for k in range(3))
            sample = slice(level * sizes.num_points + p, level * sizes.num_points + p + 1)
            scores_grad_ref[0, t, 0, sample, :] = of_weight
            x_grad_ref[0, t, 0, sample, :] = weights(p) * of_x
            y_grad_ref[0, t, 0, sample, :] = weights(p) * of_y
        return out_grad

    def start_tile(t):
        return grad_ref[0, t, 0]

    def end_tile(t, _):
        weights = weights_ref[0, t, 0]
        grad = scores_grad_ref[0, t, 0]
        if softmax:
            scores_grad_ref[0, t, 0] = weights * (grad - (weights * grad).sum(0, keepdims=True))

    _for_tiles_and_levels(sizes, bounds_ref, level, start_tile, end_tile)
