"""Swin transformer (Liu et al., ICCV 2021) with a LayerNorm on each output."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tarvis_jax.fields import Range, check_fields
from tarvis_jax.model.backbones import layers
from tarvis_jax.model.extent import Extent, clear_outside

_EPSILON = 1e-5
_BLOCKED = -100.0  # added to the attention logits of cells that only the cyclic shift made neighbors


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """One Swin transformer.

    Attributes:
      depths: blocks of the stages at strides 4, 8, 16, 32; every second block shifts its windows by half a window.
      channels: of the first stage; they double from stage to stage.
      num_heads: attention heads of the stages.
      window: side of an attention window, in cells.
      pixel_mean, pixel_std: of the input, RGB, in 0..255.
      unit_scale: whether pixels are divided by 255 before the mean is subtracted.
      drop_path: stochastic depth the reference trains with.
    """

    depths: layers.Depths
    channels: layers.Width
    num_heads: layers.Stages
    window: Annotated[int, Range(1, 64)]
    pixel_mean: layers.Pixel = (123.675, 116.28, 103.53)
    pixel_std: layers.Pixel = (58.395, 57.12, 57.375)
    unit_scale: bool = False
    drop_path: Annotated[float, Range(0, 1, below_high=True)] = 0.3

    def __post_init__(self):
        check_fields(self)


def relative_position_index(window: int) -> np.ndarray:
    """Row of the bias table for every pair of cells of a window: int64 [w * w, w * w], in 0..(2w - 1)^2 - 1.

    Cells are counted row by row; entry (i, j) encodes the offset of cell i from cell j.
    """
    y, x = np.divmod(np.arange(window * window), window)
    offset_y = y[:, None] - y[None, :] + window - 1
    offset_x = x[:, None] - x[None, :] + window - 1
    return offset_y * (2 * window - 1) + offset_x


def shift_mask(
    height: int, width: int, window: int, shift: int, used: jax.Array | None = None
) -> np.ndarray | jax.Array:
    """What each window may not attend to once the map has been rolled up and left by `shift`.

    Args:
      height, width: of the padded map, multiples of `window`.
      window, shift: of the attention.
      used: int32 [2], height and width of the part that was rolled, multiples of `window`; None: all.

    Returns:
      float32 [num_windows, w * w, w * w], 0 where two cells come from the same side of the seam, else -100.
    """
    array = np if used is None else jnp

    def side(size: int, end: int | jax.Array) -> np.ndarray | jax.Array:
        cells = np.arange(size)
        return (cells >= end - window).astype(int) + (cells >= end - shift)

    end_row, end_column = (height, width) if used is None else used
    region = 3 * side(height, end_row)[:, None] + side(width, end_column)[None, :]
    region = region.reshape(height // window, window, width // window, window)
    region = region.transpose(0, 2, 1, 3).reshape(-1, window * window)
    return array.where(region[:, :, None] == region[:, None, :], 0.0, _BLOCKED).astype(np.float32)


def roll(x: jax.Array, shift: int, used: jax.Array | None) -> jax.Array:
    """Maps [F, H, W, C], rolled down and right by `shift`; with `used`, int32 [2], only so many rows and columns."""
    if used is None:
        return jnp.roll(x, (shift, shift), axis=(1, 2))
    for axis, size in ((1, used[0]), (2, used[1])):
        cells = jnp.arange(x.shape[axis])
        x = jnp.take(x, jnp.where(cells < size, (cells - shift) % size, cells), axis=axis)
    return x


class WindowAttention(nnx.Module):
    """Multi-head self-attention inside (shifted) windows, with a learned bias per relative position."""

    def __init__(
        self, channels: int, num_heads: int, window: int, shift: int, *, compute_dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.compute_dtype = compute_dtype
        self.qkv = layers.linear(channels, 3 * channels, compute_dtype=compute_dtype, rngs=rngs)
        self.out = layers.linear(channels, channels, compute_dtype=compute_dtype, rngs=rngs)
        self.position_bias = nnx.Param(layers.TRUNCATED_NORMAL(rngs.params(), ((2 * window - 1) ** 2, num_heads)))

    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, C] -> [F, H, W, C], any H and W."""
        F, H, W, C = x.shape
        w, heads = self.window, self.num_heads
        # Zeros on the right and bottom fill the last windows. They take part in the attention, as in the reference.
        used = None if extent is None else extent.cells(H, W)
        if used is not None:
            x, used = clear_outside(x, extent), (used + w - 1) // w * w
        x = jnp.pad(x, ((0, 0), (0, -H % w), (0, -W % w), (0, 0)))
        height, width = x.shape[1:3]
        if self.shift:
            x = roll(x, -self.shift, used)
        x = x.reshape(F, height // w, w, width // w, w, C).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(F, -1, w * w, C)  # [F, windows, S, C]

        q, k, v = jnp.moveaxis(self.qkv(x).reshape(*x.shape[:3], 3, heads, C // heads), 3, 0)
        q = q * (C // heads) ** -0.5
        logits = jnp.einsum("fnqmd,fnkmd->fnmqk", q, k, preferred_element_type=jnp.float32)
        logits += self.position_bias[...][relative_position_index(w)].transpose(2, 0, 1)
        if self.shift:
            logits += shift_mask(height, width, w, self.shift, used)[:, None]
        weights = jax.nn.softmax(logits).astype(self.compute_dtype)
        x = jnp.einsum("fnmqk,fnkmd->fnqmd", weights, v).reshape(F, -1, w * w, C)
        x = self.out(x)

        x = x.reshape(F, height // w, width // w, w, w, C).transpose(0, 1, 3, 2, 4, 5)
        x = x.reshape(F, height, width, C)
        if self.shift:
            x = roll(x, self.shift, used)
        return x[:, :H, :W]


class SwinBlock(nnx.Module):
    """Pre-norm window attention, then a pre-norm MLP of four times the channels."""

    def __init__(
        self,
        channels: int,
        num_heads: int,
        window: int,
        shift: int,
        drop_path: float,
        *,
        compute_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        kwargs = {"compute_dtype": compute_dtype, "rngs": rngs}
        self.norm1 = layers.layer_norm(channels, _EPSILON, **kwargs)
        self.attention = WindowAttention(channels, num_heads, window, shift, **kwargs)
        self.norm2 = layers.layer_norm(channels, _EPSILON, **kwargs)
        self.linear1 = layers.linear(channels, 4 * channels, **kwargs)
        self.linear2 = layers.linear(4 * channels, channels, **kwargs)
        self.drop_path = drop_path

    def __call__(self, x: jax.Array, keys: jax.Array | None = None, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, C] -> [F, H, W, C]; keys [F] turn stochastic depth on."""
        attention_keys, mlp_keys = (None, None) if keys is None else jax.vmap(jax.random.split, out_axes=1)(keys)
        x = x + layers.drop_path(self.attention(self.norm1(x), extent), self.drop_path, attention_keys)
        mlp = self.linear2(jax.nn.gelu(self.linear1(self.norm2(x)), approximate=False))
        return x + layers.drop_path(mlp, self.drop_path, mlp_keys)


class PatchMerging(nnx.Module):
    """Joins 2x2 cells into one with twice the channels."""

    def __init__(self, channels: int, *, compute_dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm = layers.layer_norm(4 * channels, _EPSILON, compute_dtype=compute_dtype, rngs=rngs)
        self.linear = layers.linear(4 * channels, 2 * channels, use_bias=False, compute_dtype=compute_dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[F, H, W, C] -> [F, ceil(H / 2), ceil(W / 2), 2 C]; odd sizes are padded with zeros."""
        F, H, W, C = x.shape
        x = jnp.pad(x, ((0, 0), (0, H % 2), (0, W % 2), (0, 0)))
        x = x.reshape(F, (H + 1) // 2, 2, (W + 1) // 2, 2, C)
        x = x.transpose(0, 1, 3, 4, 2, 5)  # the pretrained weights count the four cells column by column
        return self.linear(self.norm(x.reshape(F, (H + 1) // 2, (W + 1) // 2, 4 * C)))


class Swin(nnx.Module):
    """Features at strides 4, 8, 16 and 32 (res2..res5)."""

    def __init__(self, config: SwinConfig, *, compute_dtype: jnp.dtype, drop_path: float, remat: str, rngs: nnx.Rngs):
        self.config = config
        self.compute_dtype = compute_dtype
        self.remat = remat
        channels = [config.channels * 2**i for i in range(4)]
        self.out_channels = dict(zip((4, 8, 16, 32), channels, strict=True))
        kwargs = {"compute_dtype": compute_dtype, "rngs": rngs}

        self.patch_embed = layers.patch_conv(3, config.channels, 4, **kwargs)
        self.patch_norm = layers.layer_norm(config.channels, _EPSILON, **kwargs)
        self.stages, self.merges, self.output_norms = nnx.List(), nnx.List(), nnx.List()
        rates = layers.drop_path_rates(drop_path, config.depths)
        for i in range(4):
            shifts = [0 if j % 2 == 0 else config.window // 2 for j in range(config.depths[i])]
            blocks = [
                SwinBlock(channels[i], config.num_heads[i], config.window, shift, rate, **kwargs)
                for shift, rate in zip(shifts, rates[i], strict=True)
            ]
            self.stages.append(nnx.List(blocks))
            self.output_norms.append(layers.layer_norm(channels[i], _EPSILON, **kwargs))
            if i < 3:
                self.merges.append(PatchMerging(channels[i], **kwargs))

    def __call__(
        self, frames: jax.Array, *, rng_keys: jax.Array | None = None, extent: Extent | None = None
    ) -> dict[int, jax.Array]:
        """Normalized frames [F, H, W, 3] -> {stride: [F, H / stride, W / stride, C]} for 4, 8, 16, 32.

        H and W are padded with zeros to a multiple of 4. Keys [F] of the frames turn stochastic depth on.
        """
        H, W = frames.shape[1:3]
        x = jnp.pad(frames.astype(self.compute_dtype), ((0, 0), (0, -H % 4), (0, -W % 4), (0, 0)))
        x = self.patch_norm(self.patch_embed(x))
        features = {}
        for i, (stride, blocks) in enumerate(zip((4, 8, 16, 32), self.stages, strict=True)):
            if i > 0:
                x = self.merges[i - 1](x)
            first_index = sum(self.config.depths[:i])
            x = layers.run_blocks(
                blocks, x, remat=self.remat, rng_keys=rng_keys, first_index=first_index, extent=extent
            )
            features[stride] = self.output_norms[i](x)
        return features


SWINS: dict[str, SwinConfig] = {
    "SwinTiny": SwinConfig(depths=(2, 2, 6, 2), channels=96, num_heads=(3, 6, 12, 24), window=7),
    "SwinSmall": SwinConfig(depths=(2, 2, 18, 2), channels=96, num_heads=(3, 6, 12, 24), window=7),
    "SwinBase": SwinConfig(depths=(2, 2, 18, 2), channels=128, num_heads=(4, 8, 16, 32), window=12),
    "SwinLarge": SwinConfig(depths=(2, 2, 18, 2), channels=192, num_heads=(6, 12, 24, 48), window=12),
}
