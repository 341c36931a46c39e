"""Compares the plain Triton kernels with the oracle in Triton's interpreter: TRITON_INTERPRET=1 python (this file)."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from kernels.ms_deform_attn import plain_triton  # noqa: E402
from tests.kernels.ms_deform_attn import cases  # noqa: E402

QUERIES = 4


def check(name: str) -> None:
    case = cases.CASES[name]
    inputs = cases.make_inputs(case)
    tensors = [
        torch.from_numpy(np.ascontiguousarray(inputs[key])) for key in ("value", "offsets", "scores", "reference")
    ]
    value, offsets, scores, _ = tensors
    grid = (case.heads * -(-case.num_queries // QUERIES), case.batch)
    constants = plain_triton.kernel_constants(value.shape, offsets.shape, case.level_shapes, case.softmax, QUERIES)
    out_grad = torch.from_numpy(inputs["out_grad"])
    out = torch.full_like(out_grad, torch.nan)
    plain_triton.forward_kernel[grid](*tensors, out, **constants)
    np.testing.assert_allclose(out, cases.oracle_forward(case, inputs), rtol=1e-5, atol=1e-5, err_msg=name)
    grads = {
        "value": torch.zeros_like(value),
        "offsets": torch.full_like(offsets, torch.nan),
        "scores": torch.full_like(scores, torch.nan),
    }
    plain_triton.backward_kernel[grid](*tensors, out_grad, *grads.values(), **constants)
    for key, expected in cases.oracle_backward(case, inputs).items():
        if not (key == "offsets" and case.has_kinks):
            np.testing.assert_allclose(grads[key], expected, rtol=1e-5, atol=2e-5, err_msg=f"{name}: gradient of {key}")


for case_name in ("spread", "huge", "odd sizes"):
    check(case_name)
    print("ok", case_name, flush=True)
