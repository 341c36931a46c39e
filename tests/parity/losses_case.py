"""Losses against the reference's recorded predictions, targets, draws, values and gradients (golden/losses/*.npz).

The recordings have two clips on one device, where the reference takes means of classes over both; ours are means over
the clips, as the reference's are with one clip on each device. `pooled_...` puts ours together as the recordings do.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from tarvis_jax.losses import panoptic as panoptic_module
from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.exemplar import exemplar_loss
from tarvis_jax.losses.instance import InstanceDraws, instance_loss
from tarvis_jax.losses.panoptic import PanopticDraws, panoptic_loss
from tarvis_jax.losses.points import PointDraws
from tarvis_jax.losses.semantic import instance_semantic_loss, semantic_loss
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


def pooled_instance_loss(mask_logits, class_logits, masks, classes, valid, draws, config, targets_per_clip=None):
    """`instance_loss` with the mean of the class term over the queries of all clips, not over the clips."""
    targets_per_clip = valid.sum() / len(valid)

    def of_clip(predictions, targets):
        layers = jax.tree.map(lambda x: x[:, None], predictions)
        return instance_loss(*layers[:2], *(x[None] for x in targets), layers[2], config, targets_per_clip)[1]

    terms = jax.vmap(of_clip, (1, 0))((mask_logits, class_logits, draws), (masks, classes, valid))  # [B, L] each
    num_queries, num_targets = class_logits.shape[2], valid.sum(1)
    weights = num_targets + config.background_class_weight * (num_queries - num_targets)
    pooled = {name: values.mean(0) for name, values in terms.items()}
    pooled["class_ce"] = (terms["class_ce"] * (weights / weights.sum())[:, None]).sum(0)
    pooled["total"] += config.class_weight * (pooled["class_ce"] - terms["class_ce"].mean(0))
    return pooled["total"].sum(), pooled


def as_one_clip(x, frame_axis: int):
    """[B, T, ...] or [L, B, ..., T, ...] with T at `frame_axis` -> the same with 1 for B and B * T for T."""
    batch_axis = 0 if frame_axis <= 1 else 1
    x = jnp.moveaxis(x, batch_axis, frame_axis - 1)  # beside the frames
    merged = x.reshape(*x.shape[: frame_axis - 1], -1, *x.shape[frame_axis + 1 :])
    return jnp.expand_dims(merged, batch_axis)


def pooled_semantic_loss(mask_logits, semantic_map, ignore_mask, draws, config):
    """`semantic_loss` with means over the points of all clips: they are the frames of one clip."""
    targets = as_one_clip(semantic_map, 1), as_one_clip(ignore_mask, 1)
    draws = jax.tree.map(lambda x: as_one_clip(x, 2), draws)
    return semantic_loss(as_one_clip(mask_logits, 3), *targets, draws, config)


def pooled_instance_semantic_loss(mask_logits, masks, classes, valid, draws, config):
    """`instance_semantic_loss` with all clips as one, whose instances are each in the frames of their own clip."""
    batch, _, frames = masks.shape[:3]
    is_own = jnp.repeat(jnp.eye(batch, dtype=bool), frames, axis=1)[:, None, :, None, None]  # [B, 1, B T, 1, 1]
    apart = jnp.tile(masks, (1, 1, batch, 1, 1)) & is_own
    targets = (x.reshape(1, -1, *x.shape[2:]) for x in (apart, classes, valid))
    draws = jax.tree.map(lambda x: as_one_clip(x, 2), draws)
    return instance_semantic_loss(as_one_clip(mask_logits, 3), *targets, draws, config)


@contextlib.contextmanager
def clips_pooled() -> Iterator[None]:
    """What is traced inside the block computes `panoptic_loss` with both parts pooled."""
    parts = {"instance_loss": pooled_instance_loss, "semantic_loss": pooled_semantic_loss}
    with mock.patch.multiple(panoptic_module, **parts):
        yield


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
        interpolate_class_ids=True,
        logit_norm_weight=1e-3 if regularized else 0.0,
    )
    draws = recorded_draws(golden)
    predictions = {"mask": golden["pred_mask_logits"]}
    if task in ("instance_seg", "panoptic_seg"):
        predictions["class"] = golden["pred_class_logits"]
        instance_draws = take_instance(draws, num_layers, valid, frames)
    if task == "instance_seg":

        def loss(p):
            return pooled_instance_loss(p["mask"], p["class"], masks, classes, valid, instance_draws, config)

    elif task == "panoptic_seg":
        predictions["semantic"] = golden["pred_semantic_logits"]
        sparse = config.panoptic_semantic == "sparse"
        semantic_draws = take_points(draws, num_layers, (batch, frames)) if sparse else None
        all_draws = PanopticDraws(instance_draws, semantic_draws)
        semantic_map, ignore = golden["gt_semantic"].astype(np.int32), golden["ignore"]

        def loss(p):
            things = p["mask"], p["class"]
            targets = masks, classes, valid, semantic_map, ignore
            with clips_pooled():
                return panoptic_loss(*things, p["semantic"], *targets, all_draws, config)

    elif task == "semantic_seg":
        point_draws = take_points(draws, num_layers, (batch, frames))

        def loss(p):
            return pooled_instance_semantic_loss(p["mask"], masks, classes, valid, point_draws, config)

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
