"""Semantic loss: softmax over classes in space and time, on uncertain points or on every cell.

VIS trains it on class maps made from the instances, VPS on the dataset's semantic map with ignored regions. Every clip
counts alike: means, absent classes and the worst cells are those of one clip, as in the reference with one clip on each
device, and the loss is the mean over clips.
"""

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import (
    PointDraws,
    sample_channels,
    sample_nearest,
    sample_points,
    top_k,
    uncertain_points,
)

_ABSENT_LOGIT = -1000.0


def instances_to_class_map(masks: jax.Array, classes: jax.Array, valid: jax.Array) -> jax.Array:
    """Paints instances into a class map, smaller ones (pixels over the whole clip) on top.

    Args:
      masks: bool [B, N, T, H, W].
      classes: int32 [B, N], 1..K.
      valid: bool [B, N]; the others are not painted.

    Returns:
      int32 [B, T, H, W], 0 = background. Of two equally large instances the later one is on top.
    """
    num_targets = masks.shape[1]
    masks = masks & valid[:, :, None, None, None]
    areas = masks.sum((2, 3, 4), dtype=jnp.int32)  # [B, N]
    order = jnp.argsort(-areas, axis=-1)  # bottom to top; stable
    layer = jnp.argsort(order, axis=-1)[:, :, None, None, None]  # [B, N, 1, 1, 1]
    top = jnp.where(masks, layer, -1).max(1)  # [B, T, H, W]
    classes_by_layer = jnp.take_along_axis(classes, order, axis=-1)  # [B, N]
    labels = jnp.take_along_axis(
        classes_by_layer, jnp.clip(top, 0, num_targets - 1).reshape(top.shape[0], -1), axis=-1
    ).reshape(top.shape)
    return jnp.where(top >= 0, labels, 0)


def _top2_gap(logits: jax.Array) -> jax.Array:
    """Second largest minus largest of the last axis: <= 0, and near 0 where the class is in doubt."""
    first = jnp.argmax(logits, -1)
    others = jnp.where(jnp.arange(logits.shape[-1]) == first[..., None], -jnp.inf, logits)
    return others.max(-1) - logits.max(-1)


def _classes_last(mask_logits: jax.Array) -> jax.Array:
    """[B, K, T, h, w] -> float32 [B, T, h, w, K]."""
    return jnp.moveaxis(mask_logits, 1, -1).astype(jnp.float32)


def _suppress_absent(logits: jax.Array, labels: jax.Array, keep: jax.Array) -> jax.Array:
    """Logits [B, T, P, K] with classes that are neither labeled nor predicted anywhere in the clip at -1000."""
    class_ids = jnp.arange(logits.shape[-1])
    labeled = ((labels[..., None] == class_ids) & keep[..., None]).any((1, 2), keepdims=True)
    predicted = (jnp.argmax(logits, -1)[..., None] == class_ids).any((1, 2), keepdims=True)
    return jnp.where(labeled | predicted, logits, _ABSENT_LOGIT)


def _point_terms(
    mask_logits: jax.Array,
    points_xy: jax.Array,
    labels: jax.Array,
    keep: jax.Array,
    weight: float,
    config: LossConfig,
) -> dict[str, jax.Array]:
    """Terms of one layer: logits [B, K, T, h, w], points [B, T, P, 2], labels int32 and keep bool [B, T, P]."""
    logits = sample_channels(_classes_last(mask_logits), points_xy)  # [B, T, P, K]
    if config.suppress_absent_classes:
        logits = _suppress_absent(logits, labels, keep)
    log_probs = jax.nn.log_softmax(logits, -1)
    losses = -jnp.take_along_axis(log_probs, jnp.where(keep, labels, 0)[..., None], axis=-1)[..., 0]
    # Differs from the reference: a clip whose points are all ignored costs 0, not NaN.
    of_clips = jnp.where(keep, losses, 0).sum((1, 2)) / jnp.maximum(keep.sum((1, 2)), 1)
    terms = {"ce": of_clips.mean()}
    terms["total"] = weight * terms["ce"]
    if config.logit_norm_weight:
        squares = (logits**2).sum(-1)
        norms = jnp.sqrt(jnp.where(squares > 0, squares, 1.0))  # no infinite slope at zero
        terms["logit_norm"] = jnp.where(squares > 0, norms, 0.0).mean()
        terms["total"] = terms["total"] + config.logit_norm_weight * terms["logit_norm"]
    return terms


@jax.named_scope("semantic_loss")
def instance_semantic_loss(
    mask_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    draws: PointDraws,
    config: LossConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Semantic loss of VIS on the class maps of `instances_to_class_map`.

    Args:
      mask_logits: [L, B, 1 + K, T, h, w]; row 0 = background (the maximum over background queries), then the classes.
      masks, classes, valid: padded targets, as in `instance_loss`.
      draws: random numbers, `draw_points`: keys [L, B] or recorded numbers [L, B, T, ..., 2].
      config: weights and points.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "ce", "logit_norm" (if it is on) and "total".
    """
    _, batch, _, frames, _, _ = mask_logits.shape
    class_map = instances_to_class_map(masks, classes, valid)

    def layer_terms(layer):
        mask_logits, draws = layer
        logits_last = _classes_last(jax.lax.stop_gradient(mask_logits))

        def uncertainty(points_xy):
            return _top2_gap(sample_channels(logits_last, points_xy))

        points_xy = uncertain_points(uncertainty, (batch, frames), config.num_points, draws, config)
        if config.interpolate_class_ids:
            labels = sample_points(class_map, points_xy).astype(jnp.int32)
        else:
            labels = sample_nearest(class_map, points_xy)
        keep = jnp.ones(labels.shape, bool)
        terms = jax.checkpoint(_point_terms, static_argnums=(4, 5))
        return terms(mask_logits, points_xy, labels, keep, config.instance_semantic_weight, config)

    terms = jax.lax.map(layer_terms, (mask_logits, draws))
    return terms["total"].sum(), terms


def _sparse_terms(mask_logits, draws, semantic_map, ignore_mask, ignore_cells, config):
    """One layer of the panoptic semantic loss on uncertain points; candidates that touch an ignored cell come last."""
    batch, num_classes, frames, _, _ = mask_logits.shape
    logits_last = _classes_last(jax.lax.stop_gradient(mask_logits))

    def uncertainty(points_xy):
        is_ignored = sample_points(ignore_cells, points_xy) > 0
        return jnp.where(is_ignored, -1e3, _top2_gap(sample_channels(logits_last, points_xy)))

    points_xy = uncertain_points(uncertainty, (batch, frames), config.num_points_semantic, draws, config)
    labels = jnp.clip(sample_nearest(semantic_map, points_xy), 0, num_classes - 1)
    keep = ~sample_nearest(ignore_mask, points_xy)
    terms = jax.checkpoint(_point_terms, static_argnums=(4, 5))
    return terms(mask_logits, points_xy, labels, keep, config.panoptic_semantic_weight, config)


def _dense_terms(mask_logits, semantic_map, ignore_mask, config):
    """One layer on every cell or pixel: the mean of a clip's worst `bootstrap_ratio`; ignored ones count as 0."""
    if config.panoptic_semantic == "dense_full_res":
        shape = (*mask_logits.shape[:-2], *semantic_map.shape[-2:])
        mask_logits = jax.image.resize(mask_logits, shape, "bilinear", antialias=False)
    log_probs = jax.nn.log_softmax(mask_logits.astype(jnp.float32), 1)
    labels = jnp.where(ignore_mask, 0, jnp.clip(semantic_map, 0, mask_logits.shape[1] - 1))
    losses = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    losses = jnp.where(ignore_mask, 0, losses).reshape(len(losses), -1)
    worst = top_k(losses, round(config.bootstrap_ratio * losses.shape[1]))[0]
    return {"ce": worst.mean(), "total": config.panoptic_semantic_weight * worst.mean()}


@jax.named_scope("semantic_loss")
def semantic_loss(
    mask_logits: jax.Array,
    semantic_map: jax.Array,
    ignore_mask: jax.Array,
    draws: PointDraws | None,
    config: LossConfig,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Semantic loss of VPS.

    Args:
      mask_logits: [L, B, K, T, h, w], K >= 2 classes.
      semantic_map: int32 [B, T, H, W], 0..K-1; any value where ignored. H and W are 4 times h and w.
      ignore_mask: bool [B, T, H, W].
      draws: of the sparse loss (`draw_points`: keys [L, B] or recorded numbers [L, B, T, ..., 2]); None when dense.
      config: `panoptic_semantic` says which of the three forms.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "ce", "logit_norm" (sparse, if it is on) and "total".

    Raises:
      ValueError: fewer than two classes, a map that is not at 4 times the resolution, or no draws for the sparse loss.
    """
    num_classes, height, width = mask_logits.shape[2], *mask_logits.shape[-2:]
    if num_classes < 2:
        raise ValueError(f"semantic loss: expected at least 2 classes, found logits of shape {mask_logits.shape}")
    if semantic_map.shape[-2:] != (4 * height, 4 * width):
        raise ValueError(f"semantic loss: expected a map of {4 * height}x{4 * width}, found {semantic_map.shape}")
    if config.panoptic_semantic == "sparse":
        if draws is None:
            raise ValueError("semantic loss: the sparse form needs draws, found None")
        # an ignored cell: more than half of its four central pixels (what a bilinear resize by 1/4 looks at)
        center = ignore_mask.reshape(*ignore_mask.shape[:-2], height, 4, width, 4)[..., 1:3, :, 1:3]
        ignore_cells = center.sum((-3, -1)) > 2

        def layer_terms(layer):
            return _sparse_terms(*layer, semantic_map, ignore_mask, ignore_cells, config)

        terms = jax.lax.map(layer_terms, (mask_logits, draws))
    else:
        if config.panoptic_semantic == "dense":
            semantic_map, ignore_mask = semantic_map[..., 2::4, 2::4], ignore_mask[..., 2::4, 2::4]
        terms = jax.lax.map(lambda layer: _dense_terms(layer, semantic_map, ignore_mask, config), mask_logits)
    return terms["total"].sum(), terms
