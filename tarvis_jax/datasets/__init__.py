"""The datasets: one table, from which the input pipeline, the losses, inference and evaluation take what they need.

`table.py` has one row per dataset, `row.py` says what a row holds, docs/data.md how to add one. Configs may override
the numbers (the synthetic sets of the quickstart have fewer classes). Of the project, the package imports
only `fields.py`.
"""

from collections.abc import Iterable

from tarvis_jax.datasets.row import (
    EXEMPLAR,
    EXEMPLAR_KINDS,
    INSTANCE,
    MASK,
    PANOPTIC,
    POINT,
    TASKS,
    ClassOrigin,
    Dataset,
    DatasetSpec,
    check_class_names,
)
from tarvis_jax.datasets.table import DATASETS

__all__ = [
    "DATASETS",
    "EXEMPLAR",
    "EXEMPLAR_KINDS",
    "INSTANCE",
    "MASK",
    "PANOPTIC",
    "POINT",
    "TASKS",
    "ClassOrigin",
    "Dataset",
    "DatasetSpec",
    "check_class_names",
    "class_counts",
    "lookup",
]


def lookup(name: str) -> Dataset:
    """The row of a dataset; ValueError for a name that the table does not have."""
    if name not in DATASETS:
        raise ValueError(f"dataset: expected one of {', '.join(DATASETS)}, found {name!r}")
    return DATASETS[name]


def class_counts(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """(name, number of classes) of those datasets that have classes, alphabetically (ModelConfig.semantic_classes)."""
    counts = ((name, lookup(name).spec.num_classes) for name in sorted(names))
    return tuple((name, count) for name, count in counts if count)
