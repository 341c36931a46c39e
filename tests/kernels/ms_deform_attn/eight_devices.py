"""Run by test_operator.py in a process of its own with eight CPU devices: the operator with its batch split over them.

Prints JSON: per batch size the collectives of the compiled forward and backward pass, and the greatest difference from
one device.
"""

import functools
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from kernels.ms_deform_attn.operator import ms_deform_attn
from tests.kernels.ms_deform_attn import cases

COLLECTIVES = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


def main(backend: str) -> None:
    assert jax.device_count() == 8
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    results = {}
    for batch in (16, 3):
        case = cases.Case(batch=batch)
        inputs = {name: jnp.asarray(array) for name, array in cases.make_inputs(case).items()}
        reference, out_grad = inputs.pop("reference"), inputs.pop("out_grad").reshape(batch, case.num_queries, -1)
        operator = functools.partial(
            ms_deform_attn, reference_points=reference, level_shapes=case.level_shapes, backend=backend
        )

        def passes(value, offsets, scores, out_grad, operator=operator):
            out, gradients = jax.vjp(operator, value, offsets, scores)
            return out, *gradients(out_grad)

        arrays = (*inputs.values(), out_grad)
        expected = jax.jit(passes)(*arrays)
        placement = split if batch % 8 == 0 else whole
        with jax.set_mesh(mesh):
            jitted = jax.jit(passes, in_shardings=placement, out_shardings=placement)
            compiled = jitted.lower(*arrays).compile()
        found = compiled(*jax.device_put(arrays, placement))
        results[batch] = {
            "collectives": re.findall(COLLECTIVES, compiled.as_text()),
            "difference": max(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)),
        }
    # vmap: eight clips of two frames each.
    case = cases.Case(batch=16)
    inputs = cases.make_inputs(case)
    reference = jnp.asarray(inputs["reference"])
    arrays = [
        jnp.asarray(inputs[name]).reshape(8, 2, *inputs[name].shape[1:]) for name in ("value", "offsets", "scores")
    ]
    function = jax.vmap(lambda *arrays: ms_deform_attn(*arrays, reference, case.level_shapes, backend=backend))
    with jax.set_mesh(mesh):
        compiled = jax.jit(function, in_shardings=split, out_shardings=split).lower(*arrays).compile()
    difference = np.abs(compiled(*jax.device_put(arrays, split)) - jax.jit(function)(*arrays)).max()
    results["vmap"] = {"collectives": re.findall(COLLECTIVES, compiled.as_text()), "difference": float(difference)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
