"""Deformable attention: the slow reference against PyTorch's grid_sample, every back end against both."""

import json
import logging
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kernels.ms_deform_attn import backends, reference
from kernels.ms_deform_attn.operator import ms_deform_attn, ms_deform_attn_classic

ROOT = pathlib.Path(__file__).resolve().parents[3]

# One level above the limit of the dense form, one below, and one of a single cell.
LEVEL_SHAPES = ((1, 1), (3, 5), (11, 13))
NUM_CELLS = sum(h * w for h, w in LEVEL_SHAPES)
B, Q, M, D, P = 2, 6, 3, 4, 2
L = len(LEVEL_SHAPES)


def torch_classic(value, locations_norm, weights):
    """The operator by grid_sample; torch tensors in, [B, Q, M * D] out."""
    out, start = 0, 0
    for level, (height, width) in enumerate(LEVEL_SHAPES):
        cells = value[:, start : start + height * width]  # [B, h * w, M, D]
        start += height * width
        cells = cells.permute(0, 2, 3, 1).reshape(B * M, D, height, width)
        grid = 2 * locations_norm[:, :, :, level].permute(0, 2, 1, 3, 4).reshape(B * M, Q, P, 2) - 1
        samples = torch.nn.functional.grid_sample(cells, grid, padding_mode="zeros", align_corners=False)
        scale = weights[:, :, :, level].permute(0, 2, 1, 3).reshape(B * M, 1, Q, P)
        out = out + (samples * scale).sum(-1)  # [B * M, D, Q]
    return out.reshape(B, M * D, Q).transpose(1, 2)


def torch_fused(value, offsets_px, logits, reference_points):
    sizes_wh = torch.tensor([(w, h) for h, w in LEVEL_SHAPES], dtype=offsets_px.dtype)
    locations = reference_points[None, :, None, :, None] + offsets_px / sizes_wh[:, None]
    weights = logits.reshape(B, Q, M, L * P).softmax(-1).reshape(logits.shape)
    return torch_classic(value, locations, weights)


def make_inputs(kind: str) -> dict[str, np.ndarray]:
    """float64 arguments of the fused form; `kind` says where the samples fall."""
    rng = np.random.default_rng(7)
    offsets = {
        "inside": lambda: rng.uniform(-0.4, 0.4, (B, Q, M, L, P, 2)),
        "spread": lambda: rng.normal(0, 4, (B, Q, M, L, P, 2)),
        "whole pixels": lambda: rng.integers(-4, 5, (B, Q, M, L, P, 2)).astype(float),
        "borders": lambda: rng.choice([-1.0, -0.5, 0.0, 0.5, 12.0, 12.5, 13.0], (B, Q, M, L, P, 2)),
        "far outside": lambda: rng.choice([-1e3, 40.0, 1e6], (B, Q, M, L, P, 2)),
        "huge": lambda: rng.choice([-1e30, 3e9, 1e38], (B, Q, M, L, P, 2)),
    }[kind]()
    reference_points = rng.uniform(0, 1, (Q, L, 2))
    if kind in ("whole pixels", "borders"):  # reference points on the centres of cells
        sizes = np.array([(w, h) for h, w in LEVEL_SHAPES])
        reference_points = ((reference_points * sizes).astype(int) + 0.5) / sizes
    if kind == "borders":
        reference_points = np.broadcast_to(0.5 / sizes, reference_points.shape).copy()
    return {
        "value": rng.normal(size=(B, NUM_CELLS, M, D)),
        "offsets_px": offsets,
        "logits": rng.normal(size=(B, Q, M, L, P)),
        "reference_points": reference_points,
    }


def to_float32(inputs: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x, jnp.float32) for name, x in inputs.items()}


KINDS = ["inside", "spread", "whole pixels", "borders", "far outside", "huge"]


@pytest.fixture(scope="module", params=["xla", "xla_deterministic"])
def backend(request):
    """(forward, gradients), compiled once for all tests."""

    def forward(inputs):
        return ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES, backend=request.param)

    def gradients(inputs, out_grad):
        return jax.vjp(forward, inputs)[1](out_grad)[0]

    return jax.jit(forward), jax.jit(gradients)


@pytest.mark.parametrize("kind", KINDS)
def test_reference_equals_grid_sample(kind):
    inputs = make_inputs(kind)
    ours = reference.ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES)
    theirs = torch_fused(**{name: torch.from_numpy(x) for name, x in inputs.items()})
    assert ours.dtype == np.float64
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_forward(backend, kind):
    inputs = make_inputs(kind)
    expected = reference.ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES)
    np.testing.assert_allclose(backend[0](to_float32(inputs)), expected, atol=1e-5)
    if kind in ("far outside", "huge"):
        assert not expected.any()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(backend, kind):
    """On whole pixels and borders float32 may fall on the other side of a kink: there only what has no kink counts."""
    inputs = make_inputs(kind)
    out_grad = np.random.default_rng(3).normal(size=(B, Q, M * D))
    tensors = {name: torch.from_numpy(x).requires_grad_() for name, x in inputs.items()}
    torch_fused(**tensors).backward(torch.from_numpy(out_grad))
    ours = backend[1](to_float32(inputs), jnp.asarray(out_grad, jnp.float32))
    for name, tensor in tensors.items():
        assert np.isfinite(ours[name]).all()
        if kind in ("whole pixels", "borders") and name in ("offsets_px", "reference_points"):
            continue
        # Reference points scale the gradient by the size of the level.
        np.testing.assert_allclose(ours[name], tensor.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_gradient_on_a_whole_pixel_is_the_one_to_the_right():
    """Offsets are whole pixels at initialisation, so this is what training starts with."""
    shape = (3, 4)
    value = np.random.default_rng(0).normal(size=(1, 12, 1, 1)).astype(np.float32)
    grid = value.reshape(shape)

    def loss(offset):
        offsets = offset.reshape(1, 1, 1, 1, 1, 2)
        logits, centre = jnp.zeros((1, 1, 1, 1, 1)), jnp.array([[1.5 / 4, 1.5 / 3]])
        return ms_deform_attn(value, offsets, logits, centre, (shape,)).sum()

    expected = [grid[1, 2] - grid[1, 1], grid[2, 1] - grid[1, 1]]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(jnp.zeros(2)), expected, rtol=1e-6)


def test_classic_form_equals_grid_sample():
    rng = np.random.default_rng(5)
    value = rng.normal(size=(B, NUM_CELLS, M, D))
    locations = rng.uniform(-0.2, 1.2, (B, Q, M, L, P, 2))
    weights = rng.normal(size=(B, Q, M, L, P))  # any weights, not only a softmax
    theirs = torch_classic(*map(torch.from_numpy, (value, locations, weights)))
    oracle = reference.ms_deform_attn_classic(value, locations, weights, LEVEL_SHAPES)
    np.testing.assert_allclose(oracle, theirs.numpy(), atol=1e-12)
    args = [jnp.asarray(x, jnp.float32) for x in (value, locations, weights)]
    ours = jax.jit(lambda *args: ms_deform_attn_classic(*args, LEVEL_SHAPES))(*args)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def test_bfloat16_values(backend):
    """Only the values and the result are rounded: locations near column 100 stay exact to a fraction of a cell."""
    inputs = make_inputs("spread")
    rounded = to_float32(inputs) | {"value": jnp.asarray(inputs["value"], jnp.bfloat16)}
    out = backend[0](rounded)
    inputs["value"] = np.asarray(rounded["value"], np.float64)
    expected = reference.ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, rtol=2**-8, atol=1e-5)
    grads = backend[1](rounded, jnp.ones((B, Q, M * D), jnp.bfloat16))
    assert {name: g.dtype for name, g in grads.items()} == {name: x.dtype for name, x in rounded.items()}


def test_vmap_and_shared_reference_points(backend):
    inputs = to_float32(make_inputs("spread"))
    inputs["reference_points"] = jnp.broadcast_to(inputs["reference_points"][:, :1], (Q, L, 2))
    expected = backend[0](inputs)
    one_point = inputs["reference_points"][:, 0]  # [Q, 2]

    def single(value, offsets, logits):
        return ms_deform_attn(value[None], offsets[None], logits[None], one_point, LEVEL_SHAPES)[0]

    out = jax.jit(jax.vmap(single))(inputs["value"], inputs["offsets_px"], inputs["logits"])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_nan_is_not_hidden(backend):
    inputs = to_float32(make_inputs("inside"))
    for level in range(L):
        bad = inputs | {"offsets_px": inputs["offsets_px"].at[0, 0, 0, level, 0, 0].set(jnp.nan)}
        out = backend[0](bad)
        assert np.isnan(out[0, 0, :D]).all() and np.isfinite(out[1]).all()


def lowered(platform: str, **kwargs) -> str:
    inputs = to_float32(make_inputs("inside"))
    function = jax.jit(lambda inputs: ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES, **kwargs))
    return function.trace(inputs).lower(lowering_platforms=(platform,)).as_text()


@pytest.fixture
def log(monkeypatch, caplog):
    """Lines logged about back ends; no environment variable."""
    monkeypatch.delenv(backends.ENVIRONMENT_VARIABLE, raising=False)
    backends._log_choice.cache_clear()
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if r.name == backends.__name__]


def test_choice_is_the_argument_then_the_environment_then_the_platform(monkeypatch, log):
    lowered("cpu")
    lowered("cpu")
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "xla_deterministic")
    lowered("cpu")
    lowered("cpu", backend="xla")
    assert log() == [
        "ms_deform_attn: back end xla on cpu (platform default)",
        "ms_deform_attn: back end xla_deterministic on cpu (environment variable TARVIS_MS_DEFORM_ATTN)",
        "ms_deform_attn: back end xla on cpu (argument)",
    ]
    monkeypatch.setenv(backends.ENVIRONMENT_VARIABLE, "pallas")
    with pytest.raises(ValueError, match=r"environment variable.*'pallas'; known: \['cuda', .*'xla_deterministic'\]"):
        lowered("cpu")


def test_choice_follows_the_platform_that_is_compiled_for(monkeypatch, log):
    """Also one that is not here; what cannot be imported or says no is passed over, and logged."""
    monkeypatch.setitem(backends.BACKENDS, "cuda", backends.Backend("kernels.ms_deform_attn.no_such_module"))
    monkeypatch.setitem(backends.BACKENDS, "triton", backends.Backend(_Picky.__name__))
    monkeypatch.setitem(sys.modules, _Picky.__name__, _Picky)
    lowered("cuda")
    (line,) = log()
    assert line.startswith(
        "ms_deform_attn: back end xla on cuda (platform default; not cuda: it cannot be imported (No"
    )
    assert line.endswith("; not triton: head sizes of 4 only bore it)")
    with pytest.raises(
        ValueError, match=r"ms_deform_attn on cuda \(argument\): not triton: head sizes of 4 only bore it"
    ):
        lowered("cuda", backend="triton")


class _Picky:
    """A back end that refuses."""

    @staticmethod
    def supports(value_dtype, head_size, *, platform, level_shapes, num_points):
        assert (value_dtype, head_size, level_shapes, num_points) == (jnp.float32, D, LEVEL_SHAPES, P)
        return f"head sizes of {head_size} only bore it"


def test_deterministic_choice(log):
    lowered("cpu", deterministic=True)
    lowered("cuda", deterministic=True)
    on_cpu, on_gpu = log()
    assert on_cpu == "ms_deform_attn: back end xla on cpu (platform default)"
    assert on_gpu.startswith(
        "ms_deform_attn: back end xla_deterministic on cuda (platform default; not cuda: it is not det"
    )
    with pytest.raises(ValueError, match="not xla: it is not deterministic on cuda"):
        lowered("cuda", backend="xla", deterministic=True)


def test_bad_shapes_are_one_error():
    inputs = to_float32(make_inputs("inside"))
    inputs["value"] = inputs["value"][:, 1:]
    inputs["logits"] = inputs["logits"][..., :1]
    with pytest.raises(ValueError, match=r"value: expected \[2, 159, 3, D\].*logits: expected \(2, 6, 3, 3, 2\)"):
        ms_deform_attn(**inputs, level_shapes=LEVEL_SHAPES)


def test_eight_devices_split_the_batch():
    """Compiled for a split batch, neither pass exchanges anything; any batch size gives what one device gives."""
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.kernels.ms_deform_attn.eight_devices", "xla"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["16"]["collectives"] == results["vmap"]["collectives"] == []
    assert all(result["difference"] < 1e-5 for result in results.values()), results
