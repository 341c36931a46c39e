"""Rearranging for the TPU kernel: cells of feature maps [B, cells, C] to tiles [B, tiles, C, 128], and back.

A tile is 8 rows by 16 columns of one level, its cells in the 128 lanes. Written as XLA transposes the rearrangement
took longer than the attention itself, because each of its steps goes through memory. Here one Pallas call per level
reads a strip of 8 rows, which is contiguous, transposes in registers and writes whole tiles. The calls for the levels
write to parts of the same array (input_output_aliases).
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

TILE_ROWS, TILE_COLUMNS = 8, 16
LANES = TILE_ROWS * TILE_COLUMNS
_SUBLANES = 8

LevelShapes = tuple[tuple[int, int], ...]


def grid_of_tiles(shape: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of tiles that cover a level of (h, w) cells."""
    return math.ceil(shape[0] / TILE_ROWS), math.ceil(shape[1] / TILE_COLUMNS)


def num_tiles(level_shapes: LevelShapes) -> int:
    return sum(math.prod(grid_of_tiles(shape)) for shape in level_shapes)


@dataclasses.dataclass(frozen=True)
class Level:
    """Where a level's cells and tiles lie among those of all levels.

    Attributes:
      in_place: strips of 8 rows start and end where the hardware can address them, so that they are read and written
        where they are. Other levels are padded to whole tiles first.
    """

    height: int
    width: int
    first_cell: int
    first_tile: int

    @property
    def in_place(self) -> bool:
        return self.first_cell % _SUBLANES == self.height % TILE_ROWS == self.width % _SUBLANES == 0

    @property
    def grid(self) -> tuple[int, int]:
        return grid_of_tiles((self.height, self.width))

    @property
    def strip_width(self) -> int:
        return self.width if self.in_place else self.grid[1] * TILE_COLUMNS

    def padded(self, cells: jax.Array) -> jax.Array:
        """[B, cells of all levels, C] -> [B, cells of this level padded to whole tiles, C]."""
        batch, _, channels = cells.shape
        rows, columns = self.grid
        cells = cells[:, self.first_cell : self.first_cell + self.height * self.width]
        cells = cells.reshape(batch, self.height, self.width, channels)
        missing = rows * TILE_ROWS - self.height, columns * TILE_COLUMNS - self.width
        cells = jnp.pad(cells, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        return cells.reshape(batch, -1, channels)

    def cropped(self, cells: jax.Array) -> jax.Array:
        """The inverse of `padded`, of this level alone."""
        batch, _, channels = cells.shape
        cells = cells.reshape(batch, -1, self.grid[1] * TILE_COLUMNS, channels)
        return cells[:, : self.height, : self.width].reshape(batch, -1, channels)


def levels_of(level_shapes: LevelShapes) -> list[Level]:
    levels, first_cell, first_tile = [], 0, 0
    for height, width in level_shapes:
        levels.append(Level(height, width, first_cell, first_tile))
        first_cell += height * width
        first_tile += math.prod(grid_of_tiles((height, width)))
    return levels


def to_tiles(
    cells: jax.Array, level_shapes: LevelShapes, *, name: str = "to_tiles", interpret: bool = False
) -> jax.Array:
    """[B, cells of all levels, C] -> [B, tiles, C, 128]; 0 outside the levels.

    Args:
      cells: float32 or bfloat16; the levels one after the other, row by row.
      level_shapes: (h, w) per level.
      name: of the calls, for profiles.
      interpret: run on any platform, slowly.
    """

    def kernel(tile, cells_ref, tiles_ref, *, load, **_):
        tiles_ref[0, tile] = load(cells_ref, tile).T.astype(tiles_ref.dtype)

    out = [((cells.shape[2], LANES), cells.dtype)]
    return over_tiles(kernel, level_shapes, cells=[cells], out_tiles=out, name=name, interpret=interpret)[0]


def from_tiles(tiles: jax.Array, level_shapes: LevelShapes, dtype, *, interpret: bool = False) -> jax.Array:
    """The inverse of `to_tiles`, converted to a dtype: [B, tiles, C, 128] -> [B, cells, C]."""

    def kernel(tile, tiles_ref, cells_ref, *, store, **_):
        store(cells_ref, tile, tiles_ref[0, tile].astype(jnp.float32).T)

    out = [(tiles.shape[2], dtype)]
    return over_tiles(kernel, level_shapes, tiles=[tiles], out_cells=out, name="from_tiles", interpret=interpret)[0]


def over_tiles(
    kernel: Callable,
    level_shapes: LevelShapes,
    *,
    name: str,
    interpret: bool,
    cells: Sequence[jax.Array] = (),
    tiles: Sequence[jax.Array] = (),
    out_cells: Sequence[tuple[int, jnp.dtype]] = (),
    out_tiles: Sequence[tuple[tuple[int, ...], jnp.dtype]] = (),
    scratch: Sequence = (),
) -> list[jax.Array]:
    """Runs a kernel for every tile of every level, on blocks of arrays of cells and of tiles.

    Args:
      kernel: kernel(tile, *refs, load=, store=): `tile` counts within a strip; refs are of cells, tiles, out_cells,
        out_tiles and scratch, in this order. `ref[0, tile]` is a tile's part of an array of tiles. `load(ref, tile)`
        gives float32 [128, C] of an array of cells, 0 outside the level; `store(ref, tile, array)` sets it.
      level_shapes: (h, w) per level.
      name: of the calls, for profiles; the grid of tiles of the level is appended.
      interpret: run on any platform, slowly.
      cells: arrays [B, cells, C].
      tiles: arrays [B or 1, tiles, ...].
      out_cells: (channels, dtype) of outputs [B, cells, channels].
      out_tiles: (shape, dtype) of outputs [B, tiles, *shape].
      scratch: shapes of scratch memory.

    Returns:
      The outputs, out_cells first.
    """
    batch = (*cells, *tiles)[0].shape[0]
    num_cells = sum(height * width for height, width in level_shapes)
    tile_shapes = [jax.ShapeDtypeStruct((batch, num_tiles(level_shapes), *s), dtype) for s, dtype in out_tiles]
    done_cells, done_tiles = [], []  # the outputs so far: later calls write their parts of them
    pieces = []  # (level, cells) of the levels that are not in place
    for level in levels_of(level_shapes):
        rows, columns = level.grid
        strip = TILE_ROWS * level.strip_width
        sources = cells if level.in_place else [level.padded(array) for array in cells]
        cells_of_output = num_cells if level.in_place else rows * strip
        cell_shapes = [jax.ShapeDtypeStruct((batch, cells_of_output, c), dtype) for c, dtype in out_cells]
        cell_spec = functools.partial(_spec, size=strip, first=level.first_cell if level.in_place else 0)
        tile_spec = functools.partial(_spec, size=columns, first=level.first_tile)
        inputs, aliases = [*sources, *tiles], {}
        for index, array in enumerate([*(done_cells if level.in_place else []), *done_tiles]):
            aliases[len(inputs)] = index if done_cells and level.in_place else index + len(out_cells)
            inputs.append(array)
        outputs = pl.pallas_call(
            functools.partial(_strip_kernel, kernel=kernel, width=level.strip_width, aliased=tuple(aliases)),
            grid=(batch, rows),
            in_specs=[
                *[cell_spec(array) for array in sources],
                *[tile_spec(array) for array in tiles],
                *[pl.BlockSpec(memory_space=pl.ANY)] * len(aliases),
            ],
            out_specs=[*[cell_spec(shape) for shape in cell_shapes], *[tile_spec(shape) for shape in tile_shapes]],
            out_shape=[*cell_shapes, *tile_shapes],
            scratch_shapes=scratch,
            input_output_aliases=aliases,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
            interpret=interpret,
            name=f"{name}_{rows}x{columns}",
        )(*inputs)
        done_tiles = outputs[len(out_cells) :]
        if level.in_place:
            done_cells = outputs[: len(out_cells)]
        elif out_cells:
            pieces.append((level, [level.cropped(array) for array in outputs[: len(out_cells)]]))
    if out_cells and not done_cells:
        done_cells = [jnp.concatenate(arrays, axis=1) for arrays in zip(*[arrays for _, arrays in pieces], strict=True)]
        pieces = []
    for level, arrays in pieces:
        done_cells = [
            lax.dynamic_update_slice(array, piece, (0, level.first_cell, 0))
            for array, piece in zip(done_cells, arrays, strict=True)
        ]
    return [*done_cells, *done_tiles]


def _spec(array, *, size: int, first: int) -> pl.BlockSpec:
    """Blocks of `size` along axis 1 from index `first` on, of one in the batch (a batch of 1 is shared)."""
    shape = (1, size, *array.shape[2:])
    rest = (0,) * (len(shape) - 2)
    is_shared = array.shape[0] == 1

    def index(b, row):
        return (0 if is_shared else b, first + row * size, *rest)

    # In elements, not blocks, because a level need not start at a whole number of blocks.
    return pl.BlockSpec(tuple(pl.Element(n) for n in shape), index)


def _strip_kernel(*refs, kernel: Callable, width: int, aliased: tuple[int, ...]) -> None:
    refs = [ref for index, ref in enumerate(refs) if index not in aliased]

    def run(tile, columns: int) -> None:
        access = {"width": width, "columns": columns}
        kernel(tile, *refs, load=functools.partial(_load, **access), store=functools.partial(_store, **access))

    def run_whole(tile, _):
        run(tile, TILE_COLUMNS)
        return 0

    lax.fori_loop(0, width // TILE_COLUMNS, run_whole, 0)
    if width % TILE_COLUMNS:
        run(width // TILE_COLUMNS, width % TILE_COLUMNS)


def _cells_of_row(row: int, tile, width: int, columns: int):
    first = row * width + tile * TILE_COLUMNS
    return pl.ds(first if isinstance(first, int) else pl.multiple_of(first, _SUBLANES), columns)


def _load(ref, tile, *, width: int, columns: int) -> jax.Array:
    """float32 [128, C]: a tile of a strip of cells [1, 8 * width, C], of which `columns` are in the strip."""
    rows = []
    for row in range(TILE_ROWS):
        cells = ref[0, _cells_of_row(row, tile, width, columns), :].astype(jnp.float32)
        if columns < TILE_COLUMNS:
            missing = jnp.zeros((TILE_COLUMNS - columns, cells.shape[1]), jnp.float32)
            cells = jnp.concatenate([cells, missing], axis=0)
        rows.append(cells)
    return jnp.concatenate(rows, axis=0)


def _store(ref, tile, array: jax.Array, *, width: int, columns: int) -> None:
    array = array.astype(ref.dtype)
    for row in range(TILE_ROWS):
        first = row * TILE_COLUMNS
        ref[0, _cells_of_row(row, tile, width, columns), :] = array[first : first + columns]
