"""Losses against the reference's recorded predictions, targets, draws, values and gradients (golden/losses/*.npz)."""

import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.exemplar import exemplar_loss
from tarvis_jax.losses.instance import InstanceDraws, instance_loss
from tarvis_jax.losses.panoptic import PanopticDraws, panoptic_loss
from tarvis_jax.losses.points import PointDraws
from tarvis_jax.losses.semantic import instance_semantic_loss
from tests.parity.common import AS_USERS_COMPILE, GRADIENT_TOLERANCE, LOSS_TOLERANCE, Row, compare, load_npz


def padded_targets(golden: dict[str, np.ndarray], num_targets: int) -> dict[str, np.ndarray]:
    """The reference's lists of targets (`gt_masks_0`, `gt_classes_0`, ...) as padded arrays with a valid mask."""
    masks = [golden[f"gt_masks_{i}"] for i in range(sum(key.startswith("gt_masks_") for key in golden))]
    shape = (len(masks), num_targets, *masks[0].shape[1:])
    targets = {
        "masks": np.ones(shape, bool),  # padding may hold anything
        "classes": np.zeros(shape[:2], np.int32),
        "valid": np.zeros(shape[:2], bool),
    }
    for i, sample in enumerate(masks):
        count = len(sample)
        targets["masks"][i, :count] = sample
        targets["valid"][i, :count] = True
        if f"gt_classes_{i}" in golden:
            targets["classes"][i, :count] = golden[f"gt_classes_{i}"]
    return targets


def recorded_draws(golden: dict[str, np.ndarray], prefix: str = "rand_") -> Iterator[np.ndarray]:
    """The recorded uniform numbers in the order in which the reference drew them."""
    return (golden[key] for key in sorted(key for key in golden if key.startswith(prefix)))


def _pairs(flat: np.ndarray, valid: np.ndarray, frames: int) -> np.ndarray:
    """Draws of all matched pairs in a row [sum of targets * T, M, 2] -> padded [B, N, T, M, 2]."""
    padded = np.zeros((*valid.shape, frames, *flat.shape[1:]), np.float32)
    first = 0
    for i, count in enumerate(valid.sum(1)):
        last = first + count * frames
        padded[i, :count] = flat[first:last].reshape(count, frames, *flat.shape[1:])
        first = last
    return padded


def take_instance(draws: Iterator[np.ndarray], num_layers: int, valid: np.ndarray, frames: int) -> InstanceDraws:
    """Per layer: matcher points of each sample, then candidates and random points of all pairs."""
    matching, candidates, random = [], [], []
    for _ in range(num_layers):
        matching.append(np.concatenate([next(draws) for _ in range(len(valid))]))
        candidates.append(_pairs(next(draws), valid, frames))
        random.append(_pairs(next(draws), valid, frames))
    return InstanceDraws(jnp.array(matching), PointDraws(jnp.array(candidates), jnp.array(random)))


def take_points(draws: Iterator[np.ndarray], num_layers: int, batch_shape: tuple[int, ...]) -> PointDraws:
    """Per layer: candidates and random points with the flattened leading axes `batch_shape`."""
    layers = [[next(draws), next(draws)] for _ in range(num_layers)]
    stacked = (jnp.array([layer[i].reshape(*batch_shape, -1, 2) for layer in layers]) for i in range(2))
    return PointDraws(*stacked)


_NAMES = {  # ours -> the reference's
    "instance_seg": {"total": "total", "mask_ce": "mask_ce", "mask_dice": "mask_dice", "class_ce": "cls"},
    "semantic_seg": {"total": "total", "ce": "ce", "logit_norm": "reg"},
    "vos": {"total": "total", "mask_ce": "ce", "mask_dice": "dice"},
}
_NAMES["panoptic_seg"] = {
    "total": "total",
    **{f"instance_{ours}": f"instance_{theirs}" for ours, theirs in _NAMES["instance_seg"].items()},
    **{f"semantic_{ours}": f"semantic_{theirs}" for ours, theirs in _NAMES["semantic_seg"].items()},
}


def loss_of_case(name: str, golden: dict[str, np.ndarray], num_targets: int):
    """Builds (function of the predictions -> (scalar, terms), predictions) of one golden file, targets padded to N."""
    task = next(task for task in _NAMES if name.startswith(task))
    frames = golden["pred_mask_logits"].shape[3]
    num_layers, batch = golden["pred_mask_logits"].shape[:2]
    targets = padded_targets(golden, num_targets)
    masks, classes, valid = targets["masks"], targets["classes"], targets["valid"]
    regularized = "out_loss_reg" in golden or "out_loss_semantic_reg" in golden
    config = LossConfig(
        num_points=int(golden["num_points"]),
        num_points_semantic=int(golden.get("num_points_semantic", 1)),
        panoptic_semantic=name.removeprefix("panoptic_seg_") if task == "panoptic_seg" else "sparse",
        suppress_absent_classes=regularized,
        logit_norm_weight=1e-3 if regularized else 0.0,
    )
    draws = recorded_draws(golden)
    predictions = {"mask": golden["pred_mask_logits"]}
    if task in ("instance_seg", "panoptic_seg"):
        predictions["class"] = golden["pred_class_logits"]
        instance_draws = take_instance(draws, num_layers, valid, frames)
    if task == "instance_seg":

        def loss(p):
            return instance_loss(p["mask"], p["class"], masks, classes, valid, instance_draws, config)

    elif task == "panoptic_seg":
        predictions["semantic"] = golden["pred_semantic_logits"]
        sparse = config.panoptic_semantic == "sparse"
        semantic_draws = take_points(draws, num_layers, (batch, frames)) if sparse else None
        all_draws = PanopticDraws(instance_draws, semantic_draws)
        semantic_map, ignore = golden["gt_semantic"].astype(np.int32), golden["ignore"]

        def loss(p):
            things = p["mask"], p["class"]
            return panoptic_loss(*things, p["semantic"], masks, classes, valid, semantic_map, ignore, all_draws, config)

    elif task == "semantic_seg":
        point_draws = take_points(draws, num_layers, (batch, frames))

        def loss(p):
            return instance_semantic_loss(p["mask"], masks, classes, valid, point_draws, config)

    else:
        recorded = take_points(draws, num_layers, (batch, 1 + int(valid[0].sum()), frames))
        pad = [(0, 0), (0, 0), (0, num_targets - int(valid[0].sum())), (0, 0), (0, 0), (0, 0)]
        point_draws = PointDraws(*(jnp.pad(x, pad) for x in recorded))
        predictions["mask"] = np.pad(predictions["mask"], pad)

        def loss(p):
            return exemplar_loss(p["mask"], masks, valid, point_draws, config)

    leftover = list(draws)
    if leftover:
        raise ValueError(f"{name}: {len(leftover)} recorded draws were not used")
    return loss, predictions


def run_case(path: pathlib.Path, num_targets: int) -> list[Row]:
    """Compares one golden file with targets padded to `num_targets` slots."""
    name = path.stem
    golden = load_npz(path)
    loss, predictions = loss_of_case(name, golden, num_targets)
    with jax.default_matmul_precision("highest"):
        (_, terms), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=AS_USERS_COMPILE)(
            predictions
        )
    task = next(task for task in _NAMES if name.startswith(task))
    theirs = _NAMES[task]
    expected = {key.removeprefix("out_loss_") for key in golden if key.startswith("out_loss_")}
    found = {theirs[key] for key in terms}
    if found != expected:
        raise ValueError(f"{name}: the reference has the terms {sorted(expected)}, we have {sorted(found)}")
    stage = f"losses/{name}"
    rows = []
    for key, value in terms.items():
        rows.append(compare(stage, key, value, golden[f"out_loss_{theirs[key]}"], LOSS_TOLERANCE))
    for key, value in gradients.items():
        reference = golden[f"grad_{key}_logits"]
        value = np.asarray(value)[:, :, : reference.shape[2]]  # VOS predictions are padded with the targets
        rows.append(compare(stage, f"gradient of {key} logits", value, reference, GRADIENT_TOLERANCE))
    return rows


def is_case(case_dir: pathlib.Path) -> bool:
    """Whether the folder holds a case of this kind: recorded losses, without the .json of a training step."""
    files = [path for path in case_dir.glob("*.npz") if any(path.stem.startswith(task) for task in _NAMES)]
    return bool(files) and not any(path.with_suffix(".json").is_file() for path in files)


def run(case_dir: pathlib.Path, seed: int = 0, backbone: str = "ResNet50", num_targets: int = 5) -> list[Row]:
    """All golden files of a folder of losses; they hold no weights, so `seed` and `backbone` play no part."""
    del seed, backbone
    return [row for path in sorted(case_dir.glob("*.npz")) for row in run_case(path, num_targets)]
