"""What the backbones share: convolution, frozen batch norm, stochastic depth."""

import math
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from tarvis_jax.fields import Length, Range
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.remat import rematerialize

# Fields of the backbones' configs.
Width = Annotated[int, Range(1, 65_536)]
Stages = Annotated[tuple[Width, ...], Length(4, 4)]  # one number for each of the strides 4, 8, 16, 32
Depths = Annotated[tuple[Annotated[int, Range(0, 1000)], ...], Length(4, 4)]  # blocks of each of these stages
_Channel = Annotated[float, Range(0, 255, above_low=True)]
Pixel = tuple[_Channel, _Channel, _Channel]

# Torch draws transformer weights from a normal of this width, cut far outside of it.
TRUNCATED_NORMAL = nnx.initializers.truncated_normal(0.02)
# Up to this many output cells per frame, `conv2d` is a matrix product over gathered patches: XLA's CPU convolution
# takes 20 times longer on a 2x3 map of 128 channels (forward and backward), and is as fast or faster from 4x6 on.
_MAX_MATMUL_CELLS = 16


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """2-D convolution with torch's symmetric padding of (k - 1) / 2 on every side.

    Args:
      x: [F, H, W, I].
      kernel: [k, k, I, O], k odd, of the dtype of `x`.
      stride: step in both directions.

    Returns:
      [F, ceil(H / stride), ceil(W / stride), O].
    """
    k, pad = kernel.shape[0], (kernel.shape[0] - 1) // 2
    F, H, W, I = x.shape
    height, width = -(-H // stride), -(-W // stride)
    if k == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if height * width > _MAX_MATMUL_CELLS:
        padding = [(pad, pad), (pad, pad)]
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    shifted = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(k) for j in range(k)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(k * k * I, -1)


class FrozenBatchNorm(nnx.Module):
    """Batch norm whose statistics and affine never change: y = (x - mean) / sqrt(var + 1e-5) * scale + bias.

    The reference keeps all four as buffers, so none of them is trained.
    """

    def __init__(self, channels: int, *, compute_dtype: jnp.dtype):
        self.scale = Frozen(jnp.ones(channels))
        self.bias = Frozen(jnp.zeros(channels))
        self.mean = Frozen(jnp.zeros(channels))
        self.var = Frozen(jnp.ones(channels))
        self.compute_dtype = compute_dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        scale = self.scale[...] * lax.rsqrt(self.var[...] + 1e-5)
        bias = self.bias[...] - self.mean[...] * scale
        return (x * scale + bias).astype(self.compute_dtype)


def layer_norm(channels: int, epsilon: float, *, compute_dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm over channels; its statistics are float32 whatever the compute dtype."""
    return nnx.LayerNorm(channels, epsilon=epsilon, dtype=compute_dtype, use_fast_variance=False, rngs=rngs)


def linear(inputs: int, outputs: int, *, use_bias: bool = True, compute_dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """Dense layer with the initializer of vision transformers."""
    return nnx.Linear(inputs, outputs, use_bias=use_bias, dtype=compute_dtype, kernel_init=TRUNCATED_NORMAL, rngs=rngs)


def patch_conv(inputs: int, outputs: int, size: int, *, compute_dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Conv:
    """Convolution over non-overlapping patches: [F, H, W, I] -> [F, H / size, W / size, O]."""
    return nnx.Conv(
        inputs,
        outputs,
        kernel_size=(size, size),
        strides=size,
        padding="VALID",
        dtype=compute_dtype,
        kernel_init=TRUNCATED_NORMAL,
        rngs=rngs,
    )


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """Rate of each block, per stage: linear in depth from 0 to `rate` (Huang et al., ECCV 2016)."""
    total = sum(depths)
    rates = [rate * i / max(total - 1, 1) for i in range(total)]
    return [rates[sum(depths[:i]) : sum(depths[: i + 1])] for i in range(len(depths))]


def drop_path(branch: jax.Array, rate: float, keys: jax.Array | None) -> jax.Array:
    """Stochastic depth: zeroes the residual branch of whole frames at random and scales up the others.

    Args:
      branch: [F, H, W, C], what a block adds to its input.
      rate: probability of dropping a frame, in [0, 1).
      keys: random keys [F], one for each frame, so that its fate does not depend on the frames beside it; None leaves
        the branch as it is (evaluation).
    """
    if keys is None or rate == 0.0:
        return branch
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(keys)
    return branch * (keep / (1.0 - rate)).astype(branch.dtype)[:, None, None, None]


def run_blocks(
    blocks: nnx.List,
    x: jax.Array,
    *,
    remat: str,
    rng_keys: jax.Array | None,
    first_index: int,
    extent: Extent | None = None,
) -> jax.Array:
    """Applies the residual blocks of one stage in order.

    Args:
      blocks: modules with `__call__(x, keys, extent)`.
      x: [F, H, W, C].
      remat: what the backward pass computes again (`rematerialize`).
      rng_keys: keys [F] for stochastic depth, or None.
      first_index: index of the stage's first block in the whole backbone; makes each block's keys its own.
      extent: what of the frames is there.
    """
    for i, block in enumerate(blocks):
        keys = None if rng_keys is None else jax.vmap(jax.random.fold_in, (0, None))(rng_keys, first_index + i)
        x = rematerialize(block, remat)(x, keys, extent)
    return x


def kaiming_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """He initialization by the number of outputs, for convolutions followed by ReLU; shape [k, k, I, O]."""
    return math.sqrt(2.0 / (shape[0] * shape[1] * shape[3])) * jax.random.normal(key, shape, dtype)
