"""Image backbones: frames [F, H, W, 3] -> features at strides 4, 8, 16, 32 (res2..res5). Frames do not interact."""

import jax.numpy as jnp
from flax import nnx

from tarvis_jax.model.backbones.convnext import CONVNEXTS, ConvNext, ConvNextConfig
from tarvis_jax.model.backbones.resnet import RESNETS, ResNet, ResNetConfig
from tarvis_jax.model.backbones.swin import SWINS, Swin, SwinConfig

BackboneConfig = ResNetConfig | SwinConfig | ConvNextConfig

BACKBONES: dict[str, BackboneConfig] = {**RESNETS, **SWINS, **CONVNEXTS}

# Class of a configuration -> the module that it describes.
MODULES: dict[type, type[nnx.Module]] = {ResNetConfig: ResNet, SwinConfig: Swin, ConvNextConfig: ConvNext}


def build_backbone(
    name: str,
    *,
    compute_dtype: str | jnp.dtype = "float32",
    drop_path: float | None = None,
    remat: str = "none",
    rngs: nnx.Rngs,
) -> nnx.Module:
    """Makes a backbone with fresh weights.

    The module maps `frames` (float [F, H, W, 3], normalized with the config's `pixel_mean` and `pixel_std`) to
    {stride: [F, H / stride, W / stride, C]} in `compute_dtype`; `out_channels` gives C per stride. `extent` says what
    of the frames is there (`model.extent`).

    Args:
      name: a key of BACKBONES.
      compute_dtype: of activations; parameters and norm statistics are float32.
      drop_path: stochastic depth of the last block; None takes the rate the reference trains this backbone with.
      remat: what the backward pass computes again (`rematerialize`).
      rngs: source of the initial weights.

    Raises:
      ValueError: for an unknown name.
    """
    config = backbone_config(name)
    return MODULES[type(config)](
        config,
        compute_dtype=jnp.dtype(compute_dtype),
        drop_path=config.drop_path if drop_path is None else drop_path,
        remat=remat,
        rngs=rngs,
    )


def backbone_config(name: str) -> BackboneConfig:
    """The configuration of a backbone; ValueError with the known names for an unknown one."""
    if name not in BACKBONES:
        raise ValueError(f"ModelConfig.backbone: expected one of {sorted(BACKBONES)}, found {name!r}")
    return BACKBONES[name]
