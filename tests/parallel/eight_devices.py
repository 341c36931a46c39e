"""Run by test_mesh.py in a process of its own with eight CPU devices: steps whose batch and state are split in ways.

The network is real, and every clip draws its points from its own key. Prints JSON: per way the loss, the norm of the
gradient, the relative difference of the update from that of the first way, what the devices hold and exchange; and of
a checkpoint that goes from mesh to mesh, whether every tensor came back, and what the last mesh's second step gives.
"""

import json
import pathlib
import re
import sys

import jax
import numpy as np
import optax

from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tarvis_jax.tasks import instance
from tarvis_jax.tasks.objective import class_objective
from tarvis_jax.train.state import from_items, to_items
from tarvis_jax.train.step import TrainStepper
from tarvis_jax.weights.checkpoints import Checkpoints
from tests import tiny

B, L = 8, 2
KIND = ("VIS", "instance")
# name -> devices, of which so many share a state, samples a device, what is split
ONE_DEVICE = "8x1"
WAYS = {
    ONE_DEVICE: (1, 1, 1, "none"),
    "optimizer 2x2": (4, 2, 1, "optimizer"),
    "parameters 2x4": (8, 4, 1, "parameters"),
}


def main(folder: pathlib.Path, other: str) -> None:
    """`other`: the way that is compared with one device."""
    assert jax.device_count() == 8
    batch = tiny.make_batch("instance", B)
    structure = ModelStructure(tiny.TRAINED)
    # Plain gradient descent: Adam's first step is the gradient's sign, which turns rounding into full steps. The trace
    # stands for an optimizer's state.
    optimizer = optax.chain(optax.trace(0.5), optax.scale(-1e-3))
    objective = class_objective(instance.draw, instance.loss, "VIS", tiny.LOSS, L)
    results, updates, steppers, batches, saved = {}, [], {}, {}, {}
    for name in (ONE_DEVICE, other):
        num_devices, fsdp_devices, per_device, shard = WAYS[name]
        mesh = make_mesh(jax.devices()[:num_devices], fsdp_devices)
        microbatches = num_microbatches(B, per_device, mesh)
        stepper = TrainStepper(structure, optimizer, lambda step: 1e-3, 0.9, {KIND: objective}, 0, mesh, shard)
        state = stepper.initial_state()
        before = jax.device_get(state.params)
        steppers[name], batches[name] = stepper, put_batch(batch, microbatches, mesh)
        state, metrics = stepper(KIND, state, batches[name])
        after = jax.device_get(stepper.gathered(state).ema)
        updates.append(np.concatenate([(after[key] - before[key]).ravel() for key in sorted(after)]))
        hlo = "".join(program.as_text() for program in stepper.programs.all())
        results[name] = {
            "microbatches": microbatches,
            "loss": float(metrics["loss"]),
            "grad_norm": float(metrics["grad_norm"]),
            "update_difference": float(np.linalg.norm(updates[-1] - updates[0]) / np.linalg.norm(updates[0])),
            "held": {field: _share_on_one_device(getattr(state, field)) for field in ("params", "opt_state", "ema")},
            "all_gathers": len(re.findall(r" all-gather(?:-start)?\(", hlo)),
            "all_to_alls": len(re.findall(r" all-to-all(?:-start)?\(", hlo)),
        }
        saved[name] = state
    results["moved"] = _move(saved[other], steppers, batches, folder)
    print(json.dumps(results))


def _share_on_one_device(tree) -> float:
    """Bytes on the first device over bytes of the whole arrays."""
    leaves = jax.tree.leaves(tree)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)


def _move(origin, steppers, batches, folder: pathlib.Path) -> dict:
    """Saves the state `origin`, goes on from there on every mesh."""
    checkpoints = Checkpoints(folder, create=True)
    checkpoints.save(1, *to_items(origin), {})
    checkpoints.wait()
    moved = {}
    for name, stepper in steppers.items():
        like = stepper.abstract_state()
        state = from_items(like, *checkpoints.restore(*to_items(like)))
        equal = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), jax.device_get(state), jax.device_get(origin))
        lies = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), state, like)
        _, metrics = stepper(KIND, state, batches[name])
        moved[name] = {
            "equal": all(jax.tree.leaves(equal)),
            "lies": all(jax.tree.leaves(lies)),
            "loss": float(metrics["loss"]),
        }
    params, _ = checkpoints.restore_weights()
    moved["weights_equal"] = all(np.array_equal(params[key], origin.ema[key]) for key in params)
    checkpoints.close()
    return moved


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
