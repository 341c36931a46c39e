"""Backbones small enough for tests that write files, and their state dicts under the names that other projects use."""

import re

import jax
import numpy as np
from flax import nnx

from tarvis_jax.model import backbones
from tarvis_jax.model.config import BACKBONE_FAMILIES
from tarvis_jax.model.variables import Keys, flatten
from tarvis_jax.weights.pytorch import rules
from tarvis_jax.weights.pytorch.mapping import export_weights

CONFIGS = {
    "ResNetMini": backbones.ResNetConfig(depths=(2, 1, 1, 1), channels=(16, 16, 32, 32), stem=((7, 2, 8),)),
    "SwinMini": backbones.SwinConfig(depths=(2, 1, 2, 1), channels=6, num_heads=(1, 2, 2, 2), window=3),
    "ConvNextMini": backbones.ConvNextConfig(depths=(1, 2, 1, 1), channels=(4, 6, 8, 10)),
}


def register(monkeypatch) -> None:
    """Makes the small backbones known for the time of a test."""
    for name, config in CONFIGS.items():
        monkeypatch.setitem(backbones.BACKBONES, name, config)
        monkeypatch.setitem(BACKBONE_FAMILIES, name, "mini")


def variables(name: str) -> dict[str, np.ndarray]:
    """Seeded values of a backbone's variables."""
    rng = np.random.default_rng(0)
    shapes = flatten(nnx.eval_shape(lambda: backbones.build_backbone(name, rngs=Keys(jax.random.key(0)))))
    return {f"backbone/{path}": rng.standard_normal(v.shape).astype(np.float32) for path, v in shapes.items()}


def reference_names(name: str, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our variables as the reference has them, its prefix removed; ConvNeXt's output norms are the reference's own."""
    exported = export_weights(values, rules.backbone_rules(CONFIGS[name]))
    return {
        torch.removeprefix("backbone.backbone."): np.asarray(value)
        for torch, value in exported.items()
        if torch.startswith("backbone.backbone.")
    }


def torchvision_names(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ResNet under torchvision's names, with the counters and the classifier that its files have."""
    result = {}
    for name, value in state_dict.items():
        name = re.sub(r"^stem\.", "", name)
        name = re.sub(r"^res(\d)", lambda match: f"layer{int(match[1]) - 1}", name)
        name = re.sub(r"shortcut\.norm", "downsample.1", name)
        name = re.sub(r"shortcut", "downsample.0", name)
        name = re.sub(r"conv(\d)\.norm", r"bn\1", name)
        result[name] = value
        if name.endswith("running_var"):
            result[name.replace("running_var", "num_batches_tracked")] = np.array(7)
    result["fc.weight"], result["fc.bias"] = np.zeros((5, 32), np.float32), np.zeros(5, np.float32)
    return result


def detectron2_names(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under detectron2's names, classifier included, as its conversion of torchvision's files leaves them."""
    counters = {
        name.replace("running_var", "num_batches_tracked"): np.array(7)
        for name in state_dict
        if name.endswith("running_var")
    }
    head = {"stem.fc.weight": np.zeros((5, 32), np.float32), "stem.fc.bias": np.zeros(5, np.float32)}
    return {**state_dict, **counters, **head}


def swin_names(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A Swin as its authors publish it: masks of shifted windows, a last norm and a classifier, no output norms."""
    kept = {name: value for name, value in state_dict.items() if not re.match(r"norm\d\.", name)}
    masks = {f"layers.{i}.blocks.1.attn_mask": np.zeros((4, 9, 9), np.float32) for i in (0, 2)}
    names = {"norm.weight": 48, "norm.bias": 48, "head.bias": 5}
    return {
        **kept,
        **masks,
        **{name: np.zeros(n, np.float32) for name, n in names.items()},
        "head.weight": np.zeros((5, 48), np.float32),
    }


def convnext_names(state_dict: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A ConvNeXt as its authors publish it: a last norm and a classifier."""
    names = {"norm.weight": 10, "norm.bias": 10, "head.bias": 5}
    return {
        **state_dict,
        **{name: np.zeros(n, np.float32) for name, n in names.items()},
        "head.weight": np.zeros((5, 10), np.float32),
    }
