"""Binary cross-entropy and dice of binary masks on uncertain points."""

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import PointDraws, sample_points, uncertain_points


def sigmoid_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the last axis of the binary cross-entropy; logits and labels (0..1) float32 [..., P]."""
    return (jax.nn.softplus(logits) - logits * labels).mean(-1)


def dice(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """1 - soft dice coefficient over the last axis, smoothed by 1 in numerator and denominator (V-Net; Mask2Former)."""
    probs = jax.nn.sigmoid(logits)
    return 1 - (2 * (probs * labels).sum(-1) + 1) / (probs.sum(-1) + labels.sum(-1) + 1)


def mask_terms(
    mask_logits: jax.Array, masks: jax.Array, draws: PointDraws, config: LossConfig
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and dice of each mask on its own uncertain points.

    Args:
      mask_logits: [*batch, h, w].
      masks: bool [*batch, H, W], pixel resolution.
      draws: draws of this call, for `num_points` points per mask.
      config: number of points and their choice.

    Returns:
      (cross-entropy, dice), float32 [*batch] each.
    """
    mask_logits = mask_logits.astype(jnp.float32)
    batch_shape = mask_logits.shape[:-2]

    def uncertainty(points_xy):  # close to the decision threshold = uncertain
        return -jnp.abs(sample_points(jax.lax.stop_gradient(mask_logits), points_xy))

    points_xy = uncertain_points(uncertainty, batch_shape, config.num_points, draws, config)
    labels = sample_points(masks, points_xy)
    logits = sample_points(mask_logits, points_xy)
    return sigmoid_cross_entropy(logits, labels), dice(logits, labels)
