"""What a row of the table of datasets holds."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from tarvis_jax.fields import Length, OneOf, Range, check_fields, shown

INSTANCE = "instance"  # Video Instance Segmentation (VIS)
PANOPTIC = "panoptic"  # Video Panoptic Segmentation (VPS)
EXEMPLAR = "exemplar"  # targets given by example: masks (VOS) or points (PET)
# Task -> the arrays that its batches have beside images, masks and classes (input_pipeline/batches.py).
TASKS: dict[str, tuple[str, ...]] = {
    INSTANCE: (),
    PANOPTIC: ("class_map",),
    EXEMPLAR: ("reference_frame", "points_yx"),
}

MASK = "mask"
POINT = "point"
EXEMPLAR_KINDS = (MASK, POINT)

_MAX_PANOPTIC_CLASSES = 254  # class maps are uint8, and 255 is "ignore"


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What the network, the losses and the evaluation must know of a dataset.

    Attributes:
      task: one of TASKS.
      num_classes: K; class ids are 1..K in instance targets, 0..K-1 in semantic maps; 0 for exemplar datasets.
      thing_classes: panoptic only: ids (0..K-1, as in semantic maps) of classes with instances.
      exemplar: exemplar only: one of EXEMPLAR_KINDS, what its benchmark gives for a target; "" for other tasks.

    Raises:
      ValueError: values that do not fit the task; all of them in one message.
    """

    task: Annotated[str, OneOf(TASKS)]
    num_classes: Annotated[int, Range(0, 65_535)] = 0
    thing_classes: Annotated[tuple[Annotated[int, Range(0, 65_534)], ...], Length(0, 65_535)] = ()
    exemplar: Annotated[str, OneOf(("", *EXEMPLAR_KINDS))] = ""

    def __post_init__(self) -> None:
        check_fields(self)
        problems = []
        if self.task == EXEMPLAR:
            if self.num_classes or self.thing_classes:
                problems.append(
                    f"num_classes should be 0 and thing_classes empty for task {self.task!r}, "
                    f"found {self.num_classes} and {self.thing_classes}"
                )
            if self.exemplar not in EXEMPLAR_KINDS:
                problems.append(
                    f"exemplar should be one of {EXEMPLAR_KINDS} for task {self.task!r}, found {self.exemplar!r}"
                )
        else:
            if self.num_classes < 1:
                problems.append(f"num_classes should be at least 1 for task {self.task!r}, found {self.num_classes}")
            if self.task == PANOPTIC and self.num_classes > _MAX_PANOPTIC_CLASSES:
                problems.append(f"num_classes should be at most {_MAX_PANOPTIC_CLASSES}, found {self.num_classes}")
            if self.task == INSTANCE and self.thing_classes:
                problems.append(
                    f"thing_classes should be empty for task {self.task!r}, where all classes are things, "
                    f"found {self.thing_classes}"
                )
            wrong = [label for label in self.thing_classes if not 0 <= label < self.num_classes]
            if wrong or len(set(self.thing_classes)) != len(self.thing_classes):
                found = shown(self.thing_classes)
                problems.append(f"thing_classes should be different ids in 0..{self.num_classes - 1}, found {found}")
            if self.exemplar:
                problems.append(f'exemplar should be "" for task {self.task!r}, found {self.exemplar!r}')
        if problems:
            raise ValueError("; ".join(problems))


def check_class_names(class_names: Sequence[str], num_classes: int) -> None:
    """Raises ValueError unless there are no names, or as many as classes and each once."""
    if class_names and len(class_names) != num_classes:
        raise ValueError(f"class_names: expected {num_classes}, found {len(class_names)}")
    twice = sorted(name for name, count in collections.Counter(class_names).items() if count > 1)
    if twice:
        raise ValueError(f"class_names: each may occur once, found twice: {shown(twice)}")


@dataclasses.dataclass(frozen=True)
class ClassOrigin:
    """Where the class queries of a dataset start from in a model that does not know the dataset itself.

    Attributes:
      dataset: another dataset of the table, which has the same classes among its own.
      classes: its class (0..K-1, as in semantic maps) for each of our classes, in our order.
    """

    dataset: str
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset: everything that the project knows of it.

    Attributes:
      spec: task, number of classes, which of them are things, kind of exemplar.
      class_names: as the dataset's own files give them, of class id 1, 2, ... K (0, 1, ... K-1 in semantic maps); ()
        where they are not known.
      reader: name of the module in `input_pipeline/readers` that reads its files; "": none, it cannot be trained on.
      files: where the files lie below the workspace (docs/data.md): the fields of
        `input_pipeline.config.DatasetConfig` that are paths.
      official: the layouts in which the dataset's own site hands it out, the first that is found being read: the same
        fields, relative to the folder of the download, and `reader` where another one reads it.
      training: further fields of `DatasetConfig`: weight, sizes, augmentation.
      inference: fields of `tarvis_jax.inference.config.InferenceConfig` that differ from its defaults.
      benchmark: its name among metrics (`python -m tarvis_jax.evaluation`) and formats of result files
        (`tarvis_jax.results.formats`); "": none.
      class_origin: where its class queries start from if a checkpoint has none for it; None: drawn from the seed.
    """

    spec: DatasetSpec
    class_names: tuple[str, ...] = ()
    reader: str = ""
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    official: tuple[Mapping[str, str], ...] = ()
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inference: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    benchmark: str = ""
    class_origin: ClassOrigin | None = None

    def __post_init__(self) -> None:
        check_class_names(self.class_names, self.spec.num_classes)
        if self.class_origin is not None and len(self.class_origin.classes) != self.spec.num_classes:
            raise ValueError(
                f"class_origin: expected a class of {self.class_origin.dataset} for each of {self.spec.num_classes} "
                f"classes, found {len(self.class_origin.classes)}"
            )
