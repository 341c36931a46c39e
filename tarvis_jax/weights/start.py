"""Weights to start training from: another run, a checkpoint of the reference, or a backbone of another project."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tarvis_jax.datasets import DATASETS
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.weights.deferred import Deferred
from tarvis_jax.weights.open import OpenedBackbone, OpenedModel, open_weights
from tarvis_jax.weights.report import Report, entry, fits

Weights = dict[str, np.ndarray]


def load_initial_weights(
    source: pathlib.Path | str,
    model_config: ModelConfig,
    params: Mapping[str, Any],
    frozen: Mapping[str, Any],
    *,
    new: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> tuple[Weights, Weights, Report]:
    """(params, frozen, report) for a model of `model_config`, whose datasets may differ from those of the source.

    Class queries: kept for datasets that both have; taken from the dataset that the table of datasets names for the
    purpose (`class_origin`: Cityscapes, whose classes contain those of the two driving datasets); drawn from the seed
    (those of `params`) for all others.

    Args:
      source: what `open_weights` takes. With a backbone of another project, all the rest starts from the seed.
      model_config: of the model to start.
      params, frozen: its values as drawn from the seed.
      new: shell patterns (`*`) of our variables that may start from the seed although the source is a whole model, or
        that a backbone file may lack. One of another shape in the source starts from the seed, too.
      leave_out: shell patterns of the source's tensors that are not used: names in the file for a backbone of another
        project, else ours.

    Raises:
      ValueError: the source cannot be read; or tensors do not fit and no pattern names them (all in one message).
    """
    initial = {**params, **frozen}
    opened = open_weights(source, model_config.backbone, new=new, leave_out=leave_out)
    if isinstance(opened, OpenedBackbone):
        others = tuple(entry(name, v) for name, v in initial.items() if not name.startswith("backbone/"))
        report = dataclasses.replace(opened.report, new=(*opened.report.new, *others))
        variables = {**initial, **opened.variables}
    else:
        variables, report = _whole_model(opened, model_config, initial, new, leave_out)
    variables = {name: np.asarray(v) if isinstance(v, Deferred) else v for name, v in variables.items()}
    return {name: variables[name] for name in params}, {name: variables[name] for name in frozen}, report


def _whole_model(
    opened: OpenedModel,
    model_config: ModelConfig,
    initial: Mapping[str, Any],
    new: Sequence[str],
    leave_out: Sequence[str],
) -> tuple[dict[str, Any], Report]:
    """The variables, from a whole model, and what became of each."""
    source_config, found = opened.config, dict(opened.variables)
    notes = ()
    if source_config.semantic_classes != model_config.semantic_classes and not fits(SEMANTIC_TABLE, leave_out):
        old_classes, new_classes = dict(source_config.semantic_classes), dict(model_config.semantic_classes)
        old, table = np.asarray(found[SEMANTIC_TABLE]), np.array(initial[SEMANTIC_TABLE])
        if old.shape[1] == table.shape[1]:
            found[SEMANTIC_TABLE] = transfer_class_queries(old, old_classes, table, new_classes)
            origins = [
                f"{name} from {_origin(name, old_classes, new_classes) or 'the seed'}" for name in sorted(new_classes)
            ]
            notes = (f"{SEMANTIC_TABLE}: {', '.join(origins) or 'no classes'}",)
    variables, loaded, fresh, left_out, problems = {}, [], [], [], []
    for name, value in found.items():
        if fits(name, leave_out):
            left_out.append(entry(name, value))
        elif name not in initial:
            problems.append(f"{name} {list(value.shape)}: not part of this model")
        elif tuple(value.shape) == tuple(initial[name].shape):
            variables[name] = value
            loaded.append(entry(name, value))
        elif fits(name, new):
            left_out.append(entry(name, value))
        else:
            problems.append(f"{name}: expected shape {list(initial[name].shape)}, found {list(value.shape)}")
    for name, value in initial.items():
        if name in variables:
            continue
        if fits(name, new):
            variables[name] = value
            fresh.append(entry(name, value))
        elif name not in found or fits(name, leave_out):
            problems.append(f"{name} {list(value.shape)}: missing")
    if problems:
        raise ValueError(
            f"{opened.path}: the weights do not fit the model (train.init_new and train.init_leave_out take patterns "
            "of what may stay new or be left out):\n  " + "\n  ".join(problems)
        )
    return variables, Report(str(opened.path), tuple(loaded), tuple(fresh), tuple(left_out), notes)


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
    old_rows, new_rows = (
        {name: slice(*rows) for name, rows in semantic_rows(tuple(classes.items())).items()}
        for classes in (old_classes, new_classes)
    )
    result = new.copy()
    result[0] = old[0]
    for name, rows in new_rows.items():
        origin = _origin(name, old_classes, new_classes)
        if origin == name:
            result[rows] = old[old_rows[name]]
        elif origin is not None:
            result[rows] = old[old_rows[origin]][list(DATASETS[name].class_origin.classes)]
    return result


def _origin(name: str, old_classes: Mapping[str, int], new_classes: Mapping[str, int]) -> str | None:
    """The dataset of the old table that the queries of dataset `name` start from; None: they are new."""
    if old_classes.get(name) == new_classes[name]:
        return name
    row = DATASETS.get(name)
    if row is None or row.class_origin is None or row.spec.num_classes != new_classes[name]:
        return None
    origin = row.class_origin.dataset
    return origin if old_classes.get(origin) == DATASETS[origin].spec.num_classes else None
