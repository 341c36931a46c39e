"""A batch of unequal clips, whose losses and gradients must not depend on how it is split.

The clips differ in their number of targets; one has none, one has no pixel with a known class, and each lacks a class.
`unequal_clips.json` beside this file has what the reference computes of them one at a time, as on one device each, and
averaged as its data parallelism does (tests/tools/record_unequal_clips.py). Parameters that are predictions take the
place of the network.

Run as a program by test_unequal_clips.py, in a process of its own with some CPU devices, or in several that share them:

    python -m tests.parallel.unequal_clips DEVICESxMICROBATCHES ...

prints JSON: per way to split the batch the terms, for each prediction and clip two numbers of its gradient, and the
shapes of what is gathered from all devices.
"""

import json
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.instance import InstanceDraws
from tarvis_jax.losses.panoptic import PanopticDraws
from tarvis_jax.losses.points import PointDraws
from tarvis_jax.losses.semantic import semantic_loss
from tarvis_jax.model.decoder import Predictions
from tarvis_jax.parallel import distributed
from tarvis_jax.parallel.mesh import make_mesh, microbatch_sharding, put_batch, replicated, samples_of_process
from tarvis_jax.tasks import exemplar, instance, panoptic
from tarvis_jax.tasks.objective import Objective, targets_per_clip
from tarvis_jax.train.step import make_gradients, random_key

B, L, T, Q, N, K, H, W = 8, 2, 2, 5, 3, 4, 16, 24
P, UNCERTAIN = 16, 12
OBJECT_QUERIES = 2  # of each object and of the background
NUM_TARGETS = {
    "instance": (3, 1, 0, 2, 3, 0, 1, 2),
    "panoptic": (0, 1, 0, 1, 2, 0, 1, 0),  # fewer than clips
    "exemplar": (3, 1, 2, 1, 1, 3, 2, 2),
}
CLIP_WITHOUT_CLASSES = 1  # all its pixels are ignored
POINTS = {"num_points": P, "num_points_semantic": P, "interpolate_class_ids": True}
PRETRAINING = {"suppress_absent_classes": True, "logit_norm_weight": 1e-3}
CASES = {  # name -> (task, settings)
    "instance": ("instance", LossConfig(**POINTS, **PRETRAINING)),
    "panoptic": ("panoptic", LossConfig(**POINTS, **PRETRAINING)),
    "dense": ("panoptic", LossConfig(panoptic_semantic="dense")),  # the semantic loss alone
    "exemplar": ("exemplar", LossConfig(**POINTS)),
}
KEYED = ("exemplar",)  # cases that are computed once more, with draws from the keys of the clips


def make_predictions(task: str) -> dict[str, np.ndarray]:
    """Logits of all clips, [B, L, queries, ...]; the groups are in the order of `_groups`."""
    rng = np.random.RandomState(1)  # its stream is the same in every version of numpy
    num_queries = sum(size for _, size in _groups(task))
    masks = rng.normal(size=(B, L, num_queries, T, H // 4, W // 4))
    if task == "exemplar":
        return {"mask": masks.astype(np.float32)}
    for clip in range(B):  # the class that the clip lacks
        masks[clip, :, Q + 1 + (clip + 3) % K] -= 8
    classes = rng.normal(size=(B, L, Q, 1 + K))
    return {"mask": masks.astype(np.float32), "class": classes.astype(np.float32)}


def make_targets(task: str) -> dict[str, np.ndarray]:
    """Targets of all clips in N slots, as in a batch."""
    rng = np.random.RandomState(2)
    valid = np.arange(N) < np.array(NUM_TARGETS[task])[:, None]
    targets = {
        "masks": rng.random_sample((B, N, T, H, W)) < 0.3,
        "valid_instances": valid,
        "classes": np.where(valid, 1 + (np.arange(B)[:, None] + np.arange(N)) % K, 0).astype(np.int32),
    }
    if task == "panoptic":
        rows = (np.arange(B)[:, None] + np.arange(W) // 8) % K  # three classes; each clip lacks another one
        targets["semantic_map"] = np.broadcast_to(rows[:, None, None], (B, T, H, W)).astype(np.int32)
        targets["ignore_mask"] = rng.random_sample((B, T, H, W)) < np.linspace(0.1, 0.4, B)[:, None, None, None]
        targets["ignore_mask"][CLIP_WITHOUT_CLASSES] = True
    if task == "exemplar":
        targets["reference_frame"] = np.zeros(B, np.int32)
        targets["points_yx"] = np.zeros((B, N, 2), np.float32)
    return targets


def make_draws(task: str) -> dict[str, np.ndarray]:
    """Uniform numbers of all clips, float32 [B, L, ...]."""
    rng = np.random.RandomState(3)
    slots = 1 + N if task == "exemplar" else N
    shapes = {"candidates": (slots, T, 3 * P), "random": (slots, T, P - UNCERTAIN)}
    if task != "exemplar":
        shapes |= {"matching": (P,), "semantic_candidates": (T, 3 * P), "semantic_random": (T, P - UNCERTAIN)}
    return {name: rng.random_sample((B, L, *shape, 2)).astype(np.float32) for name, shape in shapes.items()}


def gradient_numbers(gradient: np.ndarray) -> list[list[float]]:
    """Of each clip's gradient [B, ...]: its norm, and its product with a fixed random direction."""
    flat = np.asarray(gradient, np.float64).reshape(B, -1)
    direction = np.random.RandomState(4).normal(size=flat.shape[1])
    return [[float(np.linalg.norm(row)), float(row @ direction)] for row in flat]


def _groups(task: str) -> tuple[tuple[str, int], ...]:
    if task == "exemplar":
        return (("background_vos", OBJECT_QUERIES), ("vos", N * OBJECT_QUERIES))
    return (("instance", Q), ("background", 1), ("semantic", K))


class _Recorded:
    """Stands in for the network: its features say which clips these are, and its predictions are given."""

    def __init__(self, task: str, masks: jax.Array, classes: jax.Array | None):
        self.groups, self.masks, self.classes = _groups(task), masks, classes

    def features(self, places, rng_keys):
        return {4: places[:, None]}

    def encode_objects(self, pyramid, **objects):
        return None

    def exemplar_query_set(self, objects):
        return None

    def class_query_set(self, dataset, batch_size):
        return None

    def decode(self, pyramid, query_set, all_layers):
        masks, classes = (
            None if x is None else jnp.moveaxis(x[pyramid[4][:, 0]], 1, 0) for x in (self.masks, self.classes)
        )
        return Predictions(queries=None, mask_logits=masks, class_logits=classes, groups=self.groups)


def _recorded_draws(task: str, draws: dict[str, jax.Array]):
    draws = {name: jnp.moveaxis(x, 1, 0) for name, x in draws.items()}  # layers first
    masks = PointDraws(draws["candidates"], draws["random"])
    if task == "exemplar":
        return exemplar.Draws(jnp.zeros(masks.random.shape[1:3], bool), masks)
    semantic = PointDraws(draws["semantic_candidates"], draws["semantic_random"])
    both = InstanceDraws(draws["matching"], masks), semantic
    return instance.Draws(*both) if task == "instance" else PanopticDraws(*both)


def _loss(model, batch, loss_keys, model_keys, statistics):
    """All cases with recorded draws, and those of `KEYED` with draws from the keys."""
    total, all_terms = 0.0, {}
    for name in _runs():
        case = name.removesuffix("_keyed")
        task, config = CASES[case]
        module = {"instance": instance, "panoptic": panoptic, "exemplar": exemplar}[task]
        arrays = {key.split("/")[1]: x for key, x in batch.items() if key.startswith(f"{task}/")}
        network = _Recorded(task, model[f"{name}/mask"], model.get(f"{name}/class"))
        if name != case:
            draws = module.draw(loss_keys, L, *((N, 0.3) if task == "exemplar" else ()))
        else:
            recorded = {key.removeprefix("draw_"): x for key, x in arrays.items() if key.startswith("draw_")}
            draws = _recorded_draws(task, recorded)
        inputs = network, arrays | {"images": batch["place"]}
        if case == "dense":
            logits = network.decode(network.features(batch["place"], None), None, True).mask_logits[:, :, -K:]
            loss, terms = semantic_loss(logits, arrays["semantic_map"], arrays["ignore_mask"], None, config)
        elif task == "exemplar":
            loss, terms = module.loss(*inputs, draws, config)
        else:
            loss, terms = module.loss(*inputs, "ANY", draws, config, statistics[task])
        total += loss
        all_terms |= {f"{name}/{key.removeprefix(task + '/')}": values for key, values in terms.items()}
    return total, all_terms


def _runs() -> tuple[str, ...]:
    return (*CASES, *(f"{case}_keyed" for case in KEYED))


def _statistics(batch):
    return {
        task: targets_per_clip({"valid_instances": batch[f"{task}/valid_instances"]})
        for task in ("instance", "panoptic")
    }


def run(num_devices: int, microbatches: int) -> dict:
    """The terms and numbers of gradients of one way to split the batch."""
    mesh = make_mesh(jax.devices()[:num_devices])
    whole, split = replicated(mesh), microbatch_sharding(mesh)
    params = {
        f"{name}/{key}": x
        for name in _runs()
        for key, x in make_predictions(CASES[name.removesuffix("_keyed")][0]).items()
        if not (name == "dense" and key == "class")
    }
    batch = {}
    for task in NUM_TARGETS:
        batch |= {f"{task}/{name}": x for name, x in make_targets(task).items()}
        batch |= {f"{task}/draw_{name}": x for name, x in make_draws(task).items()}
    mine = samples_of_process(B, microbatches, mesh)
    batch = put_batch({name: x[mine] for name, x in batch.items()}, microbatches, mesh)
    structure = types.SimpleNamespace(build=lambda params, frozen: params)
    gradients = make_gradients(structure, Objective(_loss, _statistics))
    jitted = jax.jit(gradients, in_shardings=(whole, whole, split, whole, whole), out_shardings=whole)
    arguments = params, {}, batch, random_key(0, mesh), np.int32(7)
    with jax.set_mesh(mesh):
        compiled = jitted.lower(*arguments).compile()
    grads, _, terms = compiled(*arguments)
    return {
        "all_gathers": re.findall(r"= (\S+) all-gather(?:-start)?\(", compiled.as_text()),
        "terms": {name: np.asarray(values).tolist() for name, values in terms.items()},
        "gradients": {name: gradient_numbers(gradient) for name, gradient in grads.items()},
    }


def main() -> None:
    distributed.start()
    results = {way: run(*map(int, way.split("x"))) for way in sys.argv[1:]}
    if jax.process_index() == 0:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
