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
into tiles of 8 x 16 neighbours where they are the cells of the levels themselves (Q == S, as in an encoder), which
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

TILE_ROWS, TILE_COLUMNS = 8, 16
LANES = TILE_ROWS * TILE_COLUMNS
# Of the 16 MiB of VMEM of the smallest chip (TPU v4; the others have 64 to 128 MiB).
VMEM_BUDGET_BYTES = 12 * 2**20
# Query tiles per grid step: enough that the cost of a step (about 0.35 us) does not count.
TILES_PER_STEP = 38
# Blocks per iteration of the inner loop: more hide the latency of the matrix unit better, but round up the work.
FORWARD_UNROLL, BACKWARD_UNROLL = 2, 2
# Stands for the location of what is not sampled; no cell is within reach.
_NOWHERE = -1e4

LevelShapes = tuple[tuple[int, int], ...]


def supports(value_dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int) -> str | None:
    """None if `forward` and `backward` can compute this on the platform, or else the reason why not."""
    del num_points  # any
    if platform != "tpu":
        return f"it needs a TPU, and this is compiled for {platform}"
    if head_size % 4:
        return f"the head size must be a multiple of 4, found {head_size}"
    if max(max(shape) for shape in level_shapes) > 8 * 127:
        return f"a level has at most {8 * 127} rows and columns, found {level_shapes}"
    values = _num_blocks(level_shapes) * head_size * LANES
    needed = values * (jnp.dtype(value_dtype).itemsize + 4)  # one head's values and their float32 gradients
    if needed > VMEM_BUDGET_BYTES:
        return (
            f"levels {level_shapes} of head size {head_size} need {needed / 2**20:.1f} MiB of VMEM in the backward "
            f"pass; at most {VMEM_BUDGET_BYTES / 2**20:.0f} MiB are used"
        )
    return None


def forward(value, offsets, scores, reference, level_shapes: LevelShapes, *, softmax: bool, interpret: bool = False):
    """[B, Q, M, D] of the dtype of `value`; arguments as in `backends`."""
    sizes = _Sizes.of(value, offsets, level_shapes)
    blocks = _to_tiles(_merge_heads(value), level_shapes).reshape(sizes.value_tiles)
    x, y, weights, bounds, is_bad = _samples(offsets, scores, reference, sizes, softmax)
    out = pl.pallas_call(
        functools.partial(_forward_kernel, sizes=sizes),
        out_shape=jax.ShapeDtypeStruct(sizes.out_tiles, value.dtype),
        in_specs=[sizes.bounds_spec(), *[sizes.query_spec(sizes.samples)] * 3, sizes.value_spec()],
        out_specs=sizes.query_spec(sizes.head_size),
        scratch_shapes=sizes.hat_scratch(),
        **sizes.call_options("ms_deform_attn_forward", interpret),
    )(bounds, x, y, weights, blocks)
    out = jnp.where(is_bad, jnp.nan, out).astype(value.dtype)
    return _from_query_tiles(out, sizes).reshape(sizes.out)


def backward(
    value, offsets, scores, reference, level_shapes: LevelShapes, out_grad, *, softmax: bool, interpret: bool = False
):
    """Gradients of value, offsets and scores, of their dtypes; arguments as in `backends`."""
    sizes = _Sizes.of(value, offsets, level_shapes)
    blocks = _to_tiles(_merge_heads(value), level_shapes).reshape(sizes.value_tiles)
    x, y, weights, bounds, is_bad = _samples(offsets, scores, reference, sizes, softmax)
    grads = _to_query_tiles(_merge_heads(out_grad.astype(value.dtype)), sizes).reshape(sizes.out_tiles)
    samples = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    blocks_grad, x_grad, y_grad, weights_grad = pl.pallas_call(
        functools.partial(_backward_kernel, sizes=sizes),
        out_shape=[jax.ShapeDtypeStruct(sizes.value_tiles, jnp.float32), samples, samples, samples],
        in_specs=[
            sizes.bounds_spec(),
            *[sizes.query_spec(sizes.samples)] * 3,
            sizes.query_spec(sizes.head_size),
            sizes.value_spec(),
        ],
        out_specs=[sizes.value_spec(), *[sizes.query_spec(sizes.samples)] * 3],
        scratch_shapes=[*sizes.hat_scratch(), *sizes.gradient_scratch()],
        **sizes.call_options("ms_deform_attn_backward", interpret),
    )(bounds, x, y, weights, grads, blocks)
    value_grad = _from_tiles(blocks_grad.reshape(*blocks.shape[:2], -1, LANES), level_shapes)
    scores_grad = weights_grad
    if softmax:
        scores_grad = weights * (weights_grad - (weights * weights_grad).sum(3, keepdims=True))
    scores_grad = jnp.where(is_bad, jnp.nan, scores_grad)
    offsets_grad = jnp.where(is_bad[..., None, :], jnp.nan, jnp.stack([x_grad, y_grad], axis=4))
    return (
        value_grad.reshape(value.shape).astype(value.dtype),
        _from_query_tiles(offsets_grad, sizes).reshape(offsets.shape).astype(offsets.dtype),
        _from_query_tiles(scores_grad, sizes).reshape(scores.shape).astype(scores.dtype),
    )


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

    @classmethod
    def of(cls, value, offsets, level_shapes: LevelShapes) -> "_Sizes":
        batch, num_cells, heads, head_size = value.shape
        num_queries, num_points = offsets.shape[1], offsets.shape[4]
        one_column = ((math.ceil(num_queries / TILE_COLUMNS), TILE_COLUMNS),)
        query_shapes = level_shapes if num_queries == num_cells else one_column
        return cls(batch, num_queries, heads, head_size, num_points, level_shapes, query_shapes)

    @property
    def levels(self) -> int:
        return len(self.level_shapes)

    @property
    def samples(self) -> int:
        """Of one query and head."""
        return self.levels * self.num_points

    @property
    def query_tiles(self) -> int:
        return _num_blocks(self.query_shapes)

    @property
    def steps(self) -> int:
        """Grid steps of one head."""
        return math.ceil(self.query_tiles / TILES_PER_STEP)

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
        return self.batch, _num_blocks(self.level_shapes), self.heads, self.head_size, LANES

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
        rows, columns = (max(sizes) for sizes in zip(*map(_grid_of_blocks, self.level_shapes), strict=True))
        return [
            pltpu.VMEM((columns, self.num_points, TILE_COLUMNS, LANES), jnp.float32),
            pltpu.VMEM((rows + 1, self.num_points, TILE_ROWS, LANES), jnp.float32),
        ]

    def gradient_scratch(self) -> list:
        columns = max(_grid_of_blocks(shape)[1] for shape in self.level_shapes)
        return [
            pltpu.VMEM((columns, self.num_points, TILE_COLUMNS, LANES), jnp.float32),
            pltpu.VMEM((3, self.num_points, 8, LANES), jnp.float32),
        ]

    def call_options(self, name: str, interpret: bool) -> dict:
        return {
            "grid": (self.batch, self.heads, self.steps),
            "compiler_params": pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
            "interpret": interpret,
            "name": name,
        }


def _grid_of_blocks(shape: tuple[int, int]) -> tuple[int, int]:
    return math.ceil(shape[0] / TILE_ROWS), math.ceil(shape[1] / TILE_COLUMNS)


def _num_blocks(level_shapes: LevelShapes) -> int:
    return sum(math.prod(_grid_of_blocks(shape)) for shape in level_shapes)


def _merge_heads(array: jax.Array) -> jax.Array:
    """[B, Q, M, ...] -> [B, Q, C]."""
    return array.reshape(*array.shape[:2], -1)


def _to_tiles(array: jax.Array, level_shapes: LevelShapes, padding: float = 0.0) -> jax.Array:
    """[B, cells of all levels, C] -> [B, tiles, C, 128]; levels are padded to whole tiles."""
    batch, _, channels = array.shape
    tiles, start = [], 0
    for height, width in level_shapes:
        rows, columns = _grid_of_blocks((height, width))
        level = array[:, start : start + height * width].reshape(batch, height, width, channels)
        start += height * width
        widths = ((0, 0), (0, rows * TILE_ROWS - height), (0, columns * TILE_COLUMNS - width), (0, 0))
        level = jnp.pad(level, widths, constant_values=padding)
        level = level.reshape(batch, rows, TILE_ROWS, columns, TILE_COLUMNS, channels).transpose(0, 1, 3, 2, 4, 5)
        tiles.append(level.reshape(batch, rows * columns, LANES, channels))
    return jnp.concatenate(tiles, axis=1).swapaxes(2, 3)


def _from_tiles(tiles: jax.Array, level_shapes: LevelShapes) -> jax.Array:
    """The inverse of `_to_tiles`."""
    batch, _, channels, _ = tiles.shape
    tiles = tiles.swapaxes(2, 3)
    levels, start = [], 0
    for height, width in level_shapes:
        rows, columns = _grid_of_blocks((height, width))
        level = tiles[:, start : start + rows * columns]
        start += rows * columns
        level = level.reshape(batch, rows, columns, TILE_ROWS, TILE_COLUMNS, channels).transpose(0, 1, 3, 2, 4, 5)
        level = level.reshape(batch, rows * TILE_ROWS, columns * TILE_COLUMNS, channels)[:, :height, :width]
        levels.append(level.reshape(batch, height * width, channels))
    return jnp.concatenate(levels, axis=1)


def _to_query_tiles(array: jax.Array, sizes: _Sizes, padding: float = 0.0) -> jax.Array:
    """[B, Q, C] -> [B, query tiles, C, 128]."""
    missing = sum(math.prod(shape) for shape in sizes.query_shapes) - sizes.num_queries
    array = jnp.pad(array, ((0, 0), (0, missing), (0, 0)), constant_values=padding)
    return _to_tiles(array, sizes.query_shapes, padding)


def _from_query_tiles(tiles: jax.Array, sizes: _Sizes) -> jax.Array:
    """[B, query tiles, ..., 128] -> [B, Q, C]."""
    tiles = tiles.reshape(*tiles.shape[:2], -1, LANES)
    return _from_tiles(tiles, sizes.query_shapes)[:, : sizes.num_queries]


def _samples(offsets, scores, reference, sizes: _Sizes, softmax: bool):
    """Where the queries of each tile sample, with which weights.

    Returns:
      x, y: float32 [B, tiles, M, L * P, 128], in cells of the level; samples outside are nowhere near any cell.
      weights: the same.
      bounds: int32 [B * M, 1, tiles * L]: the rectangle of blocks to visit, see `_unpack_bounds`.
      is_bad: [B, tiles, M, 1, 128]: a location or weight is NaN, so is the output. x, y and weights are finite there,
        because a NaN in A would spoil the value gradients that other queries contribute to.
    """
    batch, tiles, heads, levels, points = sizes.batch, sizes.query_tiles, sizes.heads, sizes.levels, sizes.num_points
    shape = (batch, tiles, heads, levels, points, LANES)
    offsets = _to_query_tiles(_merge_heads(offsets), sizes)
    # Padding queries are far outside.
    reference = _to_query_tiles(reference.reshape(1, sizes.num_queries, -1), sizes, padding=_NOWHERE)
    reference = reference.reshape(1, tiles, 1, levels, 2, 1, LANES)
    size_wh = np.array([(width, height) for height, width in sizes.level_shapes], np.float32)
    reference = reference * size_wh[:, :, None, None] - 0.5
    width, height = size_wh[:, 0, None, None], size_wh[:, 1, None, None]
    x = offsets[:, :, 0::2].astype(jnp.float32).reshape(shape) + reference[:, :, :, :, 0]
    y = offsets[:, :, 1::2].astype(jnp.float32).reshape(shape) + reference[:, :, :, :, 1]
    weights = _to_query_tiles(_merge_heads(scores), sizes).astype(jnp.float32).reshape(batch, tiles, heads, -1, LANES)
    if softmax:
        weights = jax.nn.softmax(weights, axis=3)

    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    first_x, last_x = _block_range(x, inside, size_wh[:, 0], TILE_COLUMNS)
    first_y, last_y = _block_range(y, inside, size_wh[:, 1], TILE_ROWS)
    bounds = (first_x | last_x << 8 | first_y << 16 | last_y << 24).transpose(0, 2, 1, 3)
    is_bad = (jnp.isnan(x) | jnp.isnan(y)).any((3, 4)) | jnp.isnan(weights).any(3)
    x, y = (jnp.where(inside, location, _NOWHERE).reshape(weights.shape) for location in (x, y))
    weights = jnp.where(jnp.isnan(weights), 0.0, weights)
    return x, y, weights, bounds.reshape(batch * heads, 1, tiles * levels), is_bad[:, :, :, None]


def _block_range(location: jax.Array, inside: jax.Array, size: np.ndarray, block: int) -> tuple[jax.Array, jax.Array]:
    """int32 [B, tiles, M, L]: first block with a sampled cell and one past the last; 0, 0 where nothing is inside."""
    low = jnp.where(inside, location, jnp.inf).min((4, 5))
    high = jnp.where(inside, location, -jnp.inf).max((4, 5))
    first = jnp.floor(jnp.maximum(low, 0) / block)
    last = jnp.floor(jnp.minimum(jnp.floor(high) + 1, size - 1) / block) + 1
    return tuple(jnp.where(low <= high, number, 0).astype(jnp.int32) for number in (first, last))


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
            first_block += math.prod(_grid_of_blocks(shape))
        end_tile(t, carry)
        return 0

    lax.fori_loop(0, jnp.minimum(sizes.tiles_per_step, sizes.query_tiles - first_tile), tile, 0)


def _fill_hats(sizes, level, bounds, x, y, weights, hat_x_ref, hat_y_ref, slope_x_ref=None) -> None:
    """Hat functions of the columns and (times the weights) rows of the blocks within bounds.

    x, y, weights: functions from the point to [1, 128].
    """
    first_column, end_column, first_row, end_row = bounds

    def fill_column(column, _):
        for p in range(sizes.num_points):
            distance = x(p) - _steps_of(column, TILE_COLUMNS)
            hat_x_ref[column, p] = _hat(distance)
            if slope_x_ref is not None:
                slope_x_ref[column, p] = _hat_slope(distance)
        return 0

    def fill_row(row, _):
        for p in range(sizes.num_points):
            hat_y_ref[row, p] = weights(p) * _hat(y(p) - _steps_of(row, TILE_ROWS))
        return 0

    lax.fori_loop(first_column, end_column, fill_column, 0)
    lax.fori_loop(first_row, end_row, fill_row, 0)
    hat_y_ref[end_row] = jnp.zeros(hat_y_ref.shape[1:], jnp.float32)  # of the row after the last one: A is 0


def _forward_kernel(bounds_ref, x_ref, y_ref, weights_ref, value_ref, out_ref, hat_x_ref, hat_y_ref, *, sizes: _Sizes):
    dtype = value_ref.dtype

    def level(t, level, first_block, bounds, out):
        x, y, weights = (_rows_of(ref, t, level, sizes) for ref in (x_ref, y_ref, weights_ref))
        _fill_hats(sizes, level, bounds, x, y, weights, hat_x_ref, hat_y_ref)
        rows, columns = _grid_of_blocks(sizes.level_shapes[level])

        def block(column, row, out):
            matrix = _sampling_matrix(hat_x_ref, hat_y_ref, column, row, dtype)
            values = value_ref[0, first_block + jnp.minimum(row, rows - 1) * columns + column, 0]
            return out + jnp.dot(values, matrix, preferred_element_type=jnp.float32, precision=_precision(dtype))

        return _for_blocks(bounds, FORWARD_UNROLL, block, out)

    def start_tile(_):
        return jnp.zeros((sizes.head_size, LANES), jnp.float32)

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
    weights_grad_ref,
    hat_x_ref,
    hat_y_ref,
    slope_x_ref,
    sums_ref,
    *,
    sizes: _Sizes,
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
        rows, columns = _grid_of_blocks(sizes.level_shapes[level])

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
            weights_grad_ref[0, t, 0, sample, :] = of_weight
            x_grad_ref[0, t, 0, sample, :] = weights(p) * of_x
            y_grad_ref[0, t, 0, sample, :] = weights(p) * of_y
        return out_grad

    def start_tile(t):
        return grad_ref[0, t, 0]

    _for_tiles_and_levels(sizes, bounds_ref, level, start_tile, lambda t, _: None)
