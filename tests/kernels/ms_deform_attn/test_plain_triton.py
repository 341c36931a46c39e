"""The kernels in plain Triton: their numbers in Triton's interpreter, their machine code."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

from kernels.ms_deform_attn import triton_sizes
from tests.kernels.ms_deform_attn import cases, triton_tools

triton = pytest.importorskip("triton", reason=f"needs triton (pip install triton=={triton_tools.TRITON_VERSION})")

from kernels.ms_deform_attn import plain_triton  # noqa: E402


@pytest.mark.long
def test_interpreted_matches_oracle():
    """In a process of its own: a process either compiles or interprets its Triton kernels."""
    script = pathlib.Path(__file__).parent / "plain_triton_interpreted.py"
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-4000:]
    assert run.stdout.count("ok ") == 3


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU (JAX_PLATFORMS=cuda)")
@pytest.mark.parametrize("name", cases.CASES)
def test_matches_oracle_on_gpu(name, monkeypatch):
    pytest.importorskip("jax_triton", reason="needs jax_triton (pip install jax-triton)")
    monkeypatch.setitem(cases.BACKENDS, "plain_triton", cases.Backend("kernels.ms_deform_attn.plain_triton"))
    cases.assert_matches_oracle("plain_triton", cases.CASES[name])


@pytest.mark.parametrize(
    "kernel, dtype, channels, warps, levels, head_size, limit",
    [
        ("forward_kernel", "bf16", 8, triton_sizes.FORWARD_WARPS, ((16, 28), (32, 56), (64, 112)), 32, 275),
        ("backward_kernel", "fp32", 4, triton_sizes.BACKWARD_WARPS, ((5, 7),), 12, 130),
    ],
)
def test_machine_code(kernel, dtype, channels, warps, levels, head_size, limit):
    num_points, heads, num_cells = 4, 8, sum(h * w for h, w in levels)
    queries = triton_sizes.block_queries(head_size, channels, warps)
    value_shape, offsets_shape = (3, num_cells, heads, head_size), (3, num_cells, heads, len(levels), num_points, 2)
    constants = plain_triton.kernel_constants(value_shape, offsets_shape, levels, True, queries)
    function = getattr(plain_triton, kernel)
    names = function.arg_names
    float32 = {"reference": "fp32", "value_grad": "fp32"}
    signature = {name: "constexpr" if name in constants else f"*{float32.get(name, dtype)}" for name in names}
    source = triton.compiler.ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): constant for name, constant in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants},
    )
    code = triton_tools.compile_for_h200(source, warps)
    corners = 4 * num_points * len(levels)
    assert code.spilled_bytes == code.shared_bytes == 0
    assert sum(code.counts.values()) * warps / queries <= limit
    assert code.count("LDG.E.128") == corners + (kernel == "backward_kernel")
    assert code.count("MEMBAR") == code.count("ATOM") == 0
    assert code.count("RED") == code.count(r"REDG\.E\.ADD\.F32x4") == (corners if kernel == "backward_kernel" else 0)
