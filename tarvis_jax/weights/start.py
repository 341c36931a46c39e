"""Weights to start training from: another run, a checkpoint of the reference, or a backbone of another project."""

import dataclasses
import pathlib
import types
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
Origin = tuple[str, int] | None  # dataset and place of a class, 0..K-1


def load_initial_weights(
    source: pathlib.Path | str,
    model_config: ModelConfig,
    params: Mapping[str, Any],
    frozen: Mapping[str, Any],
    *,
    class_names: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
    new: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> tuple[Weights, Weights, Report]:
    """(params, frozen, report) for a model of `model_config`, whose datasets may differ from those of the source.

    Class queries: kept for datasets that both have, class by class where both know the names of the classes; taken from
    the dataset that the table of datasets names for the purpose (`class_origin`: Cityscapes, whose classes contain
    those of the two driving datasets); drawn from the seed (those of `params`) for all others.

    Args:
      source: what `open_weights` takes. With a backbone of another project, all the rest starts from the seed.
      model_config: of the model to start.
      params, frozen: its values as drawn from the seed.
      class_names: its datasets -> names of class 1..K, where they are known.
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
        variables, report = _whole_model(opened, model_config, initial, class_names, new, leave_out)
    variables = {name: np.asarray(v) if isinstance(v, Deferred) else v for name, v in variables.items()}
    return {name: variables[name] for name in params}, {name: variables[name] for name in frozen}, report


def _whole_model(
    opened: OpenedModel,
    model_config: ModelConfig,
    initial: Mapping[str, Any],
    class_names: Mapping[str, Sequence[str]],
    new: Sequence[str],
    leave_out: Sequence[str],
) -> tuple[dict[str, Any], Report]:
    """The variables, from a whole model, and what became of each."""
    source_config, found = opened.config, dict(opened.variables)
    notes = ()
    names = {name: info.class_names for name, info in opened.datasets.items()}
    origins = {
        name: class_origins(name, dict(source_config.semantic_classes), count, names, class_names)
        for name, count in model_config.semantic_classes
    }
    same = {name: [(name, k) for k in range(count)] for name, count in source_config.semantic_classes}
    if origins != same and not fits(SEMANTIC_TABLE, leave_out):
        old, table = np.asarray(found[SEMANTIC_TABLE]), np.array(initial[SEMANTIC_TABLE])
        if old.shape[1] == table.shape[1]:
            found[SEMANTIC_TABLE] = transfer_class_queries(old, dict(source_config.semantic_classes), table, origins)
            lines = [_note(name, origins[name], names, class_names) for name in sorted(origins)]
            notes = (f"{SEMANTIC_TABLE}: {', '.join(lines) or 'no classes'}",)
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
    old: np.ndarray, old_classes: Mapping[str, int], new: np.ndarray, origins: Mapping[str, Sequence[Origin]]
) -> np.ndarray:
    """The table of class queries for other datasets.

    Args:
      old: [1 + sum of old K, C], row 0 the shared embedding, then the datasets alphabetically.
      old_classes: dataset -> K of the old table.
      new: [1 + sum of new K, C], what rows hold that nothing is known for.
      origins: dataset of the new table -> `class_origins`.
    """
    old_rows = semantic_rows(tuple(old_classes.items()))
    new_rows = semantic_rows(tuple((name, len(found)) for name, found in origins.items()))
    result = new.copy()
    result[0] = old[0]
    for name, (start, _) in new_rows.items():
        for row, origin in enumerate(origins[name], start=start):
            if origin is not None:
                dataset, place = origin
                result[row] = old[old_rows[dataset][0] + place]
    return result


def class_origins(
    name: str,
    old_classes: Mapping[str, int],
    num_classes: int,
    old_names: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
    new_names: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> list[Origin]:
    """For each class of dataset `name`, the one of the old table that its query starts from; None: it is new.

    Args:
      old_classes: dataset -> K of the old table.
      num_classes: K of the dataset in the new table.
      old_names, new_names: dataset -> names of its classes in the old and the new table; () or absent where they are
        not known. Where both are, a class starts from the one of its name, wherever it stood.
    """
    before, after = old_names.get(name, ()), new_names.get(name, ())
    if name in old_classes and before and after:
        return [(name, before.index(each)) if each in before else None for each in after]
    if old_classes.get(name) == num_classes:
        return [(name, place) for place in range(num_classes)]
    row = DATASETS.get(name)
    if row is not None and row.class_origin is not None and row.spec.num_classes == num_classes:
        origin = row.class_origin.dataset
        if old_classes.get(origin) == DATASETS[origin].spec.num_classes:
            return [(origin, place) for place in row.class_origin.classes]
    return [None] * num_classes


def _note(
    name: str, origins: Sequence[Origin], old_names: Mapping[str, Sequence[str]], new_names: Mapping[str, Sequence[str]]
) -> str:
    """What the log says of a dataset's classes."""
    sources = {origin[0] for origin in origins if origin is not None}
    if not sources:
        return f"{name} from the seed"
    names = new_names.get(name, ())
    fresh = [names[k] for k, origin in enumerate(origins) if origin is None]
    gone = [each for each in old_names.get(name, ()) if names and each not in names]
    parts = [f" ({what}: {', '.join(each)})" for what, each in (("from the seed", fresh), ("left out", gone)) if each]
    return f"{name} from {', '.join(sources)}{''.join(parts)}"
