"""Targets given by example: masks (VOS) or points (PET) in a reference frame (paper section 3.3)."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.exemplar import exemplar_loss
from tarvis_jax.losses.points import PointDraws, draw_points, split_keys, uniform
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective


def objective(config: Config, dataset: str) -> Objective:
    """What batches of `dataset` are trained on: the same for all exemplar datasets, since they have no classes."""
    del dataset
    return _objective(config.loss, config.model.decoder_layers + 1, config.train.exemplar_point_probability)


@functools.cache  # equal objectives are one object and share programs
def _objective(loss_config: LossConfig, num_predictions: int, point_probability: float) -> Objective:
    def loss_of_microbatch(model, batch, loss_keys, model_keys, statistics):
        del statistics
        draws = draw(loss_keys, num_predictions, batch["valid_instances"].shape[1], point_probability)
        return loss(model, batch, draws, loss_config, model_keys)

    return Objective(loss_of_microbatch, statistics=lambda batch: ())  # every clip is normalized by itself


class Draws(NamedTuple):
    """Random numbers of one batch.

    Attributes:
      is_point: bool [B, N], which objects are given by a point; the others are given by their mask.
      points: of the mask losses.
    """

    is_point: jax.Array
    points: PointDraws


def draw(keys: jax.Array, num_predictions: int, num_objects: int, point_probability: float) -> Draws:
    """The draws of one batch.

    Differs from the reference, which draws how many objects of a clip are points, and takes the last ones.

    Args:
      keys: random keys [B] of the clips.
      num_predictions: L (decoder layers + 1).
      num_objects: N, object slots of the batch.
      point_probability: with which each object is a point object, whatever the others are.
    """
    kind_keys, points_keys = split_keys(keys)
    is_point = uniform(kind_keys, (keys.shape[0], num_objects)) < point_probability
    return Draws(is_point, draw_points(points_keys, num_predictions))


def loss(
    model: TarViS,
    batch: Mapping[str, jax.Array],
    draws: Draws,
    config: LossConfig,
    rng_keys: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch: the masks of the given objects and of the background.

    An object's logit is the maximum over its queries, the background's the maximum over the background queries.

    Args:
      model: the network.
      batch: images, masks, valid_instances, reference_frame, points_yx (see docs/architecture.md).
      draws: random numbers, see `draw`.
      config: weights and points.
      rng_keys: keys [B] of stochastic depth, one for each clip; None turns it off.
    Returns:
      (total [], terms: {"exemplar/<term>": [L]}).
    """
    masks, valid = batch["masks"], batch["valid_instances"]
    pyramid = model.features(batch["images"], rng_keys)
    clips = jnp.arange(valid.shape[0])
    frames = batch["reference_frame"]
    reference = {stride: features[clips, frames][:, None] for stride, features in pyramid.items()}  # [B, 1, h, w, C]
    objects = model.encode_objects(
        reference,
        masks=masks[clips, :, frames][:, :, None],  # [B, N, 1, H, W]
        points_yx=batch["points_yx"],
        is_point=draws.is_point,
        valid_objects=valid,
    )
    predictions = model.decode(pyramid, model.exemplar_query_set(objects), all_layers=True)
    logits = predictions.mask_logits
    background = logits[:, :, predictions.slice("background_vos")].max(2, keepdims=True)
    of_objects = logits[:, :, predictions.slice("vos")]
    num_layers, batch_size, _, *volume = of_objects.shape
    of_objects = of_objects.reshape(num_layers, batch_size, valid.shape[1], -1, *volume).max(3)
    total, terms = exemplar_loss(jnp.concatenate([background, of_objects], axis=2), masks, valid, draws.points, config)
    return total, {f"exemplar/{name}": values for name, values in terms.items()}
