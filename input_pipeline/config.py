"""Configuration of the input pipeline."""

import dataclasses
from typing import Annotated

from tarvis_jax import datasets as dataset_table
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields

_Path = Annotated[str, Text(4096)]
_Pixels = Annotated[int, Range(1, 65_536)]
_Count = Annotated[int, Range(1, 10**6)]
_CropShare = Annotated[float, Range(0, 1, above_low=True)]
_Contrast = Annotated[float, Range(0, 10)]


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it lies, how it is read, how clips are cut from it.

    Attributes:
      name: chooses the class queries; `dataset_config` fills the fields of datasets in `tarvis_jax.datasets`.
      reader: what reads its files, a module of `input_pipeline/readers/`.
      task, num_classes, thing_classes, exemplar: see `DatasetSpec`; class ids outside are errors.
      class_names: of class id 1, 2, ... K, for results and overlays; (): not known.
      weight: share of the batches, relative to the other datasets' weights.
      train_images, train_annotations, eval_images, eval_annotations: relative to the workspace, or absolute;
        `{split}` in the two last is replaced by the split's name.
      eval_truth: BURST only: ground truth of all frames (`eval_annotations` has the first frame of each track).
      min_dims: the smaller side of a clip is resized to one of these, drawn per batch; empty: no resizing.
      max_dim: cap of the larger side.
      crop: height and width of the random crop, as a share of the frame; (1.0, 1.0): no crop.
      flip_probability: of a horizontal flip of the whole clip.
      frame_sampling_factor: the other frames of a clip lie within this times the clip's length of the reference frame.
      consecutive_frames: take consecutive frames instead.
      max_instances: N, the number of target slots.
      buckets: sizes (height, width), multiples of the model's `size_divisor`, that clips are padded to; (): found from
        the videos (`input_pipeline/buckets.py`).
      max_padding: share of a clip that may become padding, on average, so that clips of several sizes share a bucket;
        what rounding up to `DataConfig.size_divisor` costs is not counted.
      hue_saturation, brightness: largest shift up and down, in 8-bit units (hue: of 256 for the full circle).
      contrast: range of the factor about mid-gray.
      min_mask_area: masks below this many pixels are left out when training annotations are read (BURST).
    """

    name: Annotated[str, Text(100, 1)]
    reader: Annotated[str, Text(100, 1)]
    task: Annotated[str, OneOf(dataset_table.TASKS)]
    num_classes: Annotated[int, Range(0, 65_535)] = 0
    thing_classes: Annotated[tuple[Annotated[int, Range(0, 65_534)], ...], Length(0, 65_535)] = ()
    exemplar: Annotated[str, OneOf(("", *dataset_table.EXEMPLAR_KINDS))] = ""
    class_names: Annotated[tuple[Annotated[str, Text(200, 1)], ...], Length(0, 65_535)] = ()
    weight: Annotated[float, Range(0, 1e6)] = 1.0
    train_images: _Path = ""
    train_annotations: _Path = ""
    eval_images: _Path = ""
    eval_annotations: _Path = ""
    eval_truth: _Path = ""
    min_dims: Annotated[tuple[_Pixels, ...], Length(0, 100)] = (512,)
    max_dim: _Pixels = 1333
    crop: tuple[_CropShare, _CropShare] = (0.75, 0.75)
    flip_probability: Annotated[float, Range(0, 1)] = 0.5
    frame_sampling_factor: Annotated[float, Range(1, 10_000)] = 7.5
    consecutive_frames: bool = False
    max_instances: Annotated[int, Range(1, 10_000)] = 32
    buckets: Annotated[tuple[tuple[_Pixels, _Pixels], ...], Length(0, 1000)] = ()
    max_padding: Annotated[float, Range(0, 1)] = 0.02
    hue_saturation: Annotated[int, Range(0, 255)] = 12
    contrast: tuple[_Contrast, _Contrast] = (0.95, 1.05)
    brightness: Annotated[int, Range(0, 255)] = 25
    min_mask_area: Annotated[int, Range(0, 10**9)] = 1

    def __post_init__(self):
        try:
            check_fields(self)
            if not self.reader.isidentifier():
                raise ValueError(
                    f"reader: expected the name of a module in input_pipeline/readers, found {self.reader!r}"
                )
            dataset_table.check_class_names(self.class_names, self.spec.num_classes)
        except ValueError as error:
            raise ValueError(f"dataset {self.name!s:.100}: {error}") from None

    @property
    def spec(self) -> dataset_table.DatasetSpec:
        """What a session and the evaluation must know of the dataset."""
        return dataset_table.DatasetSpec(self.task, self.num_classes, self.thing_classes, self.exemplar)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training mixture and how its batches are made.

    Attributes:
      datasets: what to draw from.
      workspace: the folder that holds the data; commands fill it from TARVIS_WORKSPACE_DIR if empty.
      batch_size: B over all hosts.
      clip_length: T.
      chunk_steps: consecutive batches that are of one dataset (and of one number of objects).
      size_divisor: sides of the buckets that are found are multiples of this, in pixels; a multiple of the model's.
      seed: of every random choice.
      num_parallel: processes that make samples (one for each core is a good number); 0 or 1: none but the caller's own.
      prefetch: batches that are kept ready.
      cache_records: keep decoded frames in memory.
      cache_megabytes: bound of that memory, of all processes together.
      max_attempts: how often a sample without any visible target is drawn again before it is an error.
      recorded: a file of batches (`main.py --mode=record`, `input_pipeline/recorded.py`); training takes its batches
        from there, round and round, instead of making them: it then needs neither TensorFlow nor the data. "": none.
    """

    datasets: Annotated[tuple[DatasetConfig, ...], Length(0, 1000)] = ()
    workspace: _Path = ""
    recorded: _Path = ""
    batch_size: _Count = 32
    clip_length: Annotated[int, Range(1, 10_000)] = 3
    chunk_steps: _Count = 8
    size_divisor: _Pixels = 64
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    num_parallel: Annotated[int, Range(0, 1000)] = 8
    prefetch: Annotated[int, Range(1, 10_000)] = 2
    cache_records: bool = False
    cache_megabytes: Annotated[int, Range(0, 10**9)] = 1024
    max_attempts: _Count = 10

    def __post_init__(self):
        check_fields(self)
        duplicates = {d.name for d in self.datasets if sum(d.name == other.name for other in self.datasets) > 1}
        if duplicates:
            raise ValueError(f"data.datasets: each name may occur once, found twice: {sorted(duplicates)}")


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """Small made-up videos for all tasks (`input_pipeline/synthetic.py`), written before training into workdir/data.

    Attributes:
      num_train: training videos per dataset; 0: none are written, the data is read from `data.workspace`.
      num_val: held-out videos per dataset.
      num_frames: of every video.
      height, width: of every frame, in pixels.
      seed: of the first training video.
      val_seed: of the first held-out video; the ranges of seeds may not meet.
    """

    num_train: Annotated[int, Range(0, 10**6)] = 0
    num_val: _Count = 16
    num_frames: Annotated[int, Range(1, 10_000)] = 10
    height: _Pixels = 64
    width: _Pixels = 96
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    val_seed: Annotated[int, Range(0, 2**31 - 1)] = 10**6

    def __post_init__(self) -> None:
        check_fields(self)


def dataset_config(name: str, **overrides) -> DatasetConfig:
    """A dataset of the table, with the files and training numbers of its row, some of them replaced.

    Where `num_classes` is replaced by another number and `class_names` is not, the classes have no names: those of the
    table are of other classes.

    Raises:
      ValueError: an unknown name or field, or a dataset without reader.
    """
    row = dataset_table.lookup(name)
    spec = row.spec
    if not (row.reader or "reader" in overrides):
        known = [other for other, each in dataset_table.DATASETS.items() if each.reader]
        raise ValueError(f"dataset {name!r} has no reader; those that have one are {known}")
    values = {
        "reader": row.reader,
        "task": spec.task,
        "num_classes": spec.num_classes,
        "thing_classes": spec.thing_classes,
        "exemplar": spec.exemplar,
        "class_names": row.class_names if overrides.get("num_classes", spec.num_classes) == spec.num_classes else (),
        **row.files,
        **row.training,
        **overrides,
    }
    fields = {field.name for field in dataclasses.fields(DatasetConfig)}
    if not fields >= set(values):
        raise ValueError(f"dataset {name}: unknown fields {sorted(set(values) - fields)}; known are {sorted(fields)}")
    return DatasetConfig(name=name, **values)
