"""What a shared model says of a dataset: task and classes, their names, and how its videos are cut and stitched."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated

from tarvis_jax.class_names import CLASS_NAMES
from tarvis_jax.datasets import DATASETS, EXEMPLAR, DatasetSpec
from tarvis_jax.fields import Length, Text, check_fields, shown
from tarvis_jax.inference.config import INFERENCE_DEFAULTS, InferenceConfig


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """One dataset of a model.

    Attributes:
      spec: task, number of classes, which of them are things.
      class_names: name of class id 1, 2, ... K (instances); empty where they are not known.
      inference: how its videos are segmented.
    """

    spec: DatasetSpec
    class_names: Annotated[tuple[Annotated[str, Text(200, 1)], ...], Length(0, 65_535)] = ()
    inference: InferenceConfig = InferenceConfig()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.class_names and len(self.class_names) != self.spec.num_classes:
            raise ValueError(f"class_names: expected {self.spec.num_classes}, found {len(self.class_names)}")
        twice = sorted(name for name, count in collections.Counter(self.class_names).items() if count > 1)
        if twice:
            raise ValueError(f"class_names: each may occur once, found twice: {shown(twice)}")


def default_datasets(
    semantic_classes: Sequence[tuple[str, int]],
    specs: Mapping[str, DatasetSpec] = DATASETS,
    inference: Mapping[str, InferenceConfig] = INFERENCE_DEFAULTS,
) -> dict[str, DatasetInfo]:
    """The datasets a model can be asked for: those of its class queries, and those whose targets are given.

    Args:
      semantic_classes: ModelConfig.semantic_classes.
      specs: what is known of datasets by name. One with another number of classes than the model's is taken as unknown.
      inference: settings by name; `InferenceConfig()` for others.

    Returns:
      Name -> DatasetInfo. A dataset of which nothing is known but its number of classes has task "instance".
    """
    counts = dict(semantic_classes)
    result = {}
    for name, count in counts.items():
        spec = specs.get(name)
        if spec is None or spec.num_classes != count:
            spec = DatasetSpec("instance", count)
        names = CLASS_NAMES.get(name, ())
        result[name] = DatasetInfo(spec, names if len(names) == count else (), inference.get(name, InferenceConfig()))
    for name, spec in specs.items():
        if spec.task == EXEMPLAR:
            result[name] = DatasetInfo(spec, (), inference.get(name, InferenceConfig()))
    return result
