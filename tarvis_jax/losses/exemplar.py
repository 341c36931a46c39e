"""Exemplar loss (VOS, PET): the masks of given objects and of the background."""

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.masks import mask_terms
from tarvis_jax.losses.points import PointDraws


def exemplar_loss(
    mask_logits: jax.Array,
    masks: jax.Array,
    valid: jax.Array,
    draws: PointDraws,
    config: LossConfig,
    num_targets: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy and dice of each object and of the background, averaged over masks and frames.

    The reference trains on batches in which all clips have the same number of objects; valid masks generalize its mean.

    Args:
      mask_logits: [L, B, 1 + N, T, h, w]; row 0 = background (the maximum over background queries), then the objects
        (each the maximum over its queries).
      masks: bool [B, N, T, H, W].
      valid: bool [B, N].
      draws: random numbers, `points.draw_points`: keys [L] or recorded numbers [L, B, 1 + N, T, ..., 2].
      config: weights and points.
      num_targets: None = the valid objects of this batch; for M accumulated microbatches, those of all of them / M.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "mask_ce", "mask_dice" and "total".
    """
    batch, frames = masks.shape[0], masks.shape[2]
    masks = masks & valid[:, :, None, None, None]
    masks = jnp.concatenate([~masks.any(1, keepdims=True), masks], axis=1)
    counts = jnp.concatenate([jnp.ones((batch, 1), bool), valid], axis=1)[..., None]  # [B, 1 + N, 1]
    if num_targets is None:
        num_targets = valid.sum()
    num_masks = (jnp.asarray(num_targets, jnp.float32) + batch) * frames

    def layer_terms(layer):
        mask_logits, draws = layer
        cross_entropy, dice = mask_terms(mask_logits, masks, draws, config)  # [B, 1 + N, T]
        terms = {
            "mask_ce": jnp.where(counts, cross_entropy, 0).sum() / num_masks,
            "mask_dice": jnp.where(counts, dice, 0).sum() / num_masks,
        }
        terms["total"] = (
            config.exemplar_mask_weight * terms["mask_ce"] + config.exemplar_dice_weight * terms["mask_dice"]
        )
        return terms

    terms = jax.lax.map(layer_terms, (mask_logits, draws))
    return terms["total"].sum(), terms
