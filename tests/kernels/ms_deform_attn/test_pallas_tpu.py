"""The TPU kernel in interpret mode on a CPU, against the float64 oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.ms_deform_attn import backends, pallas_tpu
from tests.kernels.ms_deform_attn import cases

# Each shape compiles for seconds; some are between others.
BETWEEN = ("head size 8", "head size 64", "many points", "one pixel", "one query")
BETWEEN += ("bfloat16 offsets", "bfloat16 values")


def named(value_dtype: str) -> list:
    return [
        pytest.param(name, marks=[pytest.mark.long] * (name in BETWEEN))
        for name, case in cases.CASES.items()
        if case.value_dtype == value_dtype
    ]


# Queries that are the cells of the levels, so that they are tiled in two dimensions: several tiles, sizes that fill
# whole tiles (24 x 32) and sizes that do not.
SELF_ATTENTION = cases.Case(
    "spread", batch=1, heads=2, num_points=2, level_shapes=((5, 7), (24, 32)), num_queries=5 * 7 + 24 * 32
)


@pytest.fixture(autouse=True)
def quick_compilation(monkeypatch):
    """Compilation takes nearly all of the time here."""
    jax.config.update("jax_disable_most_optimizations", True)
    monkeypatch.setattr(pallas_tpu, "FORWARD_UNROLL", 1)
    monkeypatch.setattr(pallas_tpu, "BACKWARD_UNROLL", 1)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.parametrize("name", named("float32"))
def test_matches_oracle(name):
    cases.assert_matches_oracle("tpu", cases.CASES[name], interpret=True)


def test_self_attention_matches_oracle(monkeypatch):
    monkeypatch.setattr(pallas_tpu, "TILES_PER_STEP", 3)  # 7 tiles in 3 steps: the last one is not full
    monkeypatch.setattr(pallas_tpu, "FORWARD_UNROLL", 2)
    monkeypatch.setattr(pallas_tpu, "BACKWARD_UNROLL", 2)
    cases.assert_matches_oracle("tpu", SELF_ATTENTION, interpret=True)
    inputs = cases.make_inputs(SELF_ATTENTION)
    first, second = (cases.run_backend("tpu", SELF_ATTENTION, inputs, interpret=True)[1] for _ in range(2))
    for key in first:
        np.testing.assert_array_equal(first[key], second[key])


@pytest.mark.parametrize("name", named("bfloat16"))
def test_bfloat16_matches_oracle(name):
    """The bilinear weights are rounded too (2^-9 at most), so that small sums of large terms are less exact."""
    case = cases.CASES[name]
    inputs = cases.make_inputs(case)
    out, grads = cases.run_backend("tpu", case, inputs, interpret=True)
    found, expected = {"out": out, **grads}, {"out": cases.oracle_forward(case, inputs)}
    expected |= cases.oracle_backward(case, inputs)
    for key, array in expected.items():
        error = np.asarray(found[key], np.float64) - array
        limit = 1e-5 if found[key].dtype == np.float32 else 0.003
        assert np.sqrt(np.mean(error**2) / np.mean(array**2)) < limit, key


@pytest.mark.parametrize("name", cases.BAD_CASES)
def test_bad_numbers_stay_local(name):
    cases.assert_bad_numbers_stay_local("tpu", cases.BAD_CASES[name], interpret=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"platform": "cuda"}, "needs a TPU, and this is compiled for cuda"),
        ({"head_size": 6}, "multiple of 4, found 6"),
        ({"level_shapes": ((2000, 4),)}, "at most 1016 rows"),
        ({"level_shapes": ((500, 500),)}, "need 47.2 MiB of VMEM"),
    ],
)
def test_says_what_it_does_not_support(changes, reason):
    arguments = {"head_size": 32, "platform": "tpu", "level_shapes": ((64, 112),), "num_points": 4} | changes
    assert reason in pallas_tpu.supports(jnp.bfloat16, **arguments)


@pytest.mark.parametrize("image", [(512, 896), (448, 832), (1024, 1792)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_supports_real_sizes(image, dtype):
    level_shapes = tuple((image[0] // stride, image[1] // stride) for stride in (32, 16, 8))
    assert pallas_tpu.supports(dtype, 32, platform="tpu", level_shapes=level_shapes, num_points=4) is None


def test_is_the_default_on_tpus():
    request = backends.requested(None, deterministic=True)
    assert backends.choose(request, "tpu", jnp.bfloat16, 32, ((64, 112),), 4) is pallas_tpu
