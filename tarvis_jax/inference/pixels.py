"""Final logits, stride 4, to run lengths and class maps at the size of the video.

Resizing, thresholds and the search for the boundaries of masks run on the device. What is fetched of masks is the
boundaries, of class maps one small integer per pixel.

The programs know no frame size: they work on tiles of 128 x 320 pixels, and tables say which logits a row or a column
of pixels is interpolated from, and how many tiles there are. So one program serves all frames of up to `MAX_TILES`
tiles (and one all of up to four times as many, and so on).
"""

import dataclasses
import functools
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tarvis_jax.compiled import Programs, shapes_of
from tarvis_jax.inference.clips import Geometry
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle

GROUP = 8  # masks per call
MAX_TILES = 64  # 1080 x 1920 has 54, 1920 x 1080 has 64
_IN_FLIGHT = 3  # groups that the device works on while the host encodes others
_FETCHED_WORDS = (
    2**16
)  # of a group: words with a boundary that are fetched at once; where there are more, all words are
_WORD = 32  # pixels of a column, one bit each
_TILE_WORDS, _TILE_COLUMNS = 4, 320
_TILE_ROWS = _WORD * _TILE_WORDS
_TAPS = 3  # neighboring logits that a pixel lies between, at most: see Geometry.upsampling


@dataclasses.dataclass(frozen=True)
class Tables:
    """How rows (or columns) of pixels are interpolated; what lies beyond the image has weights 0.

    Attributes:
      first: int32 [tiles, size] of the first of three neighboring logits.
      weights: float32 [tiles, size, 3].
      num_tiles: int32, tiles in use; the arrays have `MAX_TILES` or more.
    """

    first: np.ndarray
    weights: np.ndarray
    num_tiles: np.ndarray


jax.tree_util.register_dataclass(Tables, ["first", "weights", "num_tiles"], [])


class Pixels:
    """The compiled functions between logits and the pixels of a video."""

    def __init__(self, programs: Programs, device: jax.Device | None = None):
        """Args:
        programs: keeps and counts what is compiled here.
        device: where it runs; None: JAX's default device.
        """
        self._programs, self._device = programs, device
        self._tables_of: dict[Geometry, tuple[Tables, Tables]] = {}
        platform = device.platform if device is not None else jax.default_backend()
        self._fetch_boundaries_only = platform != "cpu"  # a CPU's arrays are in the host's memory already

    def encode_masks(
        self, frames: Iterable[tuple[Sequence[Hashable], np.ndarray]], geometry: Geometry
    ) -> Iterator[dict[Hashable, Rle]]:
        """Masks of logits above 0.

        Args:
          frames: ids and their logits, float32 [N, h, w], of each frame; taken a little ahead of what is given out.
          geometry: of the video.

        Yields for each frame its masks by id, without the empty ones.
        """
        waiting: deque[tuple[Sequence[Hashable], list[Rle | None]]] = deque()  # frames, and what is encoded of them
        running: deque[tuple[jax.Array, int, list[list[Rle | None]]]] = deque()
        group: list[np.ndarray] = []
        owners: list[list[Rle | None]] = []

        def start() -> None:
            logits = np.stack(group + [group[0]] * (GROUP - len(group)))
            running.append((self._run(_mask_boundaries, logits, *self._tables(geometry)), len(group), list(owners)))
            group.clear()
            owners.clear()

        def finish() -> None:
            words, count, lists = running.popleft()
            for masks, encoded in zip(lists, self._encode(words, geometry, count), strict=True):
                masks.append(encoded)

        def done() -> Iterator[dict[Hashable, Rle]]:
            while waiting and len(waiting[0][0]) == len(waiting[0][1]):
                ids, masks = waiting.popleft()
                yield {each: mask for each, mask in zip(ids, masks, strict=True) if mask is not None}

        for ids, logits in frames:
            waiting.append((ids, []))
            for each in logits:
                group.append(each)
                owners.append(waiting[-1][1])
                if len(group) == GROUP:
                    start()
                if len(running) > _IN_FLIGHT:
                    finish()
            yield from done()
        if group:
            start()
        while running:
            finish()
            yield from done()
        yield from done()

    def owners(self, logits: np.ndarray, geometry: Geometry) -> np.ndarray:
        """float32 [N, h, w] of a frame -> unsigned int [H, W]: 1 + the greatest logit's number, 0 where none is > 0."""
        count = len(logits)
        size = 1 << max(0, count - 1).bit_length()  # few programs: the next power of two
        logits = np.pad(logits, ((0, size - count), (0, 0), (0, 0)))
        return self._assemble(self._run(_owner_tiles, logits, np.int32(count), *self._tables(geometry)), geometry)

    def classes(
        self, parts: Sequence[tuple[jax.Array, int]], max_parts: int, classes: np.ndarray, geometry: Geometry
    ) -> np.ndarray:
        """The greatest of some classes' mean logits.

        Args:
          parts: logits, float32 [K, T, h, w], of the clips that cover a frame, and which of their frames it is.
          max_parts: the most clips that cover a frame of this video.
          classes: int [S], rows of the logits that compete.
          geometry: of the video.

        Returns:
          unsigned int [H, W], number in `classes`.
        """
        filled = list(parts) + [parts[0]] * (max_parts - len(parts))
        weights = np.array([1 / len(parts)] * len(parts) + [0] * (max_parts - len(parts)), np.float32)
        tiles = self._run(
            _class_tiles,
            tuple(logits for logits, _ in filled),
            np.array([frame for _, frame in filled], np.int32),
            weights,
            np.asarray(classes, np.int32),
            *self._tables(geometry),
        )
        return self._assemble(tiles, geometry) - 1

    def _encode(self, words: jax.Array, geometry: Geometry, count: int) -> list[Rle | None]:
        """RLEs of the masks of a group, None for empty ones."""
        where, values = self._words_with_boundaries(words, geometry)
        mask, keys = _boundaries(where, values, geometry)
        keys = keys[: np.searchsorted(mask, count)]  # what fills the group up is left out
        counts = np.bincount(mask[: len(keys)], minlength=count)
        return [
            encoded if boundaries else None
            for encoded, boundaries in zip(
                rle.encode_boundaries(keys, counts, geometry.original), counts.tolist(), strict=True
            )
        ]

    def _words_with_boundaries(self, words: jax.Array, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
        """Places in the flattened array of the words that are not 0, and the words."""
        if self._fetch_boundaries_only:
            count, where, values = self._run(_nonzero_words, words)
            if count <= _FETCHED_WORDS:
                return np.asarray(where)[:count], np.asarray(values)[:count]
        rows, columns = _num_tiles(geometry)
        flat = np.asarray(words)[: rows * columns].reshape(-1)
        where = np.flatnonzero(flat != 0)  # of bools it is six times as fast as of numbers
        return where, flat[where]

    def _tables(self, geometry: Geometry) -> tuple[Tables, Tables]:
        """Tables of rows and of columns on the device; their size is that of the program."""
        if geometry not in self._tables_of:
            self._tables_of[geometry] = jax.device_put(_tables(geometry), self._device)
        return self._tables_of[geometry]

    @staticmethod
    def _assemble(tiles: jax.Array, geometry: Geometry) -> np.ndarray:
        """Tiles [tiles, rows, columns], column after column of them -> [H, W]."""
        height, width = geometry.original
        rows, columns = _num_tiles(geometry)
        used = np.asarray(tiles)[: rows * columns].reshape(columns, rows, _TILE_ROWS, _TILE_COLUMNS)
        return used.transpose(1, 2, 0, 3).reshape(rows * _TILE_ROWS, -1)[:height, :width]

    def _run(self, function, *args):
        def lower() -> jax.stages.Lowered:
            with jax.default_device(self._device):
                return jax.jit(function).lower(*args)

        return self._programs.get((function, shapes_of(args)), lower)(*args)


def _num_tiles(geometry: Geometry) -> tuple[int, int]:
    """Of a column and of a row; at least one row is beyond the image, so that every run of a column ends in it."""
    height, width = geometry.original
    return height // _TILE_ROWS + 1, -(-width // _TILE_COLUMNS)


@functools.lru_cache(maxsize=8)
def _tables(geometry: Geometry) -> tuple[Tables, Tables]:
    """Tables of rows and of columns, with room for as many tiles as their program is for."""
    counts = _num_tiles(geometry)
    room = MAX_TILES
    while room < counts[0] * counts[1]:
        room *= 4
    sizes = (_TILE_ROWS, _TILE_COLUMNS)
    return tuple(
        _table(matrix, size, count, room)
        for matrix, size, count in zip(geometry.upsampling(), sizes, counts, strict=True)
    )


def _table(matrix: np.ndarray, size: int, num_tiles: int, room: int) -> Tables:
    """A matrix [pixels, logits] whose rows have at most three neighboring entries."""
    pixels, num_logits = matrix.shape
    first = np.minimum((matrix != 0).argmax(axis=1), num_logits - _TAPS)
    weights = np.take_along_axis(matrix, first[:, None] + np.arange(_TAPS), axis=1)
    beyond = room * size - pixels
    return Tables(
        first=np.pad(first, (0, beyond)).reshape(room, size).astype(np.int32),
        weights=np.pad(weights, ((0, beyond), (0, 0))).reshape(room, size, _TAPS).astype(np.float32),
        num_tiles=np.int32(num_tiles),
    )


def _boundaries(where: np.ndarray, values: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Words of `_mask_boundaries` -> the mask and the column-major pixel of each boundary, in rising order."""
    height, width = geometry.original
    pixels = height * width
    rows, _ = _num_tiles(geometry)
    rest, column = np.divmod(where, _TILE_COLUMNS)
    rest, word = np.divmod(rest, _TILE_WORDS)
    tile, mask = np.divmod(rest, GROUP)
    x = tile // rows * _TILE_COLUMNS + column
    y = (tile % rows * _TILE_WORDS + word) * _WORD
    keys = mask * (pixels + 1) + x * height + y  # of the first pixel of each word
    bits = np.unpackbits(values.astype("<u4").view(np.uint8), bitorder="little")
    bit = np.flatnonzero(bits.view(bool))
    keys = np.sort(keys[bit // _WORD] + bit % _WORD)
    # A run that goes on in the next column ends and begins at one pixel: neither is a boundary.
    is_same = keys[1:] == keys[:-1]
    is_kept = np.ones(len(keys), bool)
    is_kept[1:] &= ~is_same
    is_kept[:-1] &= ~is_same
    return np.divmod(keys[is_kept], pixels + 1)


def _interpolate(logits: jax.Array, first: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    """Weighted sums of neighbors along an axis: first int [P], weights [P, 3]."""
    shape = [1] * logits.ndim
    shape[axis] = -1
    return sum(
        jnp.take(logits, first + tap, axis=axis, mode="clip") * weights[:, tap].reshape(shape) for tap in range(_TAPS)
    )


def _mask_boundaries(logits: jax.Array, rows: Tables, columns: Tables) -> jax.Array:
    """Where masks begin and end in a column: float32 [GROUP, h, w] -> uint32 [tiles, GROUP, words, columns].

    Bit i of word j is set if the pixel in row 32 j + i of the tile differs from the one above it; above the image is
    outside.
    """
    tile = (len(logits), _TILE_WORDS, _TILE_COLUMNS)
    first = rows.first.reshape(-1, _TILE_WORDS, _WORD)
    weights = rows.weights.reshape(-1, _TILE_WORDS, _WORD, _TAPS)

    def one_column(x: jax.Array, out: jax.Array) -> jax.Array:
        wide = _interpolate(logits, columns.first[x], columns.weights[x], axis=2)  # [GROUP, h, columns]

        def one_tile(y: jax.Array, out: jax.Array) -> jax.Array:
            word = jnp.zeros(tile, jnp.uint32)
            for bit in range(_WORD):  # whole rows of the tile at once: neighbors in memory
                value = _interpolate(wide, first[y, :, bit], weights[y, :, bit], axis=1)
                word |= (value > 0).astype(jnp.uint32) << bit
            return jax.lax.dynamic_update_index_in_dim(out, word, x * rows.num_tiles + y, 0)

        return jax.lax.fori_loop(0, rows.num_tiles, one_tile, out)

    # A loop of its own: in one with the loop above, the compiler would compute every bit once for each of its uses.
    # From the last tile on, so that the tile above is still as it was.
    def difference(step: jax.Array, masks: jax.Array) -> jax.Array:
        index = num_tiles - 1 - step
        word = masks[index]
        above = jnp.where(index % rows.num_tiles == 0, 0, masks[jnp.maximum(index - 1, 0)][:, -1:])
        before = jnp.concatenate([above, word[:, :-1]], axis=1) >> (_WORD - 1)
        return jax.lax.dynamic_update_index_in_dim(masks, word ^ (word << 1 | before), index, 0)

    num_tiles = columns.num_tiles * rows.num_tiles
    masks = jnp.zeros((len(rows.first), *tile), jnp.uint32)
    masks = jax.lax.fori_loop(0, columns.num_tiles, one_column, masks)
    return jax.lax.fori_loop(0, num_tiles, difference, masks)


def _nonzero_words(words: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How many words are not 0, and places and values of the first `_FETCHED_WORDS` of them."""
    flat = words.reshape(-1)
    (where,) = jnp.nonzero(flat, size=_FETCHED_WORDS, fill_value=0)
    return jnp.count_nonzero(flat), where, flat[where]


def _owner_tiles(logits: jax.Array, count: jax.Array, rows: Tables, columns: Tables) -> jax.Array:
    return _label_tiles(logits, count, 0.0, rows, columns)


def _class_tiles(
    parts: tuple[jax.Array, ...],
    frames: jax.Array,
    weights: jax.Array,
    classes: jax.Array,
    rows: Tables,
    columns: Tables,
) -> jax.Array:
    """`_label_tiles` of the mean of some clips' logits for one frame."""
    of_frame = (jnp.take(each, frames[i], axis=1)[classes] * weights[i] for i, each in enumerate(parts))
    return _label_tiles(sum(of_frame), jnp.int32(len(classes)), -jnp.inf, rows, columns)


def _label_tiles(logits: jax.Array, count: jax.Array, floor: float, rows: Tables, columns: Tables) -> jax.Array:
    """1 + the number of the greatest of the first `count` logits, 0 where none is above `floor`.

    float32 [K, h, w] -> uint8 or uint16 [tiles, rows, columns]; anything beyond the image.
    """
    tile = (_TILE_ROWS, _TILE_COLUMNS)
    dtype = jnp.uint8 if len(logits) < 256 else jnp.uint16

    def one_column(x: jax.Array, out: jax.Array) -> jax.Array:
        wide = _interpolate(logits, columns.first[x], columns.weights[x], axis=2)  # [K, h, columns]

        def one_tile(y: jax.Array, out: jax.Array) -> jax.Array:
            def one_label(k: jax.Array, best: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
                greatest, label = best
                values = _interpolate(wide[k], rows.first[y], rows.weights[y], axis=0)
                label = jnp.where(values > greatest, (k + 1).astype(dtype), label)
                return jnp.maximum(values, greatest), label

            start = jnp.full(tile, floor, jnp.float32), jnp.zeros(tile, dtype)
            _, label = jax.lax.fori_loop(0, count, one_label, start)
            return jax.lax.dynamic_update_index_in_dim(out, label, x * rows.num_tiles + y, 0)

        return jax.lax.fori_loop(0, rows.num_tiles, one_tile, out)

    return jax.lax.fori_loop(0, columns.num_tiles, one_column, jnp.zeros((len(rows.first), *tile), dtype))
