"""On a GPU, at real sizes: every back end gives what plain XLA gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.ms_deform_attn.backends import BACKENDS
from tests.kernels.ms_deform_attn import cases

SIZES = {"batch": 3, "heads": 8, "head_size": 32, "num_points": 4}
RESOLUTIONS = {
    "512x896": ((16, 28), (32, 56), (64, 112)),
    "448x832": ((14, 26), (28, 52), (56, 104)),
}


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU (JAX_PLATFORMS=cuda)")
@pytest.mark.parametrize("name", sorted(BACKENDS.keys() - {"xla", "tpu"}))
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_agrees_with_xla(name, dtype, resolution):
    levels = RESOLUTIONS[resolution]
    case = cases.Case(
        "between pixels",
        reference_on_centers=True,
        level_shapes=levels,
        num_queries=sum(h * w for h, w in levels),
        value_dtype=dtype,
        offsets_dtype=dtype,
        **SIZES,
    )
    inputs = cases.make_inputs(case)
    out, grads = cases.run_backend(name, case, inputs)
    expected_out, expected_grads = cases.run_backend("xla", case, inputs)
    # Both round the same float32 sums: they may fall on either side of a bfloat16 step.
    tolerance = 2**-7 if dtype == "bfloat16" else 1e-5
    for what, found, expected in (("out", out, expected_out), *((k, grads[k], expected_grads[k]) for k in grads)):
        found, expected = (np.asarray(jnp.asarray(x, jnp.float32)) for x in (found, expected))
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-5 * scale, err_msg=f"{name}: {what}")
