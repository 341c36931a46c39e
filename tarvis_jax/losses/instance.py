"""Instance loss: optimal matching of queries and targets, then class, mask and dice terms (VIS; the things of VPS)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.masks import pair_losses
from tarvis_jax.losses.matching import Matching, all_finite, match, matching_costs
from tarvis_jax.losses.points import PointDraws, draw_points, split_keys


class InstanceDraws(NamedTuple):
    """Random numbers of the instance loss; keys or recorded numbers (see `points`).

    Attributes:
      matching: keys [L, B] or [L, B, P, 2].
      masks: keys [L, B] or [L, B, N, T, ..., 2]; slot n belongs to the n-th matched pair in ascending order of query.
    """

    matching: jax.Array
    masks: PointDraws


def draw_instance(keys: jax.Array, num_layers: int) -> InstanceDraws:
    """Draws for one call of `instance_loss` on L = num_layers predictions, from the keys [B] of the clips."""
    matching_keys, masks_keys = split_keys(keys)
    return InstanceDraws(split_keys(matching_keys, num_layers), draw_points(masks_keys, num_layers))


def _class_cross_entropy(
    class_logits: jax.Array, classes: jax.Array, matching: Matching, config: LossConfig
) -> jax.Array:
    """Weighted mean over the queries of each clip: matched ones answer for their class, the others for 0.

    Logits [B, Q, 1 + K] -> float32 [B]. Clips count alike, however many targets they have.
    """
    num_queries = class_logits.shape[1]
    pair_classes = jnp.take_along_axis(classes, matching.targets, axis=-1)  # [B, N]
    is_matched = (matching.queries[..., None] == jnp.arange(num_queries)) & matching.valid[..., None]  # [B, N, Q]
    labels = jnp.where(is_matched, pair_classes[..., None], 0).sum(1)  # [B, Q]
    log_probs = jax.nn.log_softmax(class_logits.astype(jnp.float32), -1)
    losses = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    weights = jnp.where(labels == 0, config.background_class_weight, 1.0)
    total_weights = weights.sum(-1)  # 0 only without targets and without a weight of the background
    return (weights * losses).sum(-1) / jnp.where(total_weights > 0, total_weights, 1.0)


def instance_loss(
    mask_logits: jax.Array,
    class_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    draws: InstanceDraws,
    config: LossConfig,
    targets_per_clip: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Instance loss of all predictions of the decoder.

    The mean over clips of what the reference computes of one clip on one device. The class term is a weighted mean over
    the queries of a clip. Mask and dice terms are summed over the targets and frames of a clip, and divided by the mean
    number of targets of all clips of the step (at least 1) times T.

    Args:
      mask_logits: [L, B, Q, T, h, w], the instance queries.
      class_logits: [L, B, Q, 1 + K], column 0 = background.
      masks: bool [B, N, T, H, W]; any value in padding.
      classes: int32 [B, N], 1..K; 0 in padding.
      valid: bool [B, N].
      draws: random numbers, `draw_instance`.
      config: weights and points.
      targets_per_clip: float32 [], the mean number of valid targets over the clips of the whole step, where this batch
        is but a part of it; None = the mean of this batch.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "mask_ce", "mask_dice", "class_ce" (unweighted) and
      "total" (weighted). NaN if a matching cost is not finite: a bad prediction of an unmatched query is noticed too.

    Raises:
      ValueError: N > Q.
    """
    batch, frames = mask_logits.shape[1], mask_logits.shape[3]
    if targets_per_clip is None:
        targets_per_clip = valid.sum() / batch
    num_masks = batch * jnp.maximum(targets_per_clip, 1) * frames

    costs = matching_costs(mask_logits, class_logits, masks, classes, valid, draws.matching, config)
    matching = match(costs, valid)
    weights = config.mask_weight, config.dice_weight
    mask_losses = pair_losses(mask_logits, masks, *matching, draws.masks, config, weights)  # [L, B, N] each
    masks_total, mask_ce, mask_dice = (x.sum((1, 2)) * frames / num_masks for x in mask_losses)
    class_ce = jax.vmap(_class_cross_entropy, (0, None, 0, None))(class_logits, classes, matching, config).mean(1)
    total = masks_total + config.class_weight * class_ce
    total = total + jnp.where(all_finite(costs, valid), 0.0, jnp.nan)
    terms = {"mask_ce": mask_ce, "mask_dice": mask_dice, "class_ce": class_ce, "total": total}
    return terms["total"].sum(), terms
