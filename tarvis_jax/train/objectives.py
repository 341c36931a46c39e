"""Which objective a dataset's batches are trained on."""

import functools

from tarvis_jax.datasets import EXEMPLAR, INSTANCE, PANOPTIC
from tarvis_jax.losses.config import LossConfig
from tarvis_jax.tasks import exemplar, instance, panoptic
from tarvis_jax.train.step import Batch, Objective


@functools.cache  # equal objectives are one object and share programs
def make_objective(
    task: str, dataset: str, loss_config: LossConfig, num_predictions: int, point_probability: float
) -> Objective:
    """The objective of a dataset.

    Args:
      task: one of `datasets.TASKS`.
      dataset: whose classes the batches have.
      loss_config: weights and points.
      num_predictions: L, decoder layers + 1.
      point_probability: exemplar only: with which an object is given by a point.
    """
    if task == EXEMPLAR and dataset:
        # No classes: one objective for all exemplar datasets.
        return make_objective(task, "", loss_config, num_predictions, point_probability)
    module = {INSTANCE: instance, PANOPTIC: panoptic, EXEMPLAR: exemplar}[task]

    def loss(model, batch, draw_key, model_key, num_targets):
        draw = module.draw
        if task == EXEMPLAR:
            num_objects = batch["valid_instances"].shape[1]
            draw = functools.partial(draw, num_objects=num_objects, point_probability=point_probability)
        return module.loss(model, batch, dataset, draw(draw_key, num_predictions), loss_config, num_targets, model_key)

    return Objective(loss=loss, statistics=_mean_num_targets)


def _mean_num_targets(batch: Batch):
    """Valid targets of the whole batch over its number of microbatches, for batch [A, B / A, ...]."""
    valid = batch["valid_instances"]
    return valid.sum() / valid.shape[0]
