"""ConvNeXt (Liu et al., CVPR 2022) with a LayerNorm on each output."""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from tarvis_jax.fields import Range, check_fields
from tarvis_jax.model.backbones import layers
from tarvis_jax.model.extent import Extent, clear_outside

_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class ConvNextConfig:
    """One ConvNeXt.

    Attributes:
      depths: blocks of the stages at strides 4, 8, 16, 32.
      channels: of the stages.
      layer_scale: initial factor of each residual branch.
      pixel_mean, pixel_std: of the input, RGB, in 0..1.
      unit_scale: whether pixels are divided by 255 before the mean is subtracted.
      drop_path: stochastic depth the reference trains with.
    """

    depths: layers.Depths
    channels: layers.Stages
    layer_scale: Annotated[float, Range(0, 1)] = 1e-6
    pixel_mean: layers.Pixel = (0.485, 0.456, 0.406)
    pixel_std: layers.Pixel = (0.229, 0.224, 0.225)
    unit_scale: bool = True
    drop_path: Annotated[float, Range(0, 1, below_high=True)] = 0.0

    def __post_init__(self):
        check_fields(self)


class ConvNextBlock(nnx.Module):
    """7x7 depthwise convolution, LayerNorm, MLP of four times the channels, scaled and added to the input."""

    def __init__(
        self, channels: int, layer_scale: float, drop_path: float, *, compute_dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        kwargs = {"compute_dtype": compute_dtype, "rngs": rngs}
        self.depthwise = nnx.Conv(
            channels,
            channels,
            kernel_size=(7, 7),
            padding=((3, 3), (3, 3)),
            feature_group_count=channels,
            dtype=compute_dtype,
            kernel_init=layers.TRUNCATED_NORMAL,
            rngs=rngs,
        )
        self.norm = layers.layer_norm(channels, _EPSILON, **kwargs)
        self.linear1 = layers.linear(channels, 4 * channels, **kwargs)
        self.linear2 = layers.linear(4 * channels, channels, **kwargs)
        self.layer_scale = nnx.Param(jnp.full(channels, layer_scale))
        self.drop_path = drop_path
        self.compute_dtype = compute_dtype

    def __call__(self, x: jax.Array, keys: jax.Array | None = None, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, C] -> [F, H, W, C]; keys [F] turn stochastic depth on."""
        y = self.norm(self.depthwise(clear_outside(x, extent)))
        y = self.linear2(jax.nn.gelu(self.linear1(y), approximate=False))
        y = y * self.layer_scale[...].astype(self.compute_dtype)
        return x + layers.drop_path(y, self.drop_path, keys)


class ConvNext(nnx.Module):
    """Features at strides 4, 8, 16 and 32 (res2..res5)."""

    def __init__(
        self, config: ConvNextConfig, *, compute_dtype: jnp.dtype, drop_path: float, remat: str, rngs: nnx.Rngs
    ):
        self.config = config
        self.compute_dtype = compute_dtype
        self.remat = remat
        self.out_channels = dict(zip((4, 8, 16, 32), config.channels, strict=True))
        kwargs = {"compute_dtype": compute_dtype, "rngs": rngs}

        # Stage i is entered through reductions[i]: the stem convolves, then normalizes; the others the other way round.
        self.reductions, self.reduction_norms = nnx.List(), nnx.List()
        self.stages, self.output_norms = nnx.List(), nnx.List()
        rates = layers.drop_path_rates(drop_path, config.depths)
        for i, outputs in enumerate(config.channels):
            inputs, size = (3, 4) if i == 0 else (config.channels[i - 1], 2)
            self.reductions.append(layers.patch_conv(inputs, outputs, size, **kwargs))
            self.reduction_norms.append(layers.layer_norm(outputs if i == 0 else inputs, _EPSILON, **kwargs))
            blocks = [ConvNextBlock(outputs, config.layer_scale, rate, **kwargs) for rate in rates[i]]
            self.stages.append(nnx.List(blocks))
            self.output_norms.append(layers.layer_norm(outputs, _EPSILON, **kwargs))

    def __call__(
        self, frames: jax.Array, *, rng_keys: jax.Array | None = None, extent: Extent | None = None
    ) -> dict[int, jax.Array]:
        """Normalized frames [F, H, W, 3] -> {stride: [F, H / stride, W / stride, C]} for 4, 8, 16, 32.

        H and W must be multiples of 32: the convolutions between the stages drop what does not fill a patch. Keys
        [F] of the frames turn stochastic depth on.
        """
        x = frames.astype(self.compute_dtype)
        features = {}
        for i, (stride, blocks) in enumerate(zip((4, 8, 16, 32), self.stages, strict=True)):
            if i == 0:
                x = self.reduction_norms[i](self.reductions[i](x))
            else:
                x = self.reductions[i](self.reduction_norms[i](x))
            first_index = sum(self.config.depths[:i])
            x = layers.run_blocks(
                blocks, x, remat=self.remat, rng_keys=rng_keys, first_index=first_index, extent=extent
            )
            features[stride] = self.output_norms[i](x)
        return features


CONVNEXTS: dict[str, ConvNextConfig] = {
    "ConvNextTiny": ConvNextConfig(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
    "ConvNextSmall": ConvNextConfig(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
    "ConvNextBase": ConvNextConfig(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
    "ConvNextLarge": ConvNextConfig(depths=(3, 3, 27, 3), channels=(192, 384, 768, 1536)),
    "ConvNextXLarge": ConvNextConfig(depths=(3, 3, 27, 3), channels=(256, 512, 1024, 2048)),
}
