"""Video instance segmentation: every object of known classes, found by learned queries (paper section 3.2)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.instance import InstanceDraws, draw_instance, instance_loss
from tarvis_jax.losses.points import PointDraws, draw_points, split_keys
from tarvis_jax.losses.semantic import instance_semantic_loss
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective, class_objective


def objective(config: Config, dataset: str) -> Objective:
    """What batches of `dataset` are trained on."""
    return class_objective(draw, loss, dataset, config.loss, config.model.decoder_layers + 1)


class Draws(NamedTuple):
    """Random numbers of one batch."""

    instance: InstanceDraws
    semantic: PointDraws


def draw(keys: jax.Array, num_predictions: int) -> Draws:
    """The draws of one batch, from the keys [B] of its clips, with L = num_predictions (decoder layers + 1)."""
    instance_keys, semantic_keys = split_keys(keys)
    return Draws(draw_instance(instance_keys, num_predictions), draw_points(semantic_keys, num_predictions))


def loss(
    model: TarViS,
    batch: Mapping[str, jax.Array],
    dataset: str,
    draws: Draws,
    config: LossConfig,
    targets_per_clip: jax.Array | None = None,
    rng_keys: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch: matched instances, and class maps painted from them.

    Args:
      model: the network.
      batch: images, masks, classes, valid_instances (see docs/architecture.md).
      dataset: whose classes the batch has.
      draws: random numbers, see `draw`.
      config: weights and points.
      targets_per_clip: mean number of targets over the clips of the whole step; None = that of this batch.
      rng_keys: keys [B] of stochastic depth, one for each clip; None turns it off.
    Returns:
      (total [], terms: {"instance/<term>", "semantic/<term>": [L]}).
    """
    predictions = model.decode(
        model.features(batch["images"], rng_keys),
        model.class_query_set(dataset, batch["images"].shape[0]),
        all_layers=True,
    )
    targets = batch["masks"], batch["classes"], batch["valid_instances"]
    instance, instance_terms = instance_loss(
        predictions.mask_logits[:, :, predictions.slice("instance")],
        predictions.class_logits,
        *targets,
        draws.instance,
        config,
        targets_per_clip,
    )
    background = predictions.mask_logits[:, :, predictions.slice("background")].max(2, keepdims=True)
    class_maps = jnp.concatenate([background, predictions.mask_logits[:, :, predictions.slice("semantic")]], axis=2)
    semantic, semantic_terms = instance_semantic_loss(class_maps, *targets, draws.semantic, config)
    terms = {f"instance/{name}": values for name, values in instance_terms.items()}
    return instance + semantic, terms | {f"semantic/{name}": values for name, values in semantic_terms.items()}
