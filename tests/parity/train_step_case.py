"""Whole training steps (network, losses, AdamW) against the reference's (golden/train_step_<Backbone>).

The total of the first step, its terms per layer, its gradients and the parameter groups are hard tests. Totals of later
steps may part, as a matching flips or a mask value crosses 0.5, so they have wide tolerances.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from input_pipeline.points import mask_to_point
from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.panoptic import PanopticDraws
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import OptimizerConfig
from tarvis_jax.tasks import exemplar, instance, panoptic
from tarvis_jax.train.optimizer import make_optimizer, parameter_groups
from tarvis_jax.weights.pytorch.rules import model_rules
from tests.parity.common import AS_USERS_COMPILE, Row, compare, is_own, load_npz, model_config, seeded_variables
from tests.parity.losses_case import clips_pooled, padded_targets, recorded_draws, take_instance, take_points

TOTAL_TOLERANCE = 1e-4
TERM_TOLERANCE = 1e-4
GRADIENT_NORM_TOLERANCE = 1e-3
LATER_TOTAL_TOLERANCE = 0.1
PARAMETER_NORM_TOLERANCE = 1e-3
NOISE = 1e-6  # norms below this share of the joint norm are compared with it instead of themselves
POINT_PROBABILITY = 0.3

_TASKS = {
    "instance_seg": (instance, "YOUTUBE_VIS"),
    "panoptic_seg": (panoptic, "KITTI_STEP"),
    "vos": (exemplar, "DAVIS"),
}
_INSTANCE_TERMS = {"total": "total", "mask_ce": "mask_ce", "mask_dice": "mask_dice", "class_ce": "cls"}
TERMS = {  # ours -> the reference's
    "instance_seg": {
        **{f"instance/{ours}": f"instance_seg/loss_{theirs}" for ours, theirs in _INSTANCE_TERMS.items()},
        "semantic/ce": "semantic_seg/loss_ce",
        "semantic/total": "semantic_seg/loss_total",
    },
    "panoptic_seg": {
        **{f"panoptic/instance_{o}": f"panoptic_seg/loss_instance_{t}" for o, t in _INSTANCE_TERMS.items()},
        "panoptic/semantic_ce": "panoptic_seg/loss_semantic_ce",
        "panoptic/semantic_total": "panoptic_seg/loss_semantic_total",
        "panoptic/total": "panoptic_seg/loss_total",
    },
    "vos": {
        "exemplar/mask_ce": "vos/loss_ce",
        "exemplar/mask_dice": "vos/loss_dice",
        "exemplar/total": "vos/loss_total",
    },
}


def is_case(case_dir: pathlib.Path) -> bool:
    """Whether the folder holds a case of this kind."""
    return any((case_dir / f"{task}.json").is_file() and (case_dir / f"{task}.npz").is_file() for task in _TASKS)


def run(
    case_dir: pathlib.Path,
    seed: int,
    backbone: str,
    tasks: tuple[str, ...] = tuple(_TASKS),
    num_steps: int = 3,
) -> list[Row]:
    """Rows of the tasks whose files the case holds; the first `num_steps` steps are taken."""
    config = dataclasses.replace(model_config(case_dir, backbone), drop_path=0.0)
    variables = seeded_variables(case_dir, seed, config)
    rows = []
    for task in tasks:
        if (case_dir / f"{task}.npz").is_file():
            rows += _compare_task(case_dir, task, config, variables, num_steps)
    return rows


def _compare_task(
    case_dir: pathlib.Path, task: str, config: ModelConfig, variables: Mapping[str, np.ndarray], num_steps: int
) -> list[Row]:
    golden = load_npz(case_dir / f"{task}.npz")
    report = json.loads((case_dir / f"{task}.json").read_text())
    structure = ModelStructure(config)
    params = {path: jnp.asarray(variables[path]) for path in structure.params}
    frozen = {path: jnp.asarray(variables[path]) for path in structure.frozen}
    names = report["groups"]
    path_of = {name: name for name in names} if is_own(case_dir) else paths_of_tensors(names, config)
    missing = sorted(set(params) - set(path_of.values()))
    if missing:
        raise ValueError(f"{case_dir}/{task}.json: no group for our parameters {missing}")

    stage = f"{task}/groups"
    optimizer_config = OptimizerConfig(warmup_steps=0, decay_steps=(), decay_rates=())
    groups = parameter_groups(params, optimizer_config)
    learning_rates, decays = zip(*(groups[path_of[name]] for name in report["groups"]), strict=True)
    rows = [
        compare(stage, "learning rates", learning_rates, [g["lr"] for g in report["groups"].values()], 1e-6),
        compare(stage, "weight decays", decays, [g["weight_decay"] for g in report["groups"].values()], 1e-6),
    ]

    optimizer = make_optimizer(optimizer_config, params)
    step = make_step(task, structure, frozen, optimizer, golden)
    state = params, optimizer.init(params)
    for i in range(num_steps):
        *state, total, terms, gradient_norms = step(*state, step_draws(task, golden, f"step{i}_rand_"))
        if i == 0:
            rows.append(compare(f"{task}/step 0", "total", total, report["total_loss"][0], TOTAL_TOLERANCE))
            for ours, theirs in TERMS[task].items():
                rows.append(compare(f"{task}/step 0", ours, terms[ours], golden[f"loss/{theirs}"], TERM_TOLERANCE))
            rows += _compare_gradients(task, gradient_norms, report, path_of)
        else:
            reference = report["total_loss"][i]
            rows.append(compare(f"{task}/step {i}", "total", total, reference, LATER_TOTAL_TOLERANCE))
    if num_steps == len(report["total_loss"]):
        names = list(report["param_norm_after"])
        norms = [float(jnp.linalg.norm(state[0][path_of[name]].ravel())) for name in names]
        expected = [report["param_norm_after"][name] for name in names]
        rows.append(compare(f"{task}/after", "parameter norms", norms, expected, PARAMETER_NORM_TOLERANCE))
    return rows


def _compare_gradients(task: str, ours: Mapping[str, Any], report: dict, path_of: Mapping[str, str]) -> list[Row]:
    """The joint norm, and of the norms of all parameters the one with the largest error."""
    stage = f"{task}/gradients"
    total = np.linalg.norm([float(norm) for norm in ours.values()])
    rows = [compare(stage, "joint norm", total, report["grad_norm_total"], GRADIENT_NORM_TOLERANCE)]
    # A gradient that is zero in theory (a bias common to all classes under a softmax) is rounding noise on both sides.
    noise = NOISE * report["grad_norm_total"]
    each = [
        Row(
            stage,
            f"norm of {path_of[name]}",
            abs(float(ours[path_of[name]]) - reference) / max(reference, noise),
            GRADIENT_NORM_TOLERANCE,
        )
        for name, reference in report["grad_norm_step0"].items()
    ]
    worst = max(each, key=lambda row: np.nan_to_num(row.error, nan=np.inf))
    return [*rows, Row(worst.stage, f"{worst.tensor} (worst of {len(each)})", worst.error, worst.tolerance)]


def paths_of_tensors(names: Mapping[str, Any], config: ModelConfig) -> dict[str, str]:
    """{name in the reference: our path}; ValueError for a name that no conversion rule knows."""
    paths = {}
    for name in names:
        found = [path for rule in model_rules(config) if not rule.derive and (path := rule.jax_path(name)) is not None]
        if len(found) != 1:
            raise ValueError(f"{name}: expected one variable of ours, found {found}")
        paths[name] = found[0]
    return paths


def _loss_config(task: str, golden: Mapping[str, np.ndarray]) -> LossConfig:
    """Points per mask as recorded: random points are a quarter of them."""
    draws = list(recorded_draws(golden, "step0_rand_"))
    count = next(draw.shape[1] for draw in draws[1:] if draw.shape[0] > 1 and draw.ndim == 3) // 3
    return LossConfig(num_points=count, num_points_semantic=draws[-2].shape[1] // 3, interpolate_class_ids=True)


def _batch(task: str, golden: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    targets = padded_targets(golden, len(golden["gt_masks_0"]))
    batch = {"images": golden["images"], "masks": targets["masks"], "valid_instances": targets["valid"]}
    if task == "vos":
        reference_frame = 0
        batch["reference_frame"] = np.full(len(targets["masks"]), reference_frame, np.int32)
        batch["points_yx"] = np.stack([mask_to_point(masks[:, reference_frame]) for masks in targets["masks"]])
    else:
        batch["classes"] = targets["classes"]
    if task == "panoptic_seg":
        batch |= {"semantic_map": golden["gt_semantic"].astype(np.int32), "ignore_mask": golden["ignore"]}
    return batch


def step_draws(task: str, golden: Mapping[str, np.ndarray], prefix: str) -> Any:
    """The recorded draws of one step in the form that the task's loss takes."""
    draws: Iterator[np.ndarray] = recorded_draws(golden, prefix)
    valid = padded_targets(golden, len(golden["gt_masks_0"]))["valid"]
    batch, frames = golden["images"].shape[:2]
    num_layers = len(next(value for key, value in golden.items() if key.startswith("loss/")))
    if task == "vos":
        num_objects = valid.shape[1]  # the same in all clips, of which the last ones are points
        is_point = np.arange(num_objects) >= num_objects - (next(draws) < POINT_PROBABILITY).sum()
        points = take_points(draws, num_layers, (batch, 1 + num_objects, frames))
        result = exemplar.Draws(jnp.broadcast_to(is_point, valid.shape), points)
    else:
        of_instances = take_instance(draws, num_layers, valid, frames)
        of_classes = take_points(draws, num_layers, (batch, frames))
        result = {"instance_seg": instance.Draws, "panoptic_seg": PanopticDraws}[task](of_instances, of_classes)
    leftover = len(list(draws))
    if leftover:
        raise ValueError(f"{task}: {leftover} recorded draws of {prefix} were not used")
    return result


def make_step(
    task: str,
    structure: ModelStructure,
    frozen: Mapping[str, jax.Array],
    optimizer: optax.GradientTransformation,
    golden: Mapping[str, np.ndarray],
):
    """Compiled (params, optimizer state, draws) -> (params, optimizer state, total, terms, norms of the gradients)."""
    module, dataset = _TASKS[task]
    config = _loss_config(task, golden)
    batch = _batch(task, golden)

    def step(params, opt_state, frozen, batch, draws):
        def loss(params):
            model = structure.build(params, frozen)
            with clips_pooled():
                return module.loss(model, batch, *(() if module is exemplar else (dataset,)), draws, config)

        (total, terms), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        norms = jax.tree.map(lambda gradient: jnp.linalg.norm(gradient.ravel()), gradients)
        return optax.apply_updates(params, updates), opt_state, total, terms, norms

    compiled = jax.jit(step, compiler_options=AS_USERS_COMPILE)

    def call(params, opt_state, draws):
        with jax.default_matmul_precision("highest"):
            return compiled(params, opt_state, frozen, batch, draws)

    return call
