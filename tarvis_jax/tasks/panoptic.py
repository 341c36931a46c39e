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


def draw(key: jax.Array, num_predictions: int) -> PanopticDraws:
    """The draws of one batch with L = num_predictions (decoder layers + 1)."""
    return draw_panoptic(key, num_predictions)


def loss(
    model: TarViS,
    batch: Mapping[str, jax.Array],
    dataset: str,
    draws: PanopticDraws,
    config: LossConfig,
    num_targets: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch: matched instances, and the semantic map outside ignored regions.

    Args:
      model: the network.
      batch: images, masks, classes, valid_instances, semantic_map, ignore_mask (see docs/architecture.md).
      dataset: whose classes the batch has.
      draws: random numbers, see `draw`.
      config: weights and points.
      num_targets: what sums over targets are divided by; None = the valid targets of this batch.
      rng: random key of stochastic depth; None turns it off.
    Returns:
      (total [], terms: {"panoptic/<term>": [L]}).
    """
    predictions = model.decode(
        model.features(batch["images"], rng), model.class_query_set(dataset, batch["images"].shape[0]), all_layers=True
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
        num_targets,
    )
    return total, {f"panoptic/{name}": values for name, values in terms.items()}
