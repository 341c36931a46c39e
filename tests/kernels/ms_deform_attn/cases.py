"""Named inputs for every back end of ms_deform_attn, and their comparison with the float64 oracle.

    cases.assert_matches_oracle("tpu", cases.CASES["spread"], interpret=True)

calls the back end's own `forward` and `backward` (inside jit, no operator around them) on the float32 or bfloat16
inputs of the case, and the oracle on the very same numbers in float64. Gradients of the oracle are those of PyTorch's
grid_sample in float64.
"""

import dataclasses
import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import torch

from kernels.ms_deform_attn.backends import BACKENDS
from tests.kernels.ms_deform_attn import oracle

LevelShapes = tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Case:
    """Sizes, dtypes and where the samples fall.

    Attributes:
      offsets: a key of `_OFFSETS`.
      has_kinks: samples fall on whole pixels, where the gradient of a location jumps: it is not compared.
      bad: (array, value, flat index): one element of value, offsets or scores set to NaN or infinity.
    """

    offsets: str = "spread"
    level_shapes: LevelShapes = ((1, 1), (3, 5), (11, 13))
    batch: int = 2
    num_queries: int = 6
    heads: int = 3
    head_size: int = 4
    num_points: int = 2
    value_dtype: str = "float32"
    offsets_dtype: str = "float32"
    softmax: bool = True
    reference_on_centers: bool = False
    has_kinks: bool = False
    bad: tuple[str, float, int] | None = None


def _grid(rng, shape):  # every offset and every reference point the same: all queries hit the same few cells
    return np.broadcast_to(rng.uniform(-0.4, 0.4, 2), shape).copy()


_OFFSETS = {
    "inside": lambda rng, shape: rng.uniform(-0.4, 0.4, shape),
    "spread": lambda rng, shape: rng.normal(0, 4, shape),
    "whole pixels": lambda rng, shape: rng.integers(-4, 5, shape).astype(float),
    # From the center of a cell never near a kink, where rounding decides which gradient is meant.
    "between pixels": lambda rng, shape: rng.integers(-4, 4, shape) + rng.uniform(0.1, 0.9, shape),
    "borders": lambda rng, shape: rng.choice([-1.0, -0.5, 0.0, 0.5, 12.0, 12.5, 13.0], shape),
    "far outside": lambda rng, shape: rng.choice([-1e3, 40.0, 1e6], shape),
    "huge": lambda rng, shape: rng.choice([-1e30, 3e9, 1e38], shape),
    "same cells": _grid,
}

CASES = {
    "inside": Case("inside"),
    "spread": Case("spread"),
    "whole pixels": Case("whole pixels", reference_on_centers=True, has_kinks=True),
    "borders": Case("borders", reference_on_centers=True, has_kinks=True),
    "far outside": Case("far outside"),
    "huge": Case("huge"),
    "one pixel": Case("inside", level_shapes=((1, 1),), num_points=1),
    "one row, one column": Case("spread", level_shapes=((1, 7), (9, 1))),
    "same cells": Case("same cells", num_queries=70, level_shapes=((4, 4), (12, 12))),
    "one query": Case("spread", batch=1, num_queries=1, heads=1),
    "odd sizes": Case("spread", batch=1, num_queries=37, heads=5, num_points=3, head_size=12),
    "many points": Case(
        "spread", batch=1, heads=1, num_points=9, level_shapes=((3, 4), (2, 2), (5, 1), (6, 7), (8, 8))
    ),
    "head size 8": Case("spread", head_size=8),
    "head size 32": Case("spread", head_size=32, num_points=4, level_shapes=((2, 4), (4, 8), (8, 16))),
    "head size 64": Case("spread", head_size=64, heads=1),
    "weights given": Case("spread", softmax=False),
    "bfloat16 values": Case("spread", value_dtype="bfloat16", head_size=8),
    "bfloat16 everything": Case("spread", value_dtype="bfloat16", offsets_dtype="bfloat16", head_size=8),
    "bfloat16 offsets": Case("spread", offsets_dtype="bfloat16"),
}


def make_inputs(case: Case, seed: int = 7) -> dict[str, np.ndarray]:
    """value, offsets, scores, reference and out_grad as in `backends`, of the case's dtypes."""
    rng = np.random.default_rng(seed)
    levels = len(case.level_shapes)
    samples = (case.batch, case.num_queries, case.heads, levels, case.num_points)
    num_cells = sum(height * width for height, width in case.level_shapes)
    sizes_wh = np.array([(width, height) for height, width in case.level_shapes])
    reference = rng.uniform(0, 1, (case.num_queries, levels, 2))
    if case.reference_on_centers:
        reference = ((reference * sizes_wh).astype(int) + 0.5) / sizes_wh
    if case.offsets == "borders":
        reference = np.broadcast_to(0.5 / sizes_wh, reference.shape).copy()
    if case.offsets == "same cells":
        reference[:] = 0.5
    inputs = {
        "value": rng.normal(size=(case.batch, num_cells, case.heads, case.head_size)),
        "offsets": _OFFSETS[case.offsets](rng, (*samples, 2)),
        "scores": rng.normal(size=samples),
        "reference": reference,
        "out_grad": rng.normal(size=(case.batch, case.num_queries, case.heads, case.head_size)),
    }
    if case.bad:
        name, bad_value, index = case.bad
        inputs[name].flat[index] = bad_value
    dtypes = {"value": case.value_dtype, "offsets": case.offsets_dtype, "scores": case.offsets_dtype}
    dtypes |= {"reference": "float32", "out_grad": case.value_dtype}
    return {name: array.astype(jnp.dtype(dtypes[name])) for name, array in inputs.items()}


def oracle_forward(case: Case, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """float64 [B, Q, M, D], from the slow numpy reference."""
    value, offsets, scores, reference = (
        np.asarray(inputs[name], np.float64) for name in ("value", "offsets", "scores", "reference")
    )
    sizes_wh = np.array([(width, height) for height, width in case.level_shapes], np.float64)
    locations = reference[None, :, None, :, None, :] + offsets / sizes_wh[:, None, :]
    weights = oracle.softmax(scores) if case.softmax else scores
    out = oracle.ms_deform_attn_classic(value, locations, weights, case.level_shapes)
    return out.reshape(case.batch, case.num_queries, case.heads, case.head_size)


def torch_forward(case: Case, value, offsets, scores, reference) -> torch.Tensor:
    """The same by PyTorch's grid_sample, differentiable: tensors as in `backends`, out [B, Q, M, D]."""
    batch, num_queries, heads, levels, num_points = scores.shape
    head_size = value.shape[-1]
    weights = scores.flatten(-2).softmax(-1).view(scores.shape) if case.softmax else scores
    out, start = 0, 0
    for level, (height, width) in enumerate(case.level_shapes):
        cells = value[:, start : start + height * width].permute(0, 2, 3, 1)
        start += height * width
        size = torch.tensor([width, height], dtype=offsets.dtype)
        grid = 2 * (reference[None, :, None, level, None] + offsets[:, :, :, level] / size) - 1
        samples = torch.nn.functional.grid_sample(
            cells.reshape(batch * heads, head_size, height, width),
            grid.transpose(1, 2).reshape(batch * heads, num_queries, num_points, 2),
            padding_mode="zeros",
            align_corners=False,
        )
        scale = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, num_queries, num_points)
        out = out + (samples * scale).sum(-1)
    return out.view(batch, heads, head_size, num_queries).permute(0, 3, 1, 2)


def oracle_backward(case: Case, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float64 gradients of value, offsets and scores."""
    tensors = {name: torch.from_numpy(np.asarray(x, np.float64)) for name, x in inputs.items()}
    out_grad = tensors.pop("out_grad")
    for name in ("value", "offsets", "scores"):
        tensors[name].requires_grad_()
    torch_forward(case, **tensors).backward(out_grad)
    return {name: tensors[name].grad.numpy() for name in ("value", "offsets", "scores")}


def run_backend(
    name: str, case: Case, inputs: dict[str, np.ndarray], **options
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(out, gradients) of a back end's own functions; `options` are passed on to them (such as interpret=True)."""
    forward, backward = _compiled(name, case.level_shapes, case.softmax, tuple(options.items()))
    arrays = [jnp.asarray(inputs[key]) for key in ("value", "offsets", "scores", "reference")]
    out = forward(*arrays)
    grads = backward(*arrays, jnp.asarray(inputs["out_grad"]))
    for array, expected in zip((out, *grads), (arrays[0], *arrays[:3]), strict=True):
        assert array.dtype == expected.dtype, (array.dtype, expected.dtype)
    return np.asarray(out), dict(zip(("value", "offsets", "scores"), map(np.asarray, grads), strict=True))


@functools.cache
def _compiled(name, level_shapes, softmax, options):
    module = importlib.import_module(BACKENDS[name].module)
    options = dict(options)
    forward = jax.jit(lambda *arrays: module.forward(*arrays, level_shapes, softmax=softmax, **options))
    backward = jax.jit(
        lambda *arrays: module.backward(*arrays[:4], level_shapes, arrays[4], softmax=softmax, **options)
    )
    return forward, backward


def forget_compiled() -> None:
    """For tests that change what a back end compiles."""
    _compiled.cache_clear()


def assert_matches_oracle(backend_name: str, case: Case, **options) -> None:
    """Output and gradients of a back end against the oracle, within float32 (bfloat16 where inputs are) rounding.

    Args:
      backend_name: in `backends.BACKENDS`.
      case: a value of `CASES` or a case of your own, without `bad`.
      options: passed on to the back end's functions, such as interpret=True.
    """
    inputs = make_inputs(case)
    out, grads = run_backend(backend_name, case, inputs, **options)
    _assert_close(out, oracle_forward(case, inputs), "out")
    for name, expected in oracle_backward(case, inputs).items():
        if not (name == "offsets" and case.has_kinks):
            _assert_close(grads[name], expected, f"gradient of {name}")


def _assert_close(found: np.ndarray, expected: np.ndarray, what: str) -> None:
    tolerance = 2**-8 if found.dtype == jnp.bfloat16 else 1e-5
    scale = max(1.0, np.abs(expected).max())
    found = np.asarray(found, np.float64)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-5 * scale, err_msg=what)


# One bad number each, and what it may spoil: array, flat index, number.
BAD_CASES = {
    f"{bad} in {name}": Case("inside", bad=(name, bad, 0))
    for name in ("value", "offsets", "scores")
    for bad in (np.nan, np.inf, -np.inf)
}


def assert_bad_numbers_stay_local(backend_name: str, case: Case, **options) -> None:
    """A NaN or infinity in the first element of an array: what it must spoil, and what it must not.

    - A NaN offset makes the output of its query and head NaN, an infinite one samples nothing (exactly as if it were
      far outside), and neither touches the gradients of another query's offsets and scores.
    - A score that is NaN or +infinity makes the output of its query and head NaN; at -infinity its weight is 0.
    - A value that is not finite makes the outputs that sample it not finite; outputs of other heads and frames stay.
    """
    name, bad, _ = case.bad
    out, grads = run_backend(backend_name, case, make_inputs(case), **options)
    good_inputs = make_inputs(dataclasses.replace(case, bad=None))
    if np.isneginf(bad) and name == "scores":
        good_inputs["scores"].flat[0] = -200.0
    if np.isinf(bad) and name == "offsets":
        good_inputs["offsets"].flat[0] = 1e4
    good, good_grads = run_backend(backend_name, case, good_inputs, **options)
    spoils = np.isnan(bad) or (name == "scores" and bad > 0)
    if name == "value":
        assert not np.isfinite(out[0, :, 0, 0]).all()
        np.testing.assert_allclose(out[0, :, 1:], good[0, :, 1:], rtol=1e-6, atol=1e-6)
    elif spoils:
        assert np.isnan(out[0, 0, 0]).all()
        np.testing.assert_allclose(out[0, 1:], good[0, 1:], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(out[0, 0, 1:], good[0, 0, 1:], rtol=1e-6, atol=1e-6)
        for key in ("offsets", "scores"):
            np.testing.assert_allclose(grads[key][0, 1:], good_grads[key][0, 1:], rtol=1e-5, atol=1e-5)
    else:
        np.testing.assert_allclose(out, good, rtol=1e-6, atol=1e-6)
        for key in ("value", "offsets", "scores"):
            np.testing.assert_allclose(grads[key], good_grads[key], rtol=1e-5, atol=1e-5, err_msg=key)
    np.testing.assert_allclose(out[1], good[1], rtol=1e-6, atol=1e-6)
    for key in ("value", "offsets", "scores"):
        np.testing.assert_allclose(grads[key][1], good_grads[key][1], rtol=1e-5, atol=1e-5, err_msg=key)
