"""Video panoptic segmentation: instances of things, and a class for every pixel (paper section 3.2)."""

from collections.abc import Mapping

import jax

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.panoptic import PanopticDraws, draw_panoptic, panoptic_loss
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective, class_objective


def objective(config: Config, dataset: str) -> Objective:
    """What batches of `dataset` are trained on."""
    return class_objective(draw, loss, dataset, config.loss, config.model.decoder_layers + 1)


def draw(keys: jax.Array, num_predictions: int) -> PanopticDraws:
    """The draws of one batch, from the keys [B] of its clips, with L = num_predictions (decoder layers + 1)."""
    return draw_panoptic(keys, num_predictions)


def loss(
    model: TarViS,
    batch: Mapping[str, jax.Array],
    dataset: str,
    draws: PanopticDraws,
    config: LossConfig,
    targets_per_clip: jax.Array | None = None,
    rng_keys: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch: matched instances, and the semantic map outside ignored regions.

    Args:
      model: the network.
      batch: images, masks, classes, valid_instances, semantic_map, ignore_mask (see docs/architecture.md).
      dataset: whose classes the batch has.
      draws: random numbers, see `draw`.
      config: weights and points.
      targets_per_clip: mean number of targets over the clips of the whole step; None = that of this batch.
      rng_keys: keys [B] of stochastic depth, one for each clip; None turns it off.
    Returns:
      (total [], terms: {"panoptic/<term>": [L]}).
    """
    predictions = model.decode(
        model.features(batch["images"], rng_keys),
        model.class_query_set(dataset, batch["images"].shape[0]),
        all_layers=True,
    )
    total, terms = panoptic_loss(
        predictions.mask_logits[:, :, predictions.slice("instance")],
        predictions.class_logits,
        predictions.mask_logits[:, :, predictions.slice("semantic")],
        batch["masks"],
        batch["classes"],
        batch["valid_instances"],
        batch["semantic_map"],
        batch["ignore_mask"],
        draws,
        config,
        targets_per_clip,
    )
    return total, {f"panoptic/{name}": values for name, values in terms.items()}
