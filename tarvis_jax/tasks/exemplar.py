"""Targets given by example: masks (VOS) or points (PET) in a reference frame (paper section 3.3)."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.exemplar import exemplar_loss
from tarvis_jax.losses.points import PointDraws, draw_points
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective, mean_num_targets


def objective(config: Config, dataset: str) -> Objective:
    """What batches of `dataset` are trained on: the same for all exemplar datasets, since they have no classes."""
    del dataset
    return _objective(config.loss, config.model.decoder_layers + 1, config.train.exemplar_point_probability)


@functools.cache  # equal objectives are one object and share programs
def _objective(loss_config: LossConfig, num_predictions: int, point_probability: float) -> Objective:
    def loss_of_microbatch(model, batch, draw_key, model_key, num_targets):
        draws = draw(draw_key, num_predictions, batch["valid_instances"].shape[1], point_probability)
        return loss(model, batch, draws, loss_config, num_targets, model_key)

    return Objective(loss_of_microbatch, mean_num_targets)


class Draws(NamedTuple):
    """Random numbers of one batch.

    Attributes:
      num_points: int32 []: the last so many objects of every clip are given by a point, the others by their mask.
      points: of the mask losses.
    """

    num_points: jax.Array
    points: PointDraws


def draw(key: jax.Array, num_predictions: int, num_objects: int, point_probability: float) -> Draws:
    """The draws of one batch.

    Args:
      key: random key.
      num_predictions: L (decoder layers + 1).
      num_objects: N, object slots of the batch.
      point_probability: with which each object is a point object.
    """
    kind_key, points_key = jax.random.split(key)
    num_points = jax.random.bernoulli(kind_key, point_probability, (num_objects,)).sum(dtype=jnp.int32)
    return Draws(num_points, draw_points(points_key, num_predictions))


def are_points(valid: jax.Array, num_points: jax.Array) -> jax.Array:
    """bool [B, N]: the last `num_points` valid objects of each clip; valid is bool [B, N]."""
    valid_after = jnp.cumsum(valid[:, ::-1], axis=1)[:, ::-1]  # valid objects from this one on
    return valid & (valid_after <= num_points)


def loss(
    model: TarViS,
    batch: Mapping[str, jax.Array],
    draws: Draws,
    config: LossConfig,
    num_targets: jax.Array | None = None,
    rng: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch: the masks of the given objects and of the background.

    An object's logit is the maximum over its queries, the background's the maximum over the background queries.

    Args:
      model: the network.
      batch: images, masks, valid_instances, reference_frame, points_yx (see docs/architecture.md).
      draws: random numbers, see `draw`.
      config: weights and points.
      num_targets: what sums over targets are divided by; None = the valid targets of this batch.
      rng: random key of stochastic depth; None turns it off.
    Returns:
      (total [], terms: {"exemplar/<term>": [L]}).
    """
    masks, valid = batch["masks"], batch["valid_instances"]
    pyramid = model.features(batch["images"], rng)
    clips = jnp.arange(valid.shape[0])
    frames = batch["reference_frame"]
    reference = {stride: features[clips, frames][:, None] for stride, features in pyramid.items()}  # [B, 1, h, w, C]
    objects = model.encode_objects(
        reference,
        masks=masks[clips, :, frames][:, :, None],  # [B, N, 1, H, W]
        points_yx=batch["points_yx"],
        is_point=are_points(valid, draws.num_points),
        valid_objects=valid,
    )
    predictions = model.decode(pyramid, model.exemplar_query_set(objects), all_layers=True)
    logits = predictions.mask_logits
    background = logits[:, :, predictions.slice("background_vos")].max(2, keepdims=True)
    of_objects = logits[:, :, predictions.slice("vos")]
    num_layers, batch_size, _, *volume = of_objects.shape
    of_objects = of_objects.reshape(num_layers, batch_size, valid.shape[1], -1, *volume).max(3)
    total, terms = exemplar_loss(
        jnp.concatenate([background, of_objects], axis=2), masks, valid, draws.points, config, num_targets
    )
    return total, {f"exemplar/{name}": values for name, values in terms.items()}
