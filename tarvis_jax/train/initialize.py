"""Weights to start training from: another run, or a checkpoint of the reference."""

import pathlib
from collections.abc import Mapping

import numpy as np

from tarvis_jax.config import from_mapping
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.train.checkpoint import Checkpoints
from tarvis_jax.train.state import ModelStructure, TrainState

SEMANTIC_TABLE = "queries/semantic"

# The 19 classes of KITTI-STEP and Cityscapes-VPS among the 34 of Cityscapes (their official ids).
CITYSCAPES_EVALUATED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
STARTS_FROM_CITYSCAPES = ("CITYSCAPES_VPS", "KITTI_STEP")

Weights = dict[str, np.ndarray]


def load_weights(source: pathlib.Path | str) -> tuple[ModelConfig, Weights, Weights]:
    """(architecture, params, frozen) of a run's workdir or of a reference checkpoint (.pth, config.yaml beside it)."""
    if str(source).endswith(".pth"):
        from tarvis_jax.convert.checkpoint import load_reference_checkpoint  # needs torch

        model_config, variables = load_reference_checkpoint(source)
        params = {name: variables[name] for name in ModelStructure(model_config).params}
        return model_config, params, {name: value for name, value in variables.items() if name not in params}
    checkpoints = Checkpoints(source)
    model_config = from_mapping(ModelConfig, checkpoints.restore_config()["model"], f"{source}: model")
    params, frozen = checkpoints.restore_weights()
    checkpoints.close()
    return model_config, params, frozen


def load_initial_weights(
    source: pathlib.Path | str, model_config: ModelConfig, state: TrainState
) -> tuple[Weights, Weights]:
    """(params, frozen) for a model of `model_config`, whose datasets may differ from those the source was trained on.

    Class queries: kept for datasets that both have; taken from Cityscapes for the two driving datasets (its classes
    contain theirs); drawn from the seed (those of `state`) for all others.
    """
    source_config, params, frozen = load_weights(source)
    params = dict(params)
    if source_config.semantic_classes != model_config.semantic_classes:
        params[SEMANTIC_TABLE] = transfer_class_queries(
            np.asarray(params[SEMANTIC_TABLE]),
            dict(source_config.semantic_classes),
            np.array(state.params[SEMANTIC_TABLE]),
            dict(model_config.semantic_classes),
        )
    return params, frozen


def transfer_class_queries(
    old: np.ndarray, old_classes: Mapping[str, int], new: np.ndarray, new_classes: Mapping[str, int]
) -> np.ndarray:
    """The table of class queries for other datasets.

    Args:
      old: [1 + sum of old K, C], row 0 the shared embedding, then the datasets alphabetically.
      old_classes: dataset -> K of the old table.
      new: [1 + sum of new K, C], what rows hold that nothing is known for.
      new_classes: dataset -> K of the new table.
    """
    old_rows, new_rows = _rows(old_classes), _rows(new_classes)
    result = new.copy()
    result[0] = old[0]
    for name, rows in new_rows.items():
        if name in old_rows and old_classes[name] == new_classes[name]:
            result[rows] = old[old_rows[name]]
        elif name in STARTS_FROM_CITYSCAPES and "CITYSCAPES" in old_rows:
            result[rows] = old[old_rows["CITYSCAPES"]][list(CITYSCAPES_EVALUATED)]
    return result


def _rows(classes: Mapping[str, int]) -> dict[str, slice]:
    rows, start = {}, 1
    for name in sorted(classes):
        rows[name] = slice(start, start + classes[name])
        start += classes[name]
    return rows
