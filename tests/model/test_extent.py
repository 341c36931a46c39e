"""Backbones on frames in larger arrays, with noise around them, against arrays that have no more than the frames.

The whole network: tests/inference/test_predictor.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tarvis_jax.compiled import quick_compiler_options
from tarvis_jax.model import backbones
from tarvis_jax.model.backbones.convnext import ConvNext
from tarvis_jax.model.backbones.resnet import ResNet, ResNetConfig
from tarvis_jax.model.backbones.swin import Swin, SwinConfig
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.variables import fill, flatten

BACKBONES = {
    "resnet": (ResNet, ResNetConfig(depths=(1, 1, 1, 1), channels=(8, 8, 8, 16), stem=((7, 2, 8),))),
    "swin": (Swin, SwinConfig(depths=(2, 2, 0, 0), channels=8, num_heads=(1, 2, 2, 4), window=7)),
    "convnext": (ConvNext, backbones.ConvNextConfig(depths=(1, 1, 0, 1), channels=(8, 8, 16, 16))),
}
H, W = 64, 96
ARRAY = (96, 160)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name):
    module, config = BACKBONES[name]
    model = nnx.eval_shape(
        lambda: module(config, compute_dtype=jnp.float32, drop_path=0.0, remat="none", rngs=nnx.Rngs(0))
    )
    rng = np.random.default_rng(0)
    positive = ("var", "scale")
    values = {
        path: 0.2 * rng.standard_normal(v.shape, np.float32) + any(word in path for word in positive)
        for path, v in flatten(model).items()
    }
    values = {path: np.abs(v) if "var" in path else v for path, v in values.items()}
    graph, state = nnx.split(fill(model, values))
    options = quick_compiler_options("cpu")
    run = jax.jit(
        lambda state, frames, extent: nnx.merge(graph, state)(frames, extent=extent), compiler_options=options
    )
    frames = 100 * rng.standard_normal((2, *ARRAY, 3), np.float32)
    expected = run(state, frames[:, :H, :W], None)
    found = run(state, frames, Extent.of(2, (H, W), (2, *ARRAY), hidden_size=4))
    for stride, x in expected.items():
        inside = found[stride][:, : H // stride, : W // stride]
        np.testing.assert_allclose(inside, x, atol=1e-5 * np.abs(x).max(), err_msg=str(stride))
        assert np.isfinite(found[stride]).all()
