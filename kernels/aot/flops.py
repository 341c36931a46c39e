"""Operations that a program needs, counted before it is compiled and the same for every platform."""

import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(jaxpr: Jaxpr | ClosedJaxpr) -> int:
    """Floating point operations of the matrix products, convolutions and deformable attention of a traced function.

    A product with a sum counts two. Loops count as often as they run; a loop whose number of passes depends on data
    counts once. What is recomputed counts again. Of a function over a mesh, the operations of all devices.
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            kernel, numbers = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
            # Each output is a sum over the kernel's inputs (of its group already) and places.
            total += 2 * equation.outvars[0].aval.size * math.prod(kernel[axis] for axis in numbers[1:])
        elif name == "ms_deform_attn":
            value, offsets = equation.invars[0].aval, equation.invars[1].aval
            # Four neighbors a sample; backward, for the values and for the weights.
            times = 1 if params["direction"] == "forward" else 2
            total += times * 2 * 4 * (offsets.size // 2) * value.shape[-1]
        elif name == "cond":
            total += max(count_flops(branch) for branch in params["branches"])
        else:
            times = params["length"] if name == "scan" else 1
            if name == "shard_map":
                axes = params[
                    "newly_manual_axes" if "newly_manual_axes" in params else "manual_axes"
                ]  # JAX 0.10, later
                times = math.prod(params["mesh"].shape[axis] for axis in axes)
            total += times * sum(count_flops(inner) for inner in _inner(params))
    return total


def _inner(params: dict[str, Any]) -> list[Jaxpr | ClosedJaxpr]:
    return [leaf for leaf in jax.tree.leaves(list(params.values())) if isinstance(leaf, Jaxpr | ClosedJaxpr)]
