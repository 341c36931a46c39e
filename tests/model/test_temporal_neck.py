"""The temporal neck against the reference's golden features, and the properties its layout relies on."""

import dataclasses
import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kernels.attention import cudnn
from kernels.ms_deform_attn.operator import ms_deform_attn
from tarvis_jax.model import temporal_neck
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.temporal_neck import DeformableLayer, TemporalLayer, TemporalNeck, from_windows, to_windows
from tests import tiny

TINY = tiny.MODEL
TINY_CHANNELS = {4: 4, 8: 8, 16: 12, 32: 16}


def load_torch(neck: TemporalNeck, weights: dict[str, np.ndarray]) -> None:
    """Fills `neck` from the reference's names (without `backbone.fpn.`); every tensor must be used."""
    left = dict(weights)

    def fill(module, name: str) -> None:
        weight = left.pop(f"{name}.weight")
        if weight.ndim == 4:
            module.kernel[...] = jnp.asarray(weight.transpose(2, 3, 1, 0))
        elif weight.ndim == 2:
            module.kernel[...] = jnp.asarray(weight.T)
        else:
            module.scale[...] = jnp.asarray(weight)
        if f"{name}.bias" in left:
            module.bias[...] = jnp.asarray(left.pop(f"{name}.bias"))

    for i, proj in enumerate(neck.input_proj):
        fill(proj.conv, f"input_proj.{i}.0")
        fill(proj.norm, f"input_proj.{i}.1")
    neck.level_embed[...] = jnp.asarray(left.pop("transformer.level_embed"))
    neck.level_embed_3d[...] = jnp.asarray(left.pop("transformer.level_embed_3d"))
    for i, layer in enumerate(neck.layers):
        name = f"transformer.encoder.layers.{i}"
        for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
            fill(getattr(layer.deformable, part), f"{name}.self_attn.{part}")
        fill_norms_and_ffn(fill, layer.deformable, name)
        name = f"transformer.encoder.temporal_layers.{i}"
        attention = layer.temporal.attention
        attention.in_proj.kernel[...] = jnp.asarray(left.pop(f"{name}.self_attn.in_proj_weight").T)
        attention.in_proj.bias[...] = jnp.asarray(left.pop(f"{name}.self_attn.in_proj_bias"))
        fill(attention.out_proj, f"{name}.self_attn.out_proj")
        fill_norms_and_ffn(fill, layer.temporal, name)
    fill(neck.adapter.conv, "adapter_1")
    fill(neck.adapter.norm, "adapter_1.norm")
    fill(neck.output_conv.conv, "layer_1")
    fill(neck.output_conv.norm, "layer_1.norm")
    fill(neck.mask_features, "mask_features")
    assert not left


def fill_norms_and_ffn(fill, layer, name: str) -> None:
    fill(layer.norm, f"{name}.norm1")
    fill(layer.ffn.linear1, f"{name}.linear1")
    fill(layer.ffn.linear2, f"{name}.linear2")
    fill(layer.ffn.norm, f"{name}.norm2")


@pytest.mark.parametrize("backbone", ["ResNet50", "SwinTiny"])
def test_equals_reference(shared_dir, backbone):
    parity = shared_dir / "parity"
    sys.path.insert(0, str(parity))
    try:
        from seeded_weights import seeded_array
    finally:
        sys.path.remove(str(parity))
    prefix = "backbone.fpn."
    manifest = json.loads((parity / "manifests" / f"{backbone}.json").read_text())
    weights = {
        name.removeprefix(prefix): seeded_array(name, shape)
        for name, (shape, _) in manifest.items()
        if name.startswith(prefix)
    }
    golden = np.load(parity / "golden" / backbone / "instance.npz")
    res = {4 * 2**i: jnp.asarray(golden[f"backbone/res{i + 2}"].transpose(0, 2, 3, 1)[None]) for i in range(4)}

    neck = TemporalNeck({s: x.shape[-1] for s, x in res.items()}, ModelConfig(), rngs=nnx.Rngs(0))
    load_torch(neck, weights)
    graphdef, state = nnx.split(neck)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(lambda state, res: nnx.merge(graphdef, state)(res))(state, res)

    assert set(out) == {32, 16, 8, 4}
    for stride, ours in out.items():
        theirs = golden[f"neck/stride{stride}"].transpose(0, 2, 3, 1)[None]
        assert ours.shape == theirs.shape
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error <= 1e-5, (stride, error)  # the README of the golden files


def tiny_maps(batch: int = 2, num_frames: int = 2, height: int = 64, width: int = 96) -> dict[int, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        s: jnp.asarray(rng.standard_normal((batch, num_frames, height // s, width // s, c), dtype=np.float32))
        for s, c in TINY_CHANNELS.items()
    }


@pytest.fixture(scope="module")
def tiny_state():
    """A tiny neck whose offsets and attention weights depend on the input."""

    rng = np.random.default_rng(0)

    def draw(path, x):
        noise = 0.2 * rng.standard_normal(x.shape, dtype=np.float32)
        return jnp.asarray(noise + ("scale" in jax.tree_util.keystr(path)))

    abstract = nnx.eval_shape(lambda: TemporalNeck(TINY_CHANNELS, TINY, rngs=nnx.Rngs(0)))
    return jax.tree_util.tree_map_with_path(draw, nnx.state(abstract))


def apply(config: ModelConfig, state, res) -> dict[int, jax.Array]:
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: TemporalNeck(TINY_CHANNELS, config, rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, state)(res)


@pytest.fixture(scope="module")
def tiny_run(tiny_state):
    return functools.partial(jax.jit(functools.partial(apply, TINY)), tiny_state)


def test_clips_do_not_mix_and_frames_do(tiny_run):
    res = tiny_maps()
    changed = {s: x.at[1, 0].add(1.0 + 0.1 * s) for s, x in res.items()}
    before, after = tiny_run(res), tiny_run(changed)
    for stride in before:
        np.testing.assert_array_equal(before[stride][0], after[stride][0])
        assert np.abs(before[stride][1, 1] - after[stride][1, 1]).max() > 1e-3


def test_bfloat16(tiny_state, tiny_run):
    res = tiny_maps()
    exact = tiny_run(res)
    rounded = jax.jit(functools.partial(apply, dataclasses.replace(TINY, compute_dtype="bfloat16")))(tiny_state, res)
    for stride in exact:
        assert rounded[stride].dtype == jnp.bfloat16
        error = np.linalg.norm(exact[stride] - rounded[stride].astype(jnp.float32)) / np.linalg.norm(exact[stride])
        assert 1e-5 < error < 0.03, (stride, error)  # bfloat16 rounds by up to 0.4 %


def test_bfloat16_layer_looks_where_float32_says(monkeypatch):
    """Values are of the compute dtype; offsets and logits, from which locations and weights come, are float32."""
    config = dataclasses.replace(TINY, compute_dtype="bfloat16")
    found = []

    def attend(*arrays, **settings):
        found.append([array.dtype for array in arrays[:3]])
        return ms_deform_attn(*arrays, **settings)

    monkeypatch.setattr(temporal_neck, "ms_deform_attn", attend)

    def run(x, position):
        return DeformableLayer(config, rngs=nnx.Rngs(0))(x, position, ((2, 3), (4, 6), (8, 12)))

    shapes = (jax.ShapeDtypeStruct((1, 126, TINY.hidden_size), jnp.bfloat16), np.zeros((126, TINY.hidden_size), "f"))
    assert jax.eval_shape(run, *shapes).dtype == jnp.bfloat16
    assert found == [[jnp.bfloat16, jnp.float32, jnp.float32]]


@pytest.mark.parametrize("remat", ["none", "blocks"])
def test_remat_recomputes_each_layer(tiny_state, remat):
    config = dataclasses.replace(TINY, remat=remat)
    jaxpr = jax.make_jaxpr(functools.partial(apply, config))(tiny_state, tiny_maps())
    found = sum(eqn.primitive.name in ("checkpoint", "remat2") for eqn in jaxpr.eqns)
    assert found == (0 if remat == "none" else TINY.neck_layers)


def test_windows_in_turn_change_nothing():
    level_shapes = ((2, 3), (4, 6), (8, 12))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 2, 126, TINY.hidden_size), dtype=np.float32))
    position = jnp.asarray(rng.standard_normal(x.shape[1:], dtype=np.float32))
    state = nnx.state(TemporalLayer(TINY, rngs=nnx.Rngs(0)))

    def loss(limit: int | None, state, x, position):
        layer = nnx.eval_shape(lambda: TemporalLayer(TINY, rngs=nnx.Rngs(0)))
        layer.max_logit_bytes = limit
        return jnp.sum(jnp.sin(nnx.merge(nnx.graphdef(layer), state)(x, position, level_shapes)))

    # 6 windows of 42 tokens: 4 of them at once, so that the last part is a smaller one.
    in_turn = functools.partial(loss, 4 * 4 * TINY.num_heads * 42**2)
    assert any(eqn.primitive.name == "scan" for eqn in jax.make_jaxpr(in_turn)(state, x, position).eqns)
    expected, found = (
        jax.jit(jax.value_and_grad(function, argnums=(0, 1, 2)))(state, x, position)
        for function in (functools.partial(loss, None), in_turn)
    )
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_flash_attention_leaves_out_frames_too(monkeypatch):
    """cuDNN leaves out keys at the end alone; here plain XLA stands for it, with the same arguments."""
    level_shapes = ((2, 3), (4, 6), (8, 12))
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 3, 126, TINY.hidden_size), dtype=np.float32))
    position = jnp.asarray(rng.standard_normal(x.shape[1:], dtype=np.float32))
    graphdef, state = nnx.split(TemporalLayer(TINY, rngs=nnx.Rngs(0)))

    def run(num_frames, extent):
        args = x[:, :num_frames], position[:num_frames], extent
        return jax.jit(lambda *args: nnx.merge(graphdef, state)(*args[:2], level_shapes, args[2]))(*args)[:, :2]

    extent = Extent.of(2, None, (3, 64, 96), TINY.hidden_size)
    expected = run(2, None)
    np.testing.assert_allclose(run(3, extent), expected, atol=1e-5)

    attention, taken = jax.nn.dot_product_attention, []
    monkeypatch.setattr(cudnn, "where_possible", lambda flash, otherwise, *args, **_: flash(*args))
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *args, implementation, **lengths: taken.append(implementation) or attention(*args, **lengths),
    )
    np.testing.assert_allclose(run(3, extent), expected, atol=1e-5)
    assert taken == ["cudnn"]


@pytest.mark.parametrize("window", [1, 2])
def test_windows(window):
    """A window holds exactly the tokens of one square of the image, and nothing is lost."""
    level_shapes = ((2, 4), (4, 8), (8, 16))
    pixels = []  # which patch a cell belongs to, from its place in the image
    for level, (height, width) in enumerate(level_shapes):
        y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
        side = window * 2**level
        pixels.append(((y // side) * (4 // window) + x // side).ravel())
    patch = np.broadcast_to(np.concatenate(pixels), (3, 2, sum(map(len, pixels))))  # [B, T, S]
    token = np.arange(patch.size).reshape(patch.shape)
    x = jnp.asarray(np.stack([patch, token], axis=-1))  # [B, T, S, C]

    windows = to_windows(x, level_shapes, window)
    num_windows = 8 // window**2
    assert windows.shape == (3, num_windows, 2 * 21 * window**2, 2)
    np.testing.assert_array_equal(windows[..., 0], np.arange(num_windows)[:, None] + 0 * windows[..., 0])
    np.testing.assert_array_equal(from_windows(windows, 2, level_shapes, window), x)


def test_offsets_start_as_rotated_directions():
    config = dataclasses.replace(TINY, num_heads=8)
    bias = DeformableLayer(config, rngs=nnx.Rngs(0)).sampling_offsets.bias[...]
    bias = np.asarray(bias).reshape(8, 3, 2, 2)  # [M, L, P, xy]
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for point in range(2):
        for level in range(3):
            np.testing.assert_allclose(bias[:, level, point], (point + 1) * np.array(directions), atol=1e-6)


def test_bad_input_is_one_error(tiny_state):
    with pytest.raises(ValueError, match=r"expected the strides \[4, 8, 16, 32\], found \[4, 8\]"):
        TemporalNeck({4: 8, 8: 8}, TINY, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="multiples of 64 pixels.*found"):
        apply(dataclasses.replace(TINY, temporal_window=2), tiny_state, tiny_maps(batch=1))
