"""ResNet (He et al., CVPR 2016) with the stride in the 3x3 convolution, and a small one to train from scratch."""

import dataclasses
import math
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx

from tarvis_jax.fields import Length, OneOf, Range, check_fields
from tarvis_jax.model.backbones import layers
from tarvis_jax.model.extent import Extent, clear_outside, inside_mask


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
    """One ResNet.

    Attributes:
      depths: residual blocks of the stages at strides 4, 8, 16, 32.
      channels: output channels of the stages.
      stem: (kernel size, stride, channels) of each convolution before the stages.
      max_pool: halve the stem's output with a 3x3 max pooling; stem and pooling together must have stride 4.
      block: "bottleneck" (1x1, 3x3, 1x1 with a quarter of the channels inside) or "basic" (3x3, 3x3).
      norm: "frozen_batch_norm" (pretrained weights) or "group_norm" (trainable from scratch at any batch size).
      norm_groups: groups of the group norm.
      pixel_mean, pixel_std: of the input, RGB; in 0..255, or in 0..1 with `unit_scale`.
      unit_scale: whether pixels are divided by 255 before the mean is subtracted.
      drop_path: stochastic depth the reference trains with.
    """

    depths: layers.Depths
    channels: layers.Stages = (256, 512, 1024, 2048)
    stem: Annotated[
        tuple[tuple[Annotated[int, Range(1, 31)], Annotated[int, Range(1, 4)], layers.Width], ...], Length(1, 10)
    ] = ((7, 2, 64),)
    max_pool: bool = True
    block: Annotated[str, OneOf(("bottleneck", "basic"))] = "bottleneck"
    norm: Annotated[str, OneOf(("frozen_batch_norm", "group_norm"))] = "frozen_batch_norm"
    norm_groups: layers.Width = 8
    pixel_mean: layers.Pixel = (123.675, 116.28, 103.53)
    pixel_std: layers.Pixel = (58.395, 57.12, 57.375)
    unit_scale: bool = False
    drop_path: Annotated[float, Range(0, 1, below_high=True)] = 0.0

    def __post_init__(self):
        check_fields(self)
        stride = math.prod(s for _, s, _ in self.stem) * (2 if self.max_pool else 1)
        if stride != 4:
            raise ValueError(f"ResNetConfig: stem and pooling must have a stride of 4, found {stride}")


class ConvNorm(nnx.Module):
    """Convolution without bias, then a norm."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int,
        stride: int,
        config: ResNetConfig,
        *,
        compute_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shape = (kernel_size, kernel_size, inputs, outputs)
        self.kernel = nnx.Param(layers.kaiming_normal_fan_out(rngs.params(), shape))
        if config.norm == "frozen_batch_norm":
            self.norm = layers.FrozenBatchNorm(outputs, compute_dtype=compute_dtype)
        else:
            self.norm = nnx.GroupNorm(
                outputs,
                num_groups=config.norm_groups,
                epsilon=1e-5,
                dtype=compute_dtype,
                use_fast_variance=False,
                rngs=rngs,
            )
        self.stride = stride
        self.compute_dtype = compute_dtype

    def __call__(self, x: jax.Array, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, I] -> [F, H / stride, W / stride, O]."""
        kernel = self.kernel[...].astype(self.compute_dtype)
        x = layers.conv2d(clear_outside(x, extent) if len(kernel) > 1 else x, kernel, self.stride)
        mask = inside_mask(x, extent)
        if mask is None or isinstance(self.norm, layers.FrozenBatchNorm):
            return self.norm(x)
        return self.norm(x, mask=jnp.broadcast_to(mask, x.shape))


class Bottleneck(nnx.Module):
    """1x1 -> 3x3 (with the stride) -> 1x1, added to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: ResNetConfig, **kwargs):
        inner = outputs // 4
        self.conv1 = ConvNorm(inputs, inner, 1, 1, config, **kwargs)
        self.conv2 = ConvNorm(inner, inner, 3, stride, config, **kwargs)
        self.conv3 = ConvNorm(inner, outputs, 1, 1, config, **kwargs)
        is_same_shape = inputs == outputs and stride == 1
        self.shortcut = None if is_same_shape else ConvNorm(inputs, outputs, 1, stride, config, **kwargs)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, I] -> [F, H / stride, W / stride, O]; no stochastic depth: `keys` are unused."""
        y = jax.nn.relu(self.conv1(x, extent))
        y = jax.nn.relu(self.conv2(y, extent))
        y = self.conv3(y, extent)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, extent)))


class BasicBlock(nnx.Module):
    """3x3 (with the stride) -> 3x3, added to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int, config: ResNetConfig, **kwargs):
        self.conv1 = ConvNorm(inputs, outputs, 3, stride, config, **kwargs)
        self.conv2 = ConvNorm(outputs, outputs, 3, 1, config, **kwargs)
        is_same_shape = inputs == outputs and stride == 1
        self.shortcut = None if is_same_shape else ConvNorm(inputs, outputs, 1, stride, config, **kwargs)

    def __call__(self, x: jax.Array, keys: jax.Array | None = None, extent: Extent | None = None) -> jax.Array:
        """[F, H, W, I] -> [F, H / stride, W / stride, O]; no stochastic depth: `keys` are unused."""
        y = self.conv2(jax.nn.relu(self.conv1(x, extent)), extent)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x, extent)))


class ResNet(nnx.Module):
    """Features at strides 4, 8, 16 and 32 (res2..res5)."""

    def __init__(self, config: ResNetConfig, *, compute_dtype: jnp.dtype, drop_path: float, remat: str, rngs: nnx.Rngs):
        del drop_path  # ResNets train without it
        self.config = config
        self.compute_dtype = compute_dtype
        self.remat = remat
        self.out_channels = dict(zip((4, 8, 16, 32), config.channels, strict=True))
        kwargs = {"compute_dtype": compute_dtype, "rngs": rngs}

        self.stem = nnx.List()
        inputs = 3
        for kernel_size, stride, outputs in config.stem:
            self.stem.append(ConvNorm(inputs, outputs, kernel_size, stride, config, **kwargs))
            inputs = outputs

        block_class = Bottleneck if config.block == "bottleneck" else BasicBlock
        self.stages = nnx.List()
        for i, (depth, outputs) in enumerate(zip(config.depths, config.channels, strict=True)):
            blocks = nnx.List()
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(block_class(inputs, outputs, stride, config, **kwargs))
                inputs = outputs
            self.stages.append(blocks)

    def __call__(
        self, frames: jax.Array, *, rng_keys: jax.Array | None = None, extent: Extent | None = None
    ) -> dict[int, jax.Array]:
        """Normalized frames [F, H, W, 3] -> {stride: [F, H / stride, W / stride, C]} for 4, 8, 16, 32.

        `rng_keys` are accepted for the common interface and change nothing.
        """
        x = frames.astype(self.compute_dtype)
        for conv in self.stem:
            x = jax.nn.relu(conv(x, extent))
        if self.config.max_pool:  # of values from 0 on, so zeros outside change nothing
            x = nnx.max_pool(clear_outside(x, extent), (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        features = {}
        for stride, blocks in zip((4, 8, 16, 32), self.stages, strict=True):
            x = layers.run_blocks(blocks, x, remat=self.remat, rng_keys=None, first_index=0, extent=extent)
            features[stride] = x
        return features


RESNETS: dict[str, ResNetConfig] = {
    "ResNet50": ResNetConfig(depths=(3, 4, 6, 3)),
    "ResNet101": ResNetConfig(depths=(3, 4, 23, 3)),
    # 0.8 M parameters without pretraining, for the quickstart on a CPU.
    "ResNetTiny": ResNetConfig(
        depths=(1, 1, 1, 1),
        channels=(48, 96, 128, 128),
        stem=((3, 2, 16), (3, 2, 48)),
        max_pool=False,
        block="basic",
        norm="group_norm",
    ),
}
