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
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy and dice of each object and of the background: the mean over the masks and frames of each clip.

    Clips count alike, whatever their number of objects, as in the reference with one clip on each device.

    Args:
      mask_logits: [L, B, 1 + N, T, h, w]; row 0 = background (the maximum over background queries), then the objects
        (each the maximum over its queries).
      masks: bool [B, N, T, H, W].
      valid: bool [B, N].
      draws: random numbers, `points.draw_points`: keys [L, B] or recorded numbers [L, B, 1 + N, T, ..., 2].
      config: weights and points.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "mask_ce", "mask_dice" and "total".
    """
    batch, frames = masks.shape[0], masks.shape[2]
    masks = masks & valid[:, :, None, None, None]
    masks = jnp.concatenate([~masks.any(1, keepdims=True), masks], axis=1)
    counts = jnp.concatenate([jnp.ones((batch, 1), bool), valid], axis=1)[..., None]  # [B, 1 + N, 1]
    weights = counts / (batch * frames * counts.sum(1, keepdims=True))  # of each mask in each frame; their sum is 1

    def layer_terms(layer):
        mask_logits, draws = layer
        cross_entropy, dice = mask_terms(mask_logits, masks, draws, config)  # [B, 1 + N, T]
        terms = {
            "mask_ce": (weights * jnp.where(counts, cross_entropy, 0)).sum(),
            "mask_dice": (weights * jnp.where(counts, dice, 0)).sum(),
        }
        terms["total"] = (
            config.exemplar_mask_weight * terms["mask_ce"] + config.exemplar_dice_weight * terms["mask_dice"]
        )
        return terms

    terms = jax.lax.map(layer_terms, (mask_logits, draws))
    return terms["total"].sum(), terms
