"""Backbones against the reference's own outputs, on its seeded weights."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tarvis_jax.model import backbones
from tarvis_jax.model.variables import fill, flatten
from tarvis_jax.weights.pytorch import rules
from tarvis_jax.weights.pytorch.mapping import convert_weights


class _OnlyBackbone(nnx.Module):
    """Puts the backbone under the path that it has in TarViS."""

    def __init__(self, name: str):
        self.backbone = backbones.build_backbone(name, rngs=nnx.Rngs(0))


def _layer_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


@pytest.mark.parametrize("name", ["ResNet50", "SwinTiny", "ConvNextTiny"])
def test_features_equal_the_reference(shared_dir, name):
    parity = shared_dir / "parity"
    spec = importlib.util.spec_from_file_location("seeded_weights", parity / "seeded_weights.py")
    seeded_weights = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded_weights)
    manifest = json.loads((parity / "manifests" / f"{name}.json").read_text())
    prefixes = ("backbone.backbone.", "backbone.norm_layers.")
    weights = seeded_weights.state_dict({k: v for k, v in manifest.items() if k.startswith(prefixes)})

    config = backbones.backbone_config(name)
    model = nnx.eval_shape(lambda: _OnlyBackbone(name))
    backbone = fill(model, convert_weights(weights, flatten(model), rules.backbone_rules(config))).backbone
    graph, state = nnx.split(backbone)

    images = np.load(parity / "golden" / name / "input.npz")["images"].astype(np.float32)
    frames = (images / (255 if config.unit_scale else 1) - np.float32(config.pixel_mean)) / np.float32(config.pixel_std)
    with jax.default_matmul_precision("highest"):
        features = jax.jit(lambda state, frames: nnx.merge(graph, state)(frames))(state, jnp.asarray(frames))

    golden = np.load(parity / "golden" / name / "instance.npz")
    for i, stride in enumerate((4, 8, 16, 32)):
        expected = golden[f"backbone/res{i + 2}"].transpose(0, 2, 3, 1)
        if name.startswith("ConvNext"):  # there, the golden files hold the features before the norm of each output
            norm = f"backbone.norm_layers.res{i + 2}"
            expected = _layer_norm(expected, weights[f"{norm}.weight"], weights[f"{norm}.bias"])
        ours = np.asarray(features[stride])
        assert ours.shape == expected.shape
        assert ours.shape[-1] == backbone.out_channels[stride]
        error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
        assert error <= 1e-5, f"{name} stride {stride}: relative L2 error {error:.2e}"
