"""Exemplar loss (VOS, PET): the masks of given objects and of the background."""

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.masks import pair_losses
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
    masks = masks & valid[:, :, None, None, None]
    masks = jnp.concatenate([~masks.any(1, keepdims=True), masks], axis=1)
    counts = jnp.concatenate([jnp.ones((len(valid), 1), bool), valid], axis=1)  # [B, 1 + N]
    shape = len(mask_logits), *counts.shape
    slots = jnp.broadcast_to(jnp.arange(shape[-1]), shape)  # each query answers for the target of its own slot
    weights = config.exemplar_mask_weight, config.exemplar_dice_weight
    losses = pair_losses(mask_logits, masks, slots, slots, jnp.broadcast_to(counts, shape), draws, config, weights)
    total, mask_ce, mask_dice = ((x.sum(2) / counts.sum(1)).mean(1) for x in losses)
    terms = {"mask_ce": mask_ce, "mask_dice": mask_dice, "total": total}
    return terms["total"].sum(), terms
