"""The Triton back end: its numbers (interpreted; compiled on a GPU) and the machine code it compiles to."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import triton as plt

from kernels.ms_deform_attn import backends, pallas_triton
from kernels.ms_deform_attn.cuda import backend as cuda_backend
from tests.kernels.ms_deform_attn import cases, triton_tools

# Interpreting unrolled kernels compiles slowly: cases that share one shape, and those that differ in kind.
INTERPRETED_CASES = [
    "inside",
    "spread",
    "whole pixels",
    "borders",
    "far outside",
    "huge",
    pytest.param("one pixel", marks=pytest.mark.long),
    "one row, one column",
    pytest.param("same cells", marks=pytest.mark.long),
    "odd sizes",
    "weights given",
    "bfloat16 everything",
]
# Divides no number of queries: the last program has queries that do not exist.
INTERPRETED = {"interpret": True, "block_queries": 4}


@pytest.mark.parametrize("name", INTERPRETED_CASES)
def test_interpreted_matches_oracle(name):
    cases.assert_matches_oracle("triton", cases.CASES[name], **INTERPRETED)


@pytest.mark.parametrize("name", cases.BAD_CASES)
def test_interpreted_bad_numbers_stay_local(name):
    cases.assert_bad_numbers_stay_local("triton", cases.BAD_CASES[name], **INTERPRETED)


needs_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU (JAX_PLATFORMS=cuda)")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", cases.CASES)
def test_matches_oracle_on_gpu(name):
    cases.assert_matches_oracle("triton", cases.CASES[name])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("name", cases.BAD_CASES)
def test_bad_numbers_stay_local_on_gpu(name):
    cases.assert_bad_numbers_stay_local("triton", cases.BAD_CASES[name])


def test_scatter_adds_repeated_and_masked_rows():
    """Interpreted with all queries in one program, so that one call adds to the same cell several times."""
    case = cases.CASES["same cells"]
    cases.assert_matches_oracle("triton", case, interpret=True, block_queries=128)


@pytest.mark.parametrize(
    "dtype, head_size, level_shapes, num_points, platform, reason",
    [
        (jnp.float32, 32, ((2, 2),), 4, "cuda", None),
        (jnp.bfloat16, 4, ((2, 2),) * 4, 16, "cuda", None),
        (jnp.float32, 32, ((2, 2),), 4, "rocm", "NVIDIA"),
        (jnp.float16, 32, ((2, 2),), 4, "cuda", "float16"),
        (jnp.float32, 6, ((2, 2),), 4, "cuda", "multiple of 4"),
        (jnp.float32, 512, ((2, 2),), 4, "cuda", "up to 256"),
        (jnp.float32, 32, ((2, 2),) * 5, 13, "cuda", "found 65"),
    ],
)
def test_supports(dtype, head_size, level_shapes, num_points, platform, reason):
    with triton_tools.compiling_for("NVIDIA H200"):
        found = pallas_triton.supports(
            dtype, head_size, platform=platform, level_shapes=level_shapes, num_points=num_points
        )
    assert found is None if reason is None else reason in found


def choice_on_a_gpu(caplog) -> tuple[str, list[str]]:
    """(module chosen for a GPU where nvcc is missing, lines logged) after two requests."""
    backends._log_choice.cache_clear()
    caplog.set_level(logging.INFO, logger=backends.__name__)
    request = backends.requested(None, False)
    for _ in range(2):
        module = backends.choose(request, "cuda", jnp.float32, 32, ((2, 2),), 4)
    return module.__name__.rpartition(".")[2], [record.getMessage() for record in caplog.records]


def test_plain_xla_where_pallas_does_not_know_the_gpu(monkeypatch, caplog):
    monkeypatch.setattr(cuda_backend, "supports", lambda *args, **kwargs: "no nvcc")

    def unknown():  # as in JAX 0.11.0 on such a GPU
        raise ValueError("Unsupported GPU device kind: NVIDIA GeForce RTX 3090")

    monkeypatch.setattr(plt, "get_gpu_info", unknown, raising=False)
    module, (line,) = choice_on_a_gpu(caplog)
    assert module == "xla"
    assert line == (
        "ms_deform_attn: back end xla on cuda (platform default; not cuda: no nvcc; not triton: Pallas does not know "
        "this GPU (Unsupported GPU device kind: NVIDIA GeForce RTX 3090))"
    )
    monkeypatch.setattr(plt, "get_gpu_info", lambda: "anything it knows")
    assert choice_on_a_gpu(caplog)[0] == "pallas_triton"


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="JAX 0.10 takes any GPU")
@pytest.mark.skipif(jax.default_backend() == "gpu", reason="asks about GPUs that are not there")
def test_pallas_own_answer_for_gpus_that_are_not_there():
    def why_not(gpu: str) -> str | None:
        with triton_tools.compiling_for(gpu):
            return pallas_triton.supports(jnp.float32, 32, platform="cuda", level_shapes=((2, 2),), num_points=4)

    assert why_not("NVIDIA A100-SXM4-80GB") is None
    assert "Pallas does not know this GPU" in why_not("NVIDIA GeForce RTX 3090")


REAL = {"batch": 3, "heads": 8, "head_size": 32, "num_points": 4, "level_shapes": ((16, 28), (32, 56), (64, 112))}
ODD = {"batch": 1, "heads": 3, "head_size": 12, "num_points": 3, "level_shapes": ((5, 7),)}


def kernel_ir(direction: str, dtype: str, batch, heads, head_size, num_points, level_shapes):
    """(Triton IR, warps, grid, (query, head) pairs per warp) of a kernel, at as many queries as cells."""
    num_cells, levels = sum(h * w for h, w in level_shapes), len(level_shapes)
    samples = (batch, num_cells, heads, levels, num_points)
    value = jax.ShapeDtypeStruct((batch, num_cells, heads, head_size), dtype)
    shapes = [value, jax.ShapeDtypeStruct((*samples, 2), dtype), jax.ShapeDtypeStruct(samples, dtype)]
    shapes += [jax.ShapeDtypeStruct((num_cells, levels, 2), "float32")]
    if direction == "forward":
        function = functools.partial(pallas_triton.forward, level_shapes=level_shapes, softmax=True)
    else:
        shapes += [value]

        def function(value, offsets, scores, reference, out_grad):
            return pallas_triton.backward(value, offsets, scores, reference, level_shapes, out_grad, softmax=True)

    text, warps, grid = triton_tools.triton_ir(function, *shapes)
    assert grid[1:] == (batch, 1)
    block_queries = -(-num_cells * heads // grid[0])
    return text, warps, 2 ** int(np.ceil(np.log2(block_queries))) / warps


def test_atomic_additions_are_relaxed():
    text, _, _ = kernel_ir("backward", "bfloat16", **REAL)
    additions = [line for line in text.splitlines() if "tt.atomic_rmw" in line]
    assert len(additions) == 4 * 4 * 3
    assert all("fadd, relaxed, gpu" in line for line in additions), additions[0]


# Instructions of a warp per query and head (measured: docs/kernels.md), and loads of one corner by one thread.
GATES = [
    ("forward", "bfloat16", REAL, 275, "LDG.E.128"),
    pytest.param("forward", "float32", REAL, 340, "LDG.E.128", marks=pytest.mark.long),
    pytest.param("backward", "bfloat16", REAL, 770, "LDG.E.64", marks=pytest.mark.long),
    ("backward", "float32", ODD, 90, "LDG.E.128"),
]


@pytest.mark.parametrize(
    "direction, dtype, sizes, limit, load", GATES, ids=lambda x: "real" if x is REAL else "odd" if x is ODD else str(x)
)
def test_machine_code(direction, dtype, sizes, limit, load):
    text, warps, pairs_per_warp = kernel_ir(direction, dtype, **sizes)
    code = triton_tools.compile_for_h200(text, warps)
    corners = 4 * sizes["num_points"] * len(sizes["level_shapes"])
    instructions = sum(code.counts.values()) / pairs_per_warp
    print(f"{direction} {dtype}: {instructions} instructions per query and head, {code.registers} registers")
    assert code.spilled_bytes == 0
    assert code.shared_bytes == 0
    assert code.registers <= 80
    assert instructions <= limit
    # One query per thread: every corner is loaded, and added to, by one instruction.
    assert code.count(load) == corners + (direction == "backward")
    assert code.count("MEMBAR") == 0
    assert code.count("ATOM") == 0
    assert code.count("RED") == code.count(r"REDG\.E\.ADD\.F32x4") == (corners if direction == "backward" else 0)
