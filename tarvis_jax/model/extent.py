"""Clips in larger arrays, so that clips of many lengths and sizes share a program: what of an array is the clip."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from tarvis_jax.model.config import PYRAMID_STRIDES
from tarvis_jax.model.position_encoding import Axes, sine_1d


@flax.struct.dataclass
class Extent:
    """The part of an array that is the clip: its first frames, and of these the upper rows and left columns.

    What lies outside changes nothing inside: the numbers inside are those of an array that has no more than the clip,
    up to rounding. Those outside are finite and mean nothing. All clips of a batch have the same extent. Where a
    function takes an `Extent | None`, None is for an array that has no more than the clip.

    Attributes:
      num_frames: int32 [], at least 1.
      size: int32 [2], height and width in pixels, multiples of config.size_divisor; None: all rows and columns.
      times: float32 [T, C], position encoding of the frames.
      rows: {h: float32 [h, C/2]}, position encoding of the rows of each map of the pyramid; None: as without an extent.
      columns: likewise.
      array_size: height and width in pixels of the array; static.
    """

    num_frames: jax.Array
    size: jax.Array | None
    times: jax.Array
    rows: dict[int, jax.Array] | None
    columns: dict[int, jax.Array] | None
    array_size: tuple[int, int] = flax.struct.field(pytree_node=False)

    @classmethod
    def of(
        cls, num_frames: int, size: tuple[int, int] | None, shape: tuple[int, int, int], hidden_size: int
    ) -> "Extent":
        """The extent of a clip of `num_frames` frames of `size` in an array of `shape` (T, H, W), in numpy arrays."""
        length, *array_size = shape
        rows = columns = None
        if size is not None:
            rows, columns = (
                {array // s: sine_1d(array // s, hidden_size // 2, last=used // s) for s in PYRAMID_STRIDES}
                for array, used in zip(array_size, size, strict=True)
            )
            size = np.asarray(size, np.int32)
        times = sine_1d(length, hidden_size, last=num_frames)
        return cls(np.int32(num_frames), size, times, rows, columns, tuple(array_size))

    def axes(self, height: int, width: int) -> Axes | None:
        """Position encoding of rows and columns of a map of `height` x `width` cells; None: as without an extent."""
        return None if self.size is None else (self.rows[height], self.columns[width])

    def cells(self, height: int, width: int) -> jax.Array | None:
        """int32 [2]: rows and columns inside, of a map of `height` x `width` cells of the array."""
        if self.size is None:
            return None
        strides = jnp.array([self.array_size[0] // height, self.array_size[1] // width])
        return self.size // strides

    def inside(self, height: int, width: int) -> jax.Array | None:
        """bool [height, width]: the cells inside, of such a map; None: all."""
        cells = self.cells(height, width)
        if cells is None:
            return None
        return (jnp.arange(height) < cells[0])[:, None] & (jnp.arange(width) < cells[1])

    def frames_inside(self, num_frames: int) -> jax.Array:
        """bool [num_frames]: the frames inside."""
        return jnp.arange(num_frames) < self.num_frames

    def clip_inside(self, num_frames: int, height: int, width: int) -> jax.Array:
        """bool [num_frames, height, width]: the cells inside, of a map over time."""
        frames, inside = self.frames_inside(num_frames)[:, None, None], self.inside(height, width)
        return jnp.broadcast_to(frames if inside is None else frames & inside, (num_frames, height, width))


def inside_mask(x: jax.Array, extent: Extent | None) -> jax.Array | None:
    """bool [1, h, w, 1]: the cells of maps [F, h, w, C] inside; None: all."""
    inside = None if extent is None else extent.inside(*x.shape[1:3])
    return None if inside is None else inside[None, :, :, None]


def clear_outside(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Maps [F, h, w, C] with zeros outside, as a convolution's own padding would be."""
    mask = inside_mask(x, extent)
    return x if mask is None else jnp.where(mask, x, 0)


def repeat_border(x: jax.Array, extent: Extent | None) -> jax.Array:
    """Maps [F, h, w, C] with the last row and column inside repeated outside, as interpolation clamps at borders."""
    cells = None if extent is None else extent.cells(*x.shape[1:3])
    if cells is None:
        return x
    rows, columns = (jnp.minimum(jnp.arange(x.shape[axis]), cells[axis - 1] - 1) for axis in (1, 2))
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)
