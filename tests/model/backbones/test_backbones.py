"""Backbones: shapes, odd sizes against slow oracles, dtypes, stochastic depth, recomputation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from tarvis_jax.model import backbones
from tarvis_jax.model.backbones import layers, swin
from tarvis_jax.model.backbones.convnext import ConvNext
from tarvis_jax.model.backbones.resnet import ResNet, ResNetConfig
from tarvis_jax.model.backbones.swin import Swin
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.variables import fill, flatten

_SWIN = swin.SwinConfig(depths=(2, 1, 0, 0), channels=8, num_heads=(1, 2, 2, 4), window=3)
_CONVNEXT = backbones.ConvNextConfig(depths=(1, 1, 0, 1), channels=(8, 8, 16, 16))
_RESNET = backbones.BACKBONES["ResNetTiny"]
_CLASSES = {swin.SwinConfig: Swin, backbones.ConvNextConfig: ConvNext, ResNetConfig: ResNet}


def _make(config, *, compute_dtype="float32", drop_path=0.0, remat="none"):
    """A backbone with arbitrary weights; drawing them with numpy saves compiling the initializers."""
    kwargs = {"compute_dtype": jnp.dtype(compute_dtype), "drop_path": drop_path, "remat": remat}
    model = nnx.eval_shape(lambda: _CLASSES[type(config)](config, **kwargs, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    variables = {
        path: 0.2 * rng.standard_normal(v.shape, np.float32) + (1 if path.endswith("scale") else 0)
        for path, v in flatten(model).items()
    }
    return fill(model, variables)


def _run(model, frames):
    graph, state = nnx.split(model)
    return jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, frames)


@pytest.mark.parametrize("name", ["ResNet101", "ResNetTiny", "SwinLarge", "ConvNextXLarge"])
def test_every_backbone_has_four_strides(name):
    model = nnx.eval_shape(lambda: backbones.build_backbone(name, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(model)
    frames = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    features = jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, frames)
    assert {s: f.shape for s, f in features.items()} == {
        s: (2, 64 // s, 96 // s, model.out_channels[s]) for s in (4, 8, 16, 32)
    }


def test_unknown_name_is_an_error():
    with pytest.raises(ValueError, match="expected one of .*ResNet50.*found 'ResNet18'"):
        backbones.build_backbone("ResNet18", rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"block": "wide"}, "block: expected one of 'bottleneck', 'basic', found 'wide'"),
        ({"norm": "batch"}, "norm: expected one of 'frozen_batch_norm', 'group_norm', found 'batch'"),
        ({"max_pool": True}, "ResNetConfig"),
    ],
)
def test_bad_resnet_config_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(_RESNET, **change)


@pytest.mark.parametrize("size", [(13, 9), (2, 5)])  # either side of the choice between convolution and matmul
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 7])
def test_conv2d_equals_torch(size, stride, kernel_size):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    kernel = rng.standard_normal((kernel_size, kernel_size, 3, 4)).astype(np.float32)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(kernel).permute(3, 2, 0, 1),
        stride=stride,
        padding=(kernel_size - 1) // 2,
    )
    ours = layers.conv2d(jnp.asarray(x), jnp.asarray(kernel), stride)
    np.testing.assert_allclose(ours, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-4)


def test_frozen_batch_norm_is_torch_batch_norm_and_never_trained():
    rng = np.random.default_rng(0)
    norm = layers.FrozenBatchNorm(5, compute_dtype=jnp.dtype("float32"))
    scale, bias, mean, var = (rng.uniform(0.5, 2, 5).astype(np.float32) for _ in range(4))
    norm.scale[...], norm.bias[...], norm.mean[...], norm.var[...] = scale, bias, mean, var
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    expected = torch.nn.functional.batch_norm(*map(torch.tensor, (x, mean, var, scale, bias)), eps=1e-5)
    np.testing.assert_allclose(norm(x.transpose(0, 2, 1)), expected.numpy().transpose(0, 2, 1), rtol=1e-5, atol=1e-6)
    assert not jax.tree.leaves(nnx.state(norm, nnx.Param))
    assert len(jax.tree.leaves(nnx.state(norm, Frozen))) == 4


def _slow_window_attention(attention: swin.WindowAttention, x: np.ndarray) -> np.ndarray:
    """One query at a time: which cells share its (shifted) window and its side of the seam, and a softmax over them."""
    _, H, W, C = x.shape
    w, shift, heads = attention.window, attention.shift, attention.num_heads
    height, width = -(-H // w) * w, -(-W // w) * w
    padded = np.zeros((height, width, C))
    padded[:H, :W] = x[0]
    qkv = padded @ np.asarray(attention.qkv.kernel[...]) + np.asarray(attention.qkv.bias[...])
    q, k, v = qkv.reshape(height, width, 3, heads, C // heads).transpose(2, 0, 1, 3, 4)
    table = np.asarray(attention.position_bias[...]).reshape(2 * w - 1, 2 * w - 1, heads)
    out = np.zeros((H, W, heads, C // heads))
    for y in range(H):
        for x_ in range(W):
            window = ((y - shift) % height // w, (x_ - shift) % width // w)
            cells = [
                (i, j)
                for i in range(height)
                for j in range(width)
                if ((i - shift) % height // w, (j - shift) % width // w) == window
            ]
            for m in range(heads):
                logits = []
                for i, j in cells:
                    offset_y = (y - shift) % height - (i - shift) % height + w - 1
                    offset_x = (x_ - shift) % width - (j - shift) % width + w - 1
                    is_same_side = ((y < shift) == (i < shift)) and ((x_ < shift) == (j < shift))
                    logit = q[y, x_, m] @ k[i, j, m] / np.sqrt(C // heads) + table[offset_y, offset_x, m]
                    logits.append(logit if is_same_side else logit - 100)
                weights = np.exp(np.array(logits) - max(logits))
                out[y, x_, m] = sum(p * v[i, j, m] for p, (i, j) in zip(weights, cells, strict=True)) / weights.sum()
    return out.reshape(1, H, W, C) @ np.asarray(attention.out.kernel[...]) + np.asarray(attention.out.bias[...])


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention_equals_a_slow_one_on_odd_sizes(shift):
    attention = swin.WindowAttention(8, 2, 3, shift, compute_dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    for variable in (attention.qkv.kernel, attention.qkv.bias, attention.position_bias, attention.out.bias):
        variable[...] = jnp.asarray(rng.standard_normal(variable.shape), jnp.float32)
    x = rng.standard_normal((1, 5, 7, 8)).astype(np.float32)
    np.testing.assert_allclose(attention(jnp.asarray(x)), _slow_window_attention(attention, x), rtol=1e-4, atol=1e-5)


def test_patch_merging_pads_odd_sizes_and_counts_cells_column_by_column():
    merging = swin.PatchMerging(2, compute_dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    merging.linear.kernel[...] = jnp.eye(8, 4)  # keeps the first two cells of each patch
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 2)).astype(np.float32)
    ours = np.asarray(merging(jnp.asarray(x)))
    assert ours.shape == (1, 2, 3, 4)
    padded = np.zeros((4, 6, 2), np.float32)
    padded[:3, :5] = x[0]
    for y, x_ in np.ndindex(2, 3):
        patch = padded[2 * y : 2 * y + 2, 2 * x_ : 2 * x_ + 2]
        cells = np.concatenate([patch[0, 0], patch[1, 0], patch[0, 1], patch[1, 1]])
        expected = (cells - cells.mean()) / np.sqrt(cells.var() + 1e-5)
        np.testing.assert_allclose(ours[0, y, x_], expected[:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [_RESNET, _SWIN, _CONVNEXT], ids=["resnet", "swin", "convnext"])
def test_bfloat16_stays_close_to_float32(config):
    frames = jax.random.normal(jax.random.key(1), (2, 32, 64, 3))
    full, half = _run(_make(config), frames), _run(_make(config, compute_dtype="bfloat16"), frames)
    for stride, feature in half.items():
        assert feature.dtype == jnp.bfloat16
        error = jnp.linalg.norm(feature.astype(jnp.float32) - full[stride]) / jnp.linalg.norm(full[stride])
        assert error < 0.05, f"stride {stride}: {error}"  # eight bits of mantissa through some ten layers


def test_recomputation_gives_the_same_gradients():
    config = dataclasses.replace(_CONVNEXT, depths=(1, 0, 0, 0))
    frames = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))

    def gradient(remat):
        graph, state = nnx.split(_make(config, remat=remat, drop_path=0.0))

        def loss(state):
            features = nnx.merge(graph, state)(frames, rng_keys=jax.random.split(jax.random.key(0), 1))
            return sum(jnp.mean(f**2) for f in features.values())

        return jax.jit(jax.grad(loss))(state)

    plain, remat = gradient("none"), gradient("blocks")
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(plain)) > 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), plain, remat)


@pytest.mark.parametrize("config", [_SWIN, _CONVNEXT], ids=["swin", "convnext"])
def test_stochastic_depth_needs_a_key_and_follows_it(config):
    frames = jax.random.normal(jax.random.key(1), (8, 32, 32, 3))
    graph, state = nnx.split(_make(config, drop_path=0.5))
    run = jax.jit(lambda keys: nnx.merge(graph, state)(frames, rng_keys=keys)[32])
    keys, others = jax.random.split(jax.random.key(0), (2, 8))
    without = run(None)
    first = run(keys)
    np.testing.assert_array_equal(first, run(keys))
    assert not np.allclose(first, without)
    assert not np.allclose(first, run(others))


def test_drop_path_drops_whole_frames_and_keeps_the_mean():
    keys = jax.random.split(jax.random.key(0), 4000)
    dropped = np.asarray(layers.drop_path(jnp.ones((4000, 2, 2, 1)), 0.25, keys))
    assert set(np.unique(dropped)) == {0.0, np.float32(1 / 0.75)}
    assert (dropped == dropped[:, :1, :1]).all()
    assert abs(dropped.mean() - 1) < 0.03  # four standard deviations
    # The fate of a frame does not depend on the frames beside it.
    np.testing.assert_array_equal(layers.drop_path(jnp.ones((5, 2, 2, 1)), 0.25, keys[7:12]), dropped[7:12])


def test_drop_path_rates_rise_linearly():
    assert layers.drop_path_rates(0.3, (1, 1, 2, 0)) == [[0.0], [pytest.approx(0.1)], pytest.approx([0.2, 0.3]), []]
