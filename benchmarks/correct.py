"""Whether each back end of deformable attention is right on this platform, in a minute: the first thing to know.

    python -m benchmarks.correct --out=correct.json                  # every back end of this platform
    python -m benchmarks.correct --backends=cuda --out=cuda.json     # one, so that a crash takes no other with it

One row per back end, dtype and pass, printed and written as soon as it is known: the distance to the tests' float64
oracle, |found - expected| / |expected| in the Euclidean norm, of the output or of the worst gradient. Two sizes: T 3 at
256x448 as in TarViS, and an odd one, for which the CUDA library has other kernels. Exits with 1 if a row is wrong.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import environment, write_json
from kernels.ms_deform_attn.operator import ms_deform_attn
from tests.kernels.ms_deform_attn import cases

SIZES = {
    "tarvis": {"level_shapes": ((8, 14), (16, 28), (32, 56)), "batch": 3, "heads": 8, "head_size": 32, "num_points": 4},
    "odd": {"level_shapes": ((1, 1), (3, 5), (11, 13)), "batch": 2, "heads": 3, "head_size": 12, "num_points": 3},
}
BACKENDS = {
    "cpu": ("xla", "xla_deterministic"),
    "gpu": ("xla", "triton", "cuda", "xla_deterministic"),
    "tpu": ("xla", "tpu"),
}
# bfloat16 has eight bits: an output rounded once is off by up to 2^-9 of itself.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2**-8}


def make_case(size: str, dtype: str) -> cases.Case:
    """A query per cell, and samples away from the kinks of the gradient, where rounding would decide."""
    sizes = SIZES[size]
    case = cases.Case("between pixels", value_dtype=dtype, offsets_dtype=dtype, reference_on_centers=True, **sizes)
    return dataclasses.replace(case, num_queries=sum(height * width for height, width in case.level_shapes))


def distance(found: jax.Array, expected: np.ndarray) -> float:
    """Relative, in the Euclidean norm; NaN where `found` has one."""
    return float(np.linalg.norm(np.asarray(found, np.float64) - expected) / np.linalg.norm(expected))


def check(backend: str, case: cases.Case, inputs: dict[str, np.ndarray]) -> Iterator[tuple[str, Callable]]:
    """(pass, function that runs it and returns its distances by name)."""
    arrays = {name: jnp.asarray(array) for name, array in inputs.items()}
    names = ("value", "offsets", "scores")

    def operator(*leaves):
        out = ms_deform_attn(*leaves, arrays["reference"], case.level_shapes, backend=backend)
        return out.reshape(arrays["out_grad"].shape)

    def forward():
        out = jax.jit(operator)(*(arrays[name] for name in names))
        return {"out": distance(out, cases.oracle_forward(case, inputs))}

    def backward():
        gradients = jax.jit(lambda leaves, out_grad: jax.vjp(operator, *leaves)[1](out_grad))
        found = gradients([arrays[name] for name in names], arrays["out_grad"])
        expected = cases.oracle_backward(case, inputs)
        return {name: distance(grad, expected[name]) for name, grad in zip(names, found, strict=True)}

    yield "forward", forward
    yield "backward", backward


def rows(backends: list[str], sizes: list[str]) -> Iterator[dict[str, Any]]:
    """One row after the other; a pass that raises is a row with its error."""
    for size in sizes:
        for backend in backends:
            for dtype, tolerance in TOLERANCES.items():
                case = make_case(size, dtype)
                for direction, run in check(backend, case, cases.make_inputs(case)):
                    row = {"backend": backend, "size": size, "dtype": dtype, "pass": direction, "is_right": False}
                    start = time.perf_counter()
                    try:
                        row["distances"] = run()
                        row["is_right"] = all(found <= tolerance for found in row["distances"].values())
                    except Exception as error:  # of a compiler or driver: any kind
                        row["error"] = f"{type(error).__name__}: {error}"[:1000]
                    yield row | {"tolerance": tolerance, "seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", help="comma-separated; default: those of the platform")
    parser.add_argument("--sizes", default=",".join(SIZES), help=f"of {list(SIZES)}, comma-separated")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    result = {"environment": environment(), "rows": []}
    print(json.dumps(result["environment"]), flush=True)
    backends = args.backends.split(",") if args.backends else BACKENDS[jax.default_backend()]
    for row in rows(backends, args.sizes.split(",")):
        result["rows"].append(row)
        write_json(args.out, result)
        what = row.get("error", "").splitlines()[:1] or [f"{k} {v:.1e}" for k, v in row["distances"].items()]
        verdict = "right" if row["is_right"] else "WRONG"
        print(
            f"{row['backend']:17} {row['size']:6} {row['dtype']:8} {row['pass']:8} {verdict}  {', '.join(what)}",
            flush=True,
        )
    if not all(row["is_right"] for row in result["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
