"""Instance loss: optimal matching of queries and targets, then class, mask and dice terms (VIS; the things of VPS)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.masks import mask_terms
from tarvis_jax.losses.matching import Matching, all_finite, match, matching_costs
from tarvis_jax.losses.points import PointDraws, draw_points


class InstanceDraws(NamedTuple):
    """Random numbers of the instance loss; keys or recorded numbers (see `points`).

    Attributes:
      matching: keys [L] or [L, B, P, 2].
      masks: keys [L] or [L, B, N, T, ..., 2]; slot n belongs to the n-th matched pair in ascending order of query.
    """

    matching: jax.Array
    masks: PointDraws


def draw_instance(key: jax.Array, num_layers: int) -> InstanceDraws:
    """Draws for one call of `instance_loss` on L = num_layers predictions."""
    matching_key, masks_key = jax.random.split(key)
    return InstanceDraws(jax.random.split(matching_key, num_layers), draw_points(masks_key, num_layers))


def _class_cross_entropy(
    class_logits: jax.Array, classes: jax.Array, matching: Matching, num_targets: jax.Array, config: LossConfig
) -> jax.Array:
    """Weighted cross-entropy of [B, Q, 1 + K] logits: matched queries answer for their class, the others for 0."""
    batch, num_queries, _ = class_logits.shape
    pair_classes = jnp.take_along_axis(classes, matching.targets, axis=-1)  # [B, N]
    is_matched = (matching.queries[..., None] == jnp.arange(num_queries)) & matching.valid[..., None]  # [B, N, Q]
    labels = jnp.where(is_matched, pair_classes[..., None], 0).sum(1)  # [B, Q]
    log_probs = jax.nn.log_softmax(class_logits.astype(jnp.float32), -1)
    losses = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    weights = jnp.where(labels == 0, config.background_class_weight, 1.0)
    # the sum of the weights follows from the number of targets, whatever the matching
    normalizer = num_targets + config.background_class_weight * (batch * num_queries - num_targets)
    return (weights * losses).sum() / normalizer


def instance_loss(
    mask_logits: jax.Array,
    class_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    draws: InstanceDraws,
    config: LossConfig,
    num_targets: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Instance loss of all predictions of the decoder.

    Mask and dice terms are summed over targets and frames and divided by the number of targets times T. The reference
    divides by the mean number over devices and averages the gradients over devices; together that is the global sum
    divided by the global number, which is what a plain sum gives under jit with a sharded batch.

    Args:
      mask_logits: [L, B, Q, T, h, w], the instance queries.
      class_logits: [L, B, Q, 1 + K], column 0 = background.
      masks: bool [B, N, T, H, W]; any value in padding.
      classes: int32 [B, N], 1..K; 0 in padding.
      valid: bool [B, N].
      draws: random numbers, `draw_instance`.
      config: weights and points.
      num_targets: None = the valid targets of this batch. When a step accumulates the mean of M microbatches: the valid
        targets of all of them / M, and the accumulated loss is exactly that of the whole batch.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "mask_ce", "mask_dice", "class_ce" (unweighted) and
      "total" (weighted). NaN if a matching cost is not finite: a bad prediction of an unmatched query is noticed too.

    Raises:
      ValueError: N > Q.
    """
    frames = mask_logits.shape[3]
    if num_targets is None:
        num_targets = valid.sum()
    num_targets = jnp.asarray(num_targets, jnp.float32)
    num_masks = jnp.maximum(num_targets, 1) * frames

    costs = matching_costs(mask_logits, class_logits, masks, classes, draws.matching, config)
    matchings = match(costs, valid)  # all layers at once: the search is sequential, its width is free

    def layer_terms(layer):
        mask_logits, class_logits, costs, matching, draws = layer
        matched_logits = jnp.take_along_axis(mask_logits, matching.queries[:, :, None, None, None], axis=1)
        matched_masks = jnp.take_along_axis(masks, matching.targets[:, :, None, None, None], axis=1)
        cross_entropy, dice = mask_terms(matched_logits, matched_masks, draws, config)  # [B, N, T]
        is_pair = matching.valid[..., None]
        terms = {
            "mask_ce": jnp.where(is_pair, cross_entropy, 0).sum() / num_masks,
            "mask_dice": jnp.where(is_pair, dice, 0).sum() / num_masks,
            "class_ce": _class_cross_entropy(class_logits, classes, matching, num_targets, config),
        }
        total = (
            config.mask_weight * terms["mask_ce"]
            + config.dice_weight * terms["mask_dice"]
            + config.class_weight * terms["class_ce"]
        )
        terms["total"] = total + jnp.where(all_finite(costs, valid), 0.0, jnp.nan)
        return terms

    terms = jax.lax.map(layer_terms, (mask_logits, class_logits, costs, matchings, draws.masks))
    return terms["total"].sum(), terms
