"""The operator around the back ends: both forms, derivatives, vmap, the split over devices, the choice, the errors."""

import functools
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
from jax.test_util import check_grads

from kernels.ms_deform_attn import backends
from kernels.ms_deform_attn.operator import ms_deform_attn, ms_deform_attn_classic
from tests.kernels.ms_deform_attn import cases

ROOT = pathlib.Path(__file__).resolve().parents[3]
CASE = cases.CASES["spread"]
LEVEL_SHAPES, B, Q, M, D, P = (
    CASE.level_shapes,
    CASE.batch,
    CASE.num_queries,
    CASE.heads,
    CASE.head_size,
    CASE.num_points,
)
L = len(LEVEL_SHAPES)
NAMES = ("value", "offsets", "scores", "reference")


def arrays_of(case: cases.Case) -> list[jax.Array]:
    """value, offsets, scores, reference."""
    inputs = cases.make_inputs(case)
    return [jnp.asarray(inputs[name]) for name in NAMES]


fused = jax.jit(functools.partial(ms_deform_attn, level_shapes=LEVEL_SHAPES))


def summed(*arrays: jax.Array) -> jax.Array:
    """A scalar that weighs every output differently."""
    out = fused(*arrays)
    return jnp.vdot(out, jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))


all_grads = jax.jit(jax.grad(summed, argnums=range(4)))


def test_fused_form_and_all_its_gradients():
    """Against grid_sample in float64, with the gradient of the reference points."""
    inputs = cases.make_inputs(CASE)
    tensors = [torch.from_numpy(np.asarray(inputs[name], np.float64)).requires_grad_() for name in NAMES]
    expected = cases.torch_forward(CASE, *tensors).reshape(B, Q, M * D)
    arrays = arrays_of(CASE)
    np.testing.assert_allclose(fused(*arrays), expected.detach().numpy(), atol=1e-5)
    (expected * torch.cos(torch.arange(expected.numel())).view(expected.shape)).sum().backward()
    for name, found, tensor in zip(NAMES, all_grads(*arrays), tensors, strict=True):
        # Reference points scale the gradient by the size of the level.
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


def test_gradients_are_those_of_finite_differences():
    """At offsets that stay a quarter of a pixel away from the kinks."""
    value, offsets, scores, reference = arrays_of(CASE)
    sizes_wh = jnp.array([(w, h) for h, w in LEVEL_SHAPES], jnp.float32)
    reference = (jnp.floor(reference * sizes_wh) + 0.5) / sizes_wh  # centers of cells
    offsets = jnp.floor(offsets) + 0.25 + 0.5 * (offsets - jnp.floor(offsets))
    check_grads(fused, (value, offsets, scores, reference), order=1, modes=["rev"], eps=5e-3, atol=2e-2, rtol=2e-2)


def test_gradient_on_a_whole_pixel_is_the_one_to_the_right():
    """Offsets are whole pixels at initialization, so this is what training starts with."""
    shape = (3, 4)
    value = np.random.default_rng(0).normal(size=(1, 12, 1, 1)).astype(np.float32)
    grid = value.reshape(shape)

    def loss(offset):
        offsets = offset.reshape(1, 1, 1, 1, 1, 2)
        logits, center = jnp.zeros((1, 1, 1, 1, 1)), jnp.array([[1.5 / 4, 1.5 / 3]])
        return ms_deform_attn(value, offsets, logits, center, (shape,)).sum()

    expected = [grid[1, 2] - grid[1, 1], grid[2, 1] - grid[1, 1]]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(jnp.zeros(2)), expected, rtol=1e-6)


def test_backward_saves_the_inputs_and_nothing_else():
    arrays = arrays_of(CASE)
    saved = jax.tree.leaves(jax.vjp(fused, *arrays)[1])
    saved_shapes = {leaf.shape for leaf in saved if hasattr(leaf, "shape") and leaf.ndim}
    assert saved_shapes == {array.shape for array in arrays}


def test_classic_form_and_its_gradients():
    rng = np.random.default_rng(5)
    inputs = cases.make_inputs(CASE)
    locations = rng.uniform(-0.2, 1.2, (B, Q, M, L, P, 2)).astype(np.float32)
    weights = rng.normal(size=(B, Q, M, L, P)).astype(np.float32)  # any weights, not only a softmax
    tensors = [
        torch.from_numpy(np.asarray(x, np.float64)).requires_grad_() for x in (inputs["value"], locations, weights)
    ]
    sizes_wh = torch.tensor([(w, h) for h, w in LEVEL_SHAPES], dtype=torch.float64)
    given = cases.CASES["weights given"]
    origin = torch.zeros(Q, L, 2, dtype=torch.float64)
    expected = cases.torch_forward(given, tensors[0], tensors[1] * sizes_wh[:, None], tensors[2], origin)
    expected.sum().backward()
    function = functools.partial(ms_deform_attn_classic, level_shapes=LEVEL_SHAPES)
    arrays = [jnp.asarray(x) for x in (inputs["value"], locations, weights)]
    np.testing.assert_allclose(jax.jit(function)(*arrays), expected.detach().numpy().reshape(B, Q, M * D), atol=1e-5)
    grads = jax.jit(jax.grad(lambda *arrays: function(*arrays).sum(), argnums=(0, 1, 2)))(*arrays)
    for found, tensor in zip(grads, tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), rtol=1e-4, atol=1e-4)


def test_without_jit():
    arrays = arrays_of(CASE)
    np.testing.assert_array_equal(ms_deform_attn(*arrays, LEVEL_SHAPES), fused(*arrays))


def test_one_reference_point_for_all_levels():
    value, offsets, scores, reference = arrays_of(CASE)
    expected = fused(value, offsets, scores, jnp.broadcast_to(reference[:, :1], reference.shape))
    np.testing.assert_array_equal(fused(value, offsets, scores, reference[:, 0]), expected)


@pytest.mark.parametrize(
    "mapped", ["value offsets scores", "value", "offsets", "scores", "reference", "offsets reference"]
)
def test_vmap(mapped):
    """Over some arguments or all, of the output and of the gradients."""
    arrays, others = arrays_of(CASE), [jnp.roll(array, 1, axis=0) * 0.9 for array in arrays_of(CASE)]
    axes = tuple(0 if name in mapped.split() else None for name in NAMES)
    stacked = [
        jnp.stack([array, other]) if axis == 0 else array
        for array, other, axis in zip(arrays, others, axes, strict=True)
    ]
    second = [other if axis == 0 else array for array, other, axis in zip(arrays, others, axes, strict=True)]
    for function in (fused, all_grads):
        found = jax.jit(jax.vmap(function, in_axes=axes))(*stacked)
        for index, single in enumerate((arrays, second)):
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
                jax.tree.map(lambda x, index=index: x[index], found),
                function(*single),
            )


def test_gradient_of_vmap():
    value, offsets, scores, reference = arrays_of(CASE)

    def loss(value, offsets, scores):
        one = lambda v, o, s: ms_deform_attn(v[None], o[None], s[None], reference, LEVEL_SHAPES)[0]  # noqa: E731
        out = jax.vmap(one)(value, offsets, scores)
        return jnp.vdot(out, jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))

    found = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(value, offsets, scores)
    for a, b in zip(found, all_grads(value, offsets, scores, reference)[:3], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_same_bits_in_every_run():
    arrays = arrays_of(cases.CASES["same cells"])

    def loss(*arrays):
        out = ms_deform_attn(*arrays, cases.CASES["same cells"].level_shapes, deterministic=True)
        return (out**2).sum()

    function = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    jax.tree.map(np.testing.assert_array_equal, function(*arrays), function(*arrays))


def lowered(platform: str, **kwargs) -> str:
    function = jax.jit(functools.partial(ms_deform_attn, level_shapes=LEVEL_SHAPES, **kwargs))
    return function.trace(*arrays_of(CASE)).lower(lowering_platforms=(platform,)).as_text()


@pytest.fixture
def log(caplog):
    """Lines logged about back ends."""
    backends._log_choice.cache_clear()
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if r.name == backends.__name__]


def test_choice_is_the_argument_then_the_platform(log):
    lowered("cpu")
    lowered("cpu")
    lowered("cpu", backend="xla_deterministic")
    lowered("cpu", backend="xla")
    assert log() == [
        "ms_deform_attn: back end xla on cpu (platform default)",
        "ms_deform_attn: back end xla_deterministic on cpu (argument)",
        "ms_deform_attn: back end xla on cpu (argument)",
    ]
    with pytest.raises(ValueError, match=r"'pallas'; known: \['cuda', .*'xla_deterministic'\]"):
        lowered("cpu", backend="pallas")


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


def test_bad_arguments_are_one_error():
    value, offsets, scores, reference = arrays_of(CASE)
    with pytest.raises(
        ValueError, match=r"value: expected \[2, 159, 3, D\].*weights: expected float32.*found float16"
    ) as e:
        ms_deform_attn_classic(value[:, 1:], offsets, scores.astype(jnp.float16), LEVEL_SHAPES)
    assert "ms_deform_attn_classic with levels" in str(e.value)
    with pytest.raises(ValueError, match=r"logits: expected \(2, 6, 3, 3, 2\), found \(2, 6, 3, 3, 1\)"):
        ms_deform_attn(value, offsets, scores[..., :1], reference, LEVEL_SHAPES)
    with pytest.raises(ValueError, match=r"offsets_px: expected \[B, Q, M, 3, P, 2\], found \(6, 3, 3, 2, 2\)"):
        ms_deform_attn(value, offsets[0], scores, reference, LEVEL_SHAPES)
    with pytest.raises(
        ValueError, match=r"reference_points: expected shape \(6, 3, 2\) or \(6, 2\), found \(5, 3, 2\)"
    ):
        ms_deform_attn(value, offsets, scores, reference[1:], LEVEL_SHAPES)
    with pytest.raises(ValueError, match="expected no empty array"):
        ms_deform_attn(value, offsets[:, :0], scores[:, :0], reference[:0], LEVEL_SHAPES)
    with pytest.raises(ValueError, match="at least one .h, w. of positive sizes"):
        ms_deform_attn(value, offsets, scores, reference, ((1, 1), (0, 5), (11, 13)))


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
