"""The plain XLA back ends against the float64 oracle and PyTorch's grid_sample."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kernels.ms_deform_attn import small_maps, xla, xla_deterministic
from tests.kernels.ms_deform_attn import cases

NAMES = ("value", "offsets", "scores", "reference", "out_grad")
# Sorting compiles slowly: only what tests the scatter.
DETERMINISTIC_CASES = ("spread", "borders", "huge", "one pixel", "same cells", "odd sizes", "bfloat16 values")


@pytest.mark.parametrize("name", cases.CASES)
def test_oracle_equals_grid_sample(name):
    case = cases.CASES[name]
    inputs = cases.make_inputs(case)
    tensors = [torch.from_numpy(np.asarray(inputs[key], np.float64)) for key in NAMES[:4]]
    found = cases.oracle_forward(case, inputs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, cases.torch_forward(case, *tensors).numpy(), atol=1e-11)
    if case.offsets in ("far outside", "huge"):
        assert not found.any()


@pytest.fixture(params=["small maps", "large maps"])
def form(request, monkeypatch):
    """The backward pass on a CPU has a form for small maps, which the maps of all cases are, and one for others."""
    assert all(small_maps.takes(case.level_shapes) for case in cases.CASES.values())
    if request.param == "large maps":
        monkeypatch.setattr(small_maps, "_MAX_CELLS", 0)
    cases.forget_compiled()
    yield
    cases.forget_compiled()


@pytest.mark.parametrize("name", cases.CASES)
def test_matches_oracle(name, form):
    cases.assert_matches_oracle("xla", cases.CASES[name])


@pytest.mark.parametrize("name", DETERMINISTIC_CASES)
def test_deterministic_matches_oracle(name):
    cases.assert_matches_oracle("xla_deterministic", cases.CASES[name])


@pytest.mark.parametrize("name", cases.BAD_CASES)
def test_bad_numbers_stay_local(name, form):
    cases.assert_bad_numbers_stay_local("xla", cases.BAD_CASES[name])


@pytest.mark.parametrize("name", ["nan in offsets", "inf in value"])
def test_deterministic_bad_numbers_stay_local(name):
    cases.assert_bad_numbers_stay_local("xla_deterministic", cases.BAD_CASES[name])


@pytest.mark.parametrize("name", ["odd sizes", "same cells"])
def test_all_forms_of_the_backward_pass_agree(name):
    """That of a CPU with many chunks, the last one not full, and that of other platforms, which no CPU runs."""
    case = cases.CASES[name]
    arrays = [jnp.asarray(cases.make_inputs(case)[key]) for key in NAMES]
    grads = functools.partial(xla.grads, level_shapes=case.level_shapes, softmax=case.softmax)
    on_cpu = functools.partial(grads, over_heads=xla.one_by_one, dots=xla.dots_by_matmul)
    expected = cases.oracle_backward(case, cases.make_inputs(case)).values()
    assert case.num_queries % 8
    for form in (functools.partial(on_cpu, chunk=8), functools.partial(grads, chunk=None, over_heads=jax.vmap)):
        for found, oracle in zip(jax.jit(form)(*arrays), expected, strict=True):
            np.testing.assert_allclose(found, oracle, rtol=1e-5, atol=1e-5 * np.abs(oracle).max())


def test_a_cpu_never_stores_all_gathered_cells():
    """At the sizes of the model: the forward pass stores none of them, the backward pass a chunk."""
    level_shapes, heads, head_size, points = ((16, 28), (32, 56), (64, 112)), 8, 32, 4
    cells = sum(h * w for h, w in level_shapes)
    samples = (1, cells, heads, len(level_shapes), points)
    shapes = [(1, cells, heads, head_size), (*samples, 2), samples, (cells, 3, 2), (1, cells, heads, head_size)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def backward(value, offsets, scores, reference, out_grad):
        return xla.backward(value, offsets, scores, reference, level_shapes, out_grad, softmax=True)

    forward = functools.partial(xla.forward, level_shapes=level_shapes, softmax=True)
    gathered_bytes = 4 * 4 * np.prod(samples) * head_size
    for function, arguments, share in ((forward, arrays[:4], 20), (backward, arrays, 5)):
        memory = jax.jit(function).lower(*arguments).compile().memory_analysis()
        assert memory.temp_size_in_bytes < gathered_bytes / share


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["same cells", "odd sizes"])
def test_deterministic_on_a_gpu(name):
    if jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")
    case = cases.CASES[name]
    arrays = [jnp.asarray(cases.make_inputs(case)[key]) for key in NAMES]

    def backward(value, offsets, scores, reference, out_grad):
        return xla_deterministic.backward(
            value, offsets, scores, reference, case.level_shapes, out_grad, softmax=case.softmax
        )

    run = jax.jit(backward)
    first = run(*arrays)
    for _ in range(10):
        jax.tree.map(np.testing.assert_array_equal, run(*arrays), first)
