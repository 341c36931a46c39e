"""Run by test_mesh.py in a process of its own with eight CPU devices: one step, the batch split in different ways.

Prints JSON: per way the loss, and the relative difference of gradients and parameters from one device.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tarvis_jax.losses.instance import InstanceDraws
from tarvis_jax.losses.points import PointDraws
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tarvis_jax.tasks import instance
from tarvis_jax.tasks.objective import Objective
from tarvis_jax.train.state import initial_state
from tarvis_jax.train.step import TrainStepper
from tests import tiny

L, B, N, T = 2, 8, 2, 2
P = tiny.LOSS.num_points
CANDIDATES, RANDOM = 3 * P, P - int(0.75 * P)


def recorded_draws(seed: int) -> dict[str, np.ndarray]:
    """Uniform numbers per sample, so that a sample's draws do not depend on which microbatch it is in."""
    rng = np.random.default_rng(seed)
    shapes = {
        "matching": (B, L, P, 2),
        "candidates": (B, L, N, T, CANDIDATES, 2),
        "random": (B, L, N, T, RANDOM, 2),
        "semantic_candidates": (B, L, T, CANDIDATES, 2),
        "semantic_random": (B, L, T, RANDOM, 2),
    }
    return {f"draw_{name}": rng.random(shape, np.float32) for name, shape in shapes.items()}


def loss(model, batch, draw_key, model_key, num_targets):
    del draw_key, model_key
    draw = {name: jnp.moveaxis(array, 1, 0) for name, array in batch.items() if name.startswith("draw_")}
    draws = instance.Draws(
        InstanceDraws(draw["draw_matching"], PointDraws(draw["draw_candidates"], draw["draw_random"])),
        PointDraws(draw["draw_semantic_candidates"], draw["draw_semantic_random"]),
    )
    return instance.loss(model, batch, "VIS", draws, tiny.LOSS, num_targets)


def main() -> None:
    assert jax.device_count() == 8
    batch = tiny.make_batch("instance", B) | recorded_draws(0)
    structure = ModelStructure(tiny.TRAINED)
    # Plain gradient descent: Adam's first step is the gradient's sign, which turns rounding into full steps.
    optimizer = optax.sgd(1e-3)
    objective = Objective(loss, lambda batch: batch["valid_instances"].sum() / batch["valid_instances"].shape[0])
    params, results = {}, {}
    for name, num_devices, per_device in (("1x8", 1, 8), ("8x1", 1, 1), ("devices", 8, 1)):
        mesh = make_mesh(jax.devices()[:num_devices])
        microbatches = num_microbatches(B, per_device, mesh)
        stepper = TrainStepper(structure, optimizer, lambda step: 1e-3, 0.0, {("VIS", "instance"): objective}, 0, mesh)
        state = initial_state(structure, optimizer, 0, False, mesh)
        before = jax.device_get(state.params)
        state, metrics = stepper(("VIS", "instance"), state, put_batch(batch, microbatches, mesh))
        after = jax.device_get(state.params)
        params[name] = np.concatenate([(after[key] - before[key]).ravel() for key in sorted(after)])
        difference = np.linalg.norm(params[name] - params["1x8"]) / np.linalg.norm(params["1x8"])
        results[name] = {
            "microbatches": microbatches,
            "loss": float(metrics["loss"]),
            "grad_norm": float(metrics["grad_norm"]),
            "update_difference": float(difference),
        }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
