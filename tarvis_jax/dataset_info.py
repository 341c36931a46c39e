"""What a shared model says of a dataset: task and classes, their names, and how its videos are cut and stitched."""

import dataclasses
import types
from collections.abc import Mapping, Sequence
from typing import Annotated

from tarvis_jax.datasets import DATASETS, EXEMPLAR, EXEMPLAR_KINDS, DatasetSpec, check_class_names
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields
from tarvis_jax.inference.config import InferenceConfig, default_inference


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """One dataset of a model.

    Attributes:
      spec: task, number of classes, which of them are things.
      class_names: name of class id 1, 2, ... K; empty where they are not known.
      inference: how its videos are segmented.
      split_exemplar: "mask" or "point", by what the objects of a split are given; None: as `spec.exemplar` says.
      split_frame_step: every n-th frame of a split's videos is taken; None: as the config of the dataset says.
    """

    spec: DatasetSpec
    class_names: Annotated[tuple[Annotated[str, Text(200, 1)], ...], Length(0, 65_535)] = ()
    inference: InferenceConfig = InferenceConfig()
    split_exemplar: Annotated[str, OneOf(EXEMPLAR_KINDS)] | None = None
    split_frame_step: Annotated[int, Range(1, 1000)] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_class_names(self.class_names, self.spec.num_classes)
        if self.split_exemplar is not None and self.spec.task != EXEMPLAR:
            raise ValueError(
                f"split_exemplar: expected none for task {self.spec.task!r}, found {self.split_exemplar!r}"
            )


def default_datasets(
    semantic_classes: Sequence[tuple[str, int]],
    given: Mapping[str, DatasetInfo] = types.MappingProxyType({}),
) -> dict[str, DatasetInfo]:
    """The datasets a model can be asked for: those of its class queries, and those whose targets are given.

    Args:
      semantic_classes: ModelConfig.semantic_classes.
      given: what is known of datasets beside the table; by name, and before the table.

    Raises:
      ValueError: the model has classes of a dataset that neither `given` nor the table has, or has with another number
        of classes.
    """
    result, problems = {}, []
    for name, count in semantic_classes:
        info = given.get(name) or (_of_table(name) if name in DATASETS else None)
        if info is None or info.spec.num_classes != count:
            known = "unknown" if info is None else f"known with {info.spec.num_classes} classes"
            problems.append(f"{name}: the model has queries for its {count} classes, but this dataset is {known}")
        else:
            result[name] = info
    if problems:
        raise ValueError(
            "\n  ".join(problems) + "\n  Datasets that are not in tarvis_jax/datasets/table.py, or there with other "
            "classes, are described by a DatasetInfo each (argument `datasets`) or, in a run's config, by an entry of "
            "data.datasets."
        )
    result |= {name: _of_table(name) for name, row in DATASETS.items() if row.spec.task == EXEMPLAR}
    return result | {name: info for name, info in given.items() if info.spec.task == EXEMPLAR}


def _of_table(name: str) -> DatasetInfo:
    row = DATASETS[name]
    return DatasetInfo(row.spec, row.class_names, default_inference(name))
