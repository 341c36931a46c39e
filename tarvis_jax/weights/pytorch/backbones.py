"""Weights that training starts from: image backbones trained for classification or segmentation by other projects.

The files that the reference starts from, and what their tensors are called there:

- ResNet: torchvision's `resnet50-*.pth` (conv1, bn1, layer1.0.downsample.0, fc), or the same under detectron2's names
  in `R-50.pkl`, `R-101.pkl` (stem.conv1, stem.conv1.norm, res2.0.shortcut, stem.fc).
- Swin: `swin_{tiny,small}_patch4_window7_224`, `swin_{base,large}_patch4_window12_384_22k`, as .pth or as Mask2Former's
  .pkl.
- ConvNeXt: `convnext_{tiny,small,base,large,xlarge}_{1k,22k}_224*.pth`.

Models of detectron2 and Mask2Former that contain such a backbone (under `backbone.` or `backbone.bottom_up.`) serve
too, their other parts left out by a pattern.

Colors: these see RGB images less ImageNet's mean, over its deviation, as our models do. Some of detectron2's see
BGR with a deviation of 1; `channel_order` and `pixel_std` turn such a first convolution into ours.
"""

import dataclasses
import glob
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from tarvis_jax.model.backbones import (
    BackboneConfig,
    ConvNextConfig,
    ResNetConfig,
    SwinConfig,
    backbone_config,
    build_backbone,
)
from tarvis_jax.model.variables import Keys, flatten
from tarvis_jax.weights.deferred import Deferred
from tarvis_jax.weights.pytorch.files import StoredTensor, read_torch_file
from tarvis_jax.weights.pytorch.mapping import plan_weights
from tarvis_jax.weights.pytorch.reference import check_backbone, check_state_dict
from tarvis_jax.weights.pytorch.rules import backbone_rules
from tarvis_jax.weights.report import Report, fits

_PREFIXES = ("module.", "model.", "backbone.bottom_up.", "backbone.")
_REFERENCE = "backbone.backbone."  # where the reference keeps the backbone

# Parts of a classifier that no backbone has, by the names in the reference's place: always left out, and reported.
_HEADS = {
    ResNetConfig: ("stem.fc.*", "fc.*", "*.num_batches_tracked"),
    SwinConfig: ("head.*", "norm.*", "layers.*.attn_mask"),  # the masks of shifted windows follow from the image size
    ConvNextConfig: ("head.*", "norm.*"),
}
# What a classifier lacks: the norms of the four outputs.
_OUTPUT_NORMS = ("backbone/output_norms/*",)

_TORCHVISION_NAMES = (
    (r"^(conv1|bn1)\.", r"stem.\1."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\bbn(\d)\.", r"conv\1.norm."),
    (r"\bdownsample\.0\.", "shortcut."),
    (r"\bdownsample\.1\.", "shortcut.norm."),
)


def open_backbone(
    path: str | os.PathLike,
    backbone: str,
    *,
    new: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    channel_order: str = "RGB",
    pixel_std: Sequence[float] | None = None,
) -> tuple[dict[str, Deferred], Report]:
    """Variables of a backbone from a file of another project, to be read one at a time.

    Args:
      path: a `.pth` or `.pkl` file, see the top of this page.
      backbone: a name in BACKBONES.
      new: shell patterns of our variables that may stay without a tensor; the output norms may in any case.
      leave_out: shell patterns of the file's tensors (their names in the file) that are not used; the parts of a
        classifier are not in any case.
      channel_order: what the network was trained on, "RGB" or "BGR".
      pixel_std: what its images were divided by, in the order of `channel_order`, on pixels of 0..255; None: as ours
        (58.395, 57.12, 57.375 for red, green, blue). The mean must be ImageNet's (123.675, 116.28, 103.53).

    Returns:
      {"backbone/...": array that `np.asarray` reads}, and the report.

    Raises:
      ValueError: the file cannot be read, is another network, or tensors do not fit; says which.
    """
    config = backbone_config(backbone)
    if type(config) not in _HEADS or (isinstance(config, ResNetConfig) and config.norm != "frozen_batch_norm"):
        raise ValueError(f"{backbone}: no other project has weights for this backbone")
    state_dict, author = _state_dict(path)
    try:
        _refuse_caffe2(state_dict, author)
        names = {_reference_name(name, config): name for name in state_dict}
        if len(names) != len(state_dict):
            twice = sorted(set(state_dict) - set(names.values()))
            raise ValueError(f"tensors that are the same one under two names: {twice[:10]}")
        renamed = {theirs: state_dict[name] for theirs, name in names.items()}
        check_backbone(backbone, renamed)
        # A classifier's parts have other names in the file; they are known by those that the reference would give them.
        heads = [name for name in state_dict if fits(_reference_name(name, config), _heads(config))]
        module = nnx.eval_shape(lambda: build_backbone(backbone, rngs=Keys(jax.random.key(0))))
        variables, report = plan_weights(
            renamed,
            {f"backbone/{name}": value for name, value in flatten(module).items()},
            backbone_rules(config),
            new=(*_OUTPUT_NORMS, *new),
            leave_out=(*map(glob.escape, heads), *leave_out),
            derived_may_lack=True,
            shown_names=names,
            source=str(path),
        )
        notes = []
        if channel_order != "RGB" or pixel_std is not None:
            first = _first_convolution(config)
            if first not in variables:
                raise ValueError(f"channel_order, pixel_std: there is no tensor for {first}")
            variables[first] = _recolored(variables[first], config, channel_order, pixel_std)
            notes.append(f"first convolution: from {channel_order}, divided by {pixel_std or 'our deviation'}, to ours")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    return variables, dataclasses.replace(report, notes=tuple(notes))


def is_backbone_file(path: str | os.PathLike) -> bool:
    """Whether a file of tensors holds a backbone of another project; False for a checkpoint of the reference."""
    content = read_torch_file(path)
    model = content.get("model") if isinstance(content, dict) else None
    return not (isinstance(model, dict) and any(str(name).startswith("embedding_container.") for name in model))


def _state_dict(path: str | os.PathLike) -> tuple[dict[str, StoredTensor], str]:
    """The state dict, whether or not it lies under a key, and who made the file if that is said."""
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict of tensors, found {type(content).__name__}")
    for key in ("model", "state_dict", "model_state"):
        if isinstance(content.get(key), dict):
            check_state_dict(content[key], path)
            return content[key], str(content.get("__author__", ""))
    check_state_dict(content, path)
    return content, ""


def _refuse_caffe2(state_dict: Mapping[str, Any], author: str) -> None:
    if author == "Caffe2" or "conv1_w" in state_dict or any("_branch2a" in name for name in state_dict):
        raise ValueError(
            "weights of Caffe2/MSRA: another network than ours (stride in the 1x1 convolutions, BGR images); "
            "expected torchvision's (detectron2://ImageNetPretrained/torchvision/R-50.pkl)"
        )


def _reference_name(name: str, config: BackboneConfig) -> str:
    """The name that the reference's whole model has for a tensor of a backbone."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    if isinstance(config, ResNetConfig):
        for pattern, replacement in _TORCHVISION_NAMES:
            name = re.sub(pattern, replacement, name)
    return _REFERENCE + name


def _heads(config: BackboneConfig) -> list[str]:
    return [_REFERENCE + pattern for pattern in _HEADS[type(config)]]


def _first_convolution(config: BackboneConfig) -> str:
    if isinstance(config, ResNetConfig):
        return "backbone/stem/0/kernel"
    return "backbone/patch_embed/kernel" if isinstance(config, SwinConfig) else "backbone/reductions/0/kernel"


def _recolored(
    kernel: Deferred, config: BackboneConfig, channel_order: str, pixel_std: Sequence[float] | None
) -> Deferred:
    """The first convolution [h, w, 3, O] for our images, from one for images of another order and deviation."""
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(f"channel_order: expected 'RGB' or 'BGR', found {channel_order!r}")
    step = 1 if channel_order == "RGB" else -1
    ours = np.float64(config.pixel_std) * (255.0 if config.unit_scale else 1.0)
    theirs = ours[::step] if pixel_std is None else np.float64(pixel_std)
    if theirs.shape != (3,) or not (theirs > 0).all():
        raise ValueError(f"pixel_std: expected three positive numbers, found {pixel_std}")

    def make() -> np.ndarray:
        # (x - mean) / theirs = (x - mean) / ours * (ours / theirs), and the padding is 0 on either side.
        return (np.asarray(kernel)[:, :, ::step] * (ours / theirs[::step])[:, None]).astype(kernel.dtype)

    return dataclasses.replace(kernel, make=make)
