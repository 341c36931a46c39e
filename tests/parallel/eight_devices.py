"""Run by test_mesh.py in a process of its own with eight CPU devices: one step, the batch split in different ways.

The network is real, and every clip draws its points from its own key. Prints JSON: per way the loss, the norm of the
gradient, and the relative difference of the update from that of the first way.
"""

import json

import jax
import numpy as np
import optax

from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tarvis_jax.tasks import instance
from tarvis_jax.tasks.objective import class_objective
from tarvis_jax.train.state import initial_state
from tarvis_jax.train.step import TrainStepper
from tests import tiny

B, L = 8, 2


def main() -> None:
    assert jax.device_count() == 8
    batch = tiny.make_batch("instance", B)
    structure = ModelStructure(tiny.TRAINED)
    # Plain gradient descent: Adam's first step is the gradient's sign, which turns rounding into full steps.
    optimizer = optax.sgd(1e-3)
    objective = class_objective(instance.draw, instance.loss, "VIS", tiny.LOSS, L)
    results, updates = {}, []
    for name, num_devices, per_device in (("8x1", 1, 1), ("devices", 8, 1)):
        mesh = make_mesh(jax.devices()[:num_devices])
        microbatches = num_microbatches(B, per_device, mesh)
        stepper = TrainStepper(structure, optimizer, lambda step: 1e-3, 0.0, {("VIS", "instance"): objective}, 0, mesh)
        state = initial_state(structure, optimizer, 0, False, mesh)
        before = jax.device_get(state.params)
        state, metrics = stepper(("VIS", "instance"), state, put_batch(batch, microbatches, mesh))
        after = jax.device_get(state.params)
        updates.append(np.concatenate([(after[key] - before[key]).ravel() for key in sorted(after)]))
        results[name] = {
            "microbatches": microbatches,
            "loss": float(metrics["loss"]),
            "grad_norm": float(metrics["grad_norm"]),
            "update_difference": float(np.linalg.norm(updates[-1] - updates[0]) / np.linalg.norm(updates[0])),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
