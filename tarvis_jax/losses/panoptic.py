"""Panoptic loss (VPS): the instance loss for things plus the semantic loss for all classes."""

from typing import NamedTuple

import jax

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.instance import InstanceDraws, draw_instance, instance_loss
from tarvis_jax.losses.points import PointDraws, draw_points, split_keys
from tarvis_jax.losses.semantic import semantic_loss


class PanopticDraws(NamedTuple):
    """Random numbers of both parts; `semantic` is None for the dense forms."""

    instance: InstanceDraws
    semantic: PointDraws | None


def draw_panoptic(keys: jax.Array, num_layers: int) -> PanopticDraws:
    """Draws for one call of `panoptic_loss` on L = num_layers predictions, from the keys [B] of the clips."""
    instance_keys, semantic_keys = split_keys(keys)
    return PanopticDraws(draw_instance(instance_keys, num_layers), draw_points(semantic_keys, num_layers))


def panoptic_loss(
    mask_logits: jax.Array,
    class_logits: jax.Array,
    semantic_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    semantic_map: jax.Array,
    ignore_mask: jax.Array,
    draws: PanopticDraws,
    config: LossConfig,
    targets_per_clip: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Sum of `instance_loss` (things) and `semantic_loss` (all classes); arguments as there.

    Returns:
      (scalar, terms): the sum over layers, and float32 [L] for "instance_<term>", "semantic_<term>" and "total".
    """
    instance, instance_terms = instance_loss(
        mask_logits, class_logits, masks, classes, valid, draws.instance, config, targets_per_clip
    )
    semantic, semantic_terms = semantic_loss(semantic_logits, semantic_map, ignore_mask, draws.semantic, config)
    terms = {f"instance_{name}": term for name, term in instance_terms.items()}
    terms |= {f"semantic_{name}": term for name, term in semantic_terms.items()}
    terms["total"] = instance_terms["total"] + semantic_terms["total"]
    return instance + semantic, terms
