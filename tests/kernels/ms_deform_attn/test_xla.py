"""The plain XLA back ends against the float64 oracle and PyTorch's grid_sample."""

import numpy as np
import pytest

from tests.kernels.ms_deform_attn import cases

BACKEND_NAMES = ["xla", "xla_deterministic"]


@pytest.mark.parametrize("name", cases.CASES)
def test_oracle_equals_grid_sample(name):
    case = cases.CASES[name]
    inputs = cases.make_inputs(case)
    tensors = [cases.torch.from_numpy(np.asarray(x, np.float64)) for x in list(inputs.values())[:4]]
    found = cases.oracle_forward(case, inputs)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, cases.torch_forward(case, *tensors).numpy(), atol=1e-11)
    if case.offsets in ("far outside", "huge"):
        assert not found.any()


@pytest.mark.parametrize("backend", BACKEND_NAMES)
@pytest.mark.parametrize("name", cases.CASES)
def test_matches_oracle(backend, name):
    cases.assert_matches_oracle(backend, cases.CASES[name])


@pytest.mark.parametrize("backend", BACKEND_NAMES)
@pytest.mark.parametrize("name", cases.BAD_CASES)
def test_bad_numbers_stay_local(backend, name):
    cases.assert_bad_numbers_stay_local(backend, cases.BAD_CASES[name])
