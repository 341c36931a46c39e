"""Configuration of the input pipeline."""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import Annotated

from input_pipeline.bad_records import ERROR, SKIP
from tarvis_jax import datasets as dataset_table
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields, raise_problems, shown

_Path = Annotated[str, Text(4096)]
_Pixels = Annotated[int, Range(1, 65_536)]
_Count = Annotated[int, Range(1, 10**6)]
_CropShare = Annotated[float, Range(0, 1, above_low=True)]
_Contrast = Annotated[float, Range(0, 10)]
_Scale = Annotated[float, Range(0.01, 100)]


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it lies, how it is read, how clips are cut from it.

    Attributes:
      name: chooses the class queries; `dataset_config` fills the fields of datasets in `tarvis_jax.datasets`.
      reader: what reads its files, a module of `input_pipeline/readers/`.
      task, num_classes, thing_classes, exemplar: see `DatasetSpec`; class ids outside are errors.
      class_names: of class id 1, 2, ... K, for results and overlays; (): not known.
      category_ids: the numbers that the files give class 0, 1, ..., K-1; (): these very numbers (readers of images).
      weight: share of the batches, relative to the other datasets' weights.
      root: folder of the dataset as its own site hands it out (docs/data.md has the layouts), absolute or relative to
        the workspace; "": the paths below.
      task_weights: (task, share of the dataset's batches, relative to the others) for each task that it is trained on,
        which may be any for images with panoptic maps (`image_clips`); (): its own task alone.
      train_images, train_annotations, eval_images, eval_annotations: relative to the workspace, or absolute;
        `{split}` in the two last is replaced by the split's name.
      object_classes: reader id_masks only: JSON file with the classes and which one each object has.
      held_out: ids (as text) of the videos that training leaves out; where any are given, evaluation has these alone.
      held_out_every: about one in this many training videos is left out of training, and evaluation has these, whatever
        its split, in place of other files: for datasets whose ground truth is with a server. A video is left out if the
        CRC-32 of its id (as UTF-8) is divisible by the number, so the choice depends on nothing else. 0: none.
      eval_truth: ground truth for evaluation, where `eval_annotations` has only what the network is given.
      min_dims: the smaller side of a clip is resized to one of these, drawn per batch; empty: no resizing.
      max_dim: cap of the larger side.
      crop: height and width of the random crop, as a share of the frame; (1.0, 1.0): no crop.
      flip_probability: of a horizontal flip of the whole clip.
      frame_sampling_factor: the other frames of a clip lie within this times the clip's length of the reference frame.
      consecutive_frames: take consecutive frames instead.
      max_instances: N, the number of target slots.
      max_exemplars: N of exemplar batches, if that is not the dataset's own task.
      buckets: sizes (height, width), multiples of the model's `size_divisor`, that clips are padded to; (): found from
        the videos (`input_pipeline/buckets.py`).
      max_padding: share of a clip that may become padding, on average, so that clips of several sizes share a bucket;
        what rounding up to `DataConfig.size_divisor` costs is not counted.
      hue_saturation, brightness: largest shift up and down, in 8-bit units (hue: of 256 for the full circle).
      contrast: range of the factor about mid-gray.
      min_mask_area: masks below this many pixels are left out when training annotations are read (BURST).
      interleaved_frames: evaluation: most frames that are taken between two annotated ones (BURST).
      eval_frame_step: evaluation: every n-th frame is taken (Cityscapes-VPS, whose every fifth frame is annotated).
      image_clips: the records are images, of which clips are made: each frame is a view of its own, turned, scaled,
        resized to one of `min_dims` and cropped to the size of the only bucket (`input_pipeline/image_clips.py`);
        `crop`, `frame_sampling_factor` and `consecutive_frames` mean nothing then.
      image_min_dim: the smaller side that images are resized to at first, whatever is larger costs time; None: none.
      view_scale: range of the factor by which a view is scaled.
      view_rotations: a view is turned by the sum of random angles, the largest of each given here, in degrees. (The
        second is the shear of the reference, whose library shears both axes by one angle, and so turns the image.)
      same_view_crop: the views of a clip are cropped at the same place, else each at a place of its own.
    """

    name: Annotated[str, Text(100, 1)]
    reader: Annotated[str, Text(100, 1)]
    task: Annotated[str, OneOf(dataset_table.TASKS)]
    num_classes: Annotated[int, Range(0, 65_535)] = 0
    thing_classes: Annotated[tuple[Annotated[int, Range(0, 65_534)], ...], Length(0, 65_535)] = ()
    exemplar: Annotated[str, OneOf(("", *dataset_table.EXEMPLAR_KINDS))] = ""
    class_names: Annotated[tuple[Annotated[str, Text(200, 1)], ...], Length(0, 65_535)] = ()
    category_ids: Annotated[tuple[Annotated[int, Range(0, 2**31 - 1)], ...], Length(0, 65_535)] = ()
    weight: Annotated[float, Range(0, 1e6)] = 1.0
    root: _Path = ""
    task_weights: Annotated[
        tuple[tuple[Annotated[str, OneOf(dataset_table.TASKS)], Annotated[float, Range(0, 1e6)]], ...],
        Length(0, len(dataset_table.TASKS)),
    ] = ()
    train_images: _Path = ""
    train_annotations: _Path = ""
    eval_images: _Path = ""
    eval_annotations: _Path = ""
    object_classes: _Path = ""
    held_out: Annotated[tuple[Annotated[str, Text(1000, 1)], ...], Length(0, 10**6)] = ()
    held_out_every: Annotated[int, Range(0, 1000)] = 0
    eval_truth: _Path = ""
    min_dims: Annotated[tuple[_Pixels, ...], Length(0, 100)] = (512,)
    max_dim: _Pixels = 1333
    crop: tuple[_CropShare, _CropShare] = (0.75, 0.75)
    flip_probability: Annotated[float, Range(0, 1)] = 0.5
    frame_sampling_factor: Annotated[float, Range(1, 10_000)] = 7.5
    consecutive_frames: bool = False
    max_instances: Annotated[int, Range(1, 10_000)] = 32
    max_exemplars: Annotated[int, Range(1, 10_000)] = 8
    buckets: Annotated[tuple[tuple[_Pixels, _Pixels], ...], Length(0, 1000)] = ()
    max_padding: Annotated[float, Range(0, 1)] = 0.02
    hue_saturation: Annotated[int, Range(0, 255)] = 12
    contrast: tuple[_Contrast, _Contrast] = (0.95, 1.05)
    brightness: Annotated[int, Range(0, 255)] = 25
    min_mask_area: Annotated[int, Range(0, 10**9)] = 1
    interleaved_frames: Annotated[int, Range(0, 1000)] = 0
    eval_frame_step: Annotated[int, Range(1, 1000)] = 1
    image_clips: bool = False
    image_min_dim: _Pixels | None = None
    view_scale: tuple[_Scale, _Scale] = (0.9, 1.1)
    view_rotations: Annotated[tuple[Annotated[float, Range(0, 180)], ...], Length(0, 10)] = (20.0, 10.0)
    same_view_crop: bool = False

    def __post_init__(self):
        try:
            check_fields(self)
            if not self.reader.isidentifier():
                raise ValueError(
                    f"reader: expected the name of a module in input_pipeline/readers, found {self.reader!r}"
                )
            dataset_table.check_class_names(self.class_names, self.spec.num_classes)
            raise_problems(list(self._problems()))
        except ValueError as error:
            raise ValueError(f"dataset {self.name!s:.100}: {error}") from None

    @property
    def spec(self) -> dataset_table.DatasetSpec:
        """What a session and the evaluation must know of the dataset."""
        return dataset_table.DatasetSpec(self.task, self.num_classes, self.thing_classes, self.exemplar)

    @property
    def task_shares(self) -> dict[str, float]:
        """The tasks that its batches are of, each with its share of them (above 0, adding up to 1)."""
        weights = {task: weight for task, weight in self.task_weights or ((self.task, 1.0),) if weight}
        return {task: weight / sum(weights.values()) for task, weight in weights.items()}

    def holds_out(self, video_id: int | str) -> bool:
        """Whether a training video is left out of training, for evaluation."""
        name = str(video_id)
        return name in self.held_out or self.held_out_every > 0 and zlib.crc32(name.encode()) % self.held_out_every == 0

    def num_slots(self, task: str) -> int:
        """N of its batches of a task."""
        if task == dataset_table.EXEMPLAR and task != self.task:
            return self.max_exemplars
        return self.max_instances

    def _problems(self) -> Iterator[str]:
        if self.held_out_every == 1 or self.held_out_every and self.held_out:
            yield f"held_out_every: expected 0, or at least 2 and no held_out, found {self.held_out_every}"
        if self.category_ids and len(set(self.category_ids)) != self.num_classes:
            yield f"category_ids: expected {self.num_classes} different numbers, found {shown(self.category_ids)}"
        served = tuple(dataset_table.TASKS) if self.image_clips else (self.task,)
        tasks = [task for task, _ in self.task_weights]
        if not set(tasks) <= set(served) or len(set(tasks)) < len(tasks):
            yield f"task_weights: expected {' or '.join(served)}, each once, found {', '.join(tasks)}"
        elif tasks and not any(weight for _, weight in self.task_weights):
            yield f"task_weights: expected a weight above 0, found {self.task_weights}"
        if self.image_clips:
            if self.task != dataset_table.PANOPTIC or len(self.buckets) != 1 or not self.min_dims:
                yield (
                    "image_clips: expected a panoptic dataset with one bucket (the size of the clips) and min_dims, "
                    f"found task {self.task}, buckets {self.buckets} and min_dims {self.min_dims}"
                )
            if self.view_scale[0] > self.view_scale[1]:
                yield f"view_scale: expected (least, most), found {self.view_scale}"


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
      on_bad_record: "error": the first video or frame that is malformed or unreadable ends the run; "skip": bad videos
        are left out when annotations are read, samples with a bad frame are drawn again, and the run counts both.
      shards: a folder of prepared shards (`input_pipeline/shards`), on a disk or in a bucket; training reads its frames
        from there instead of from the datasets' own files. "": none.
    """

    datasets: Annotated[tuple[DatasetConfig, ...], Length(0, 1000)] = ()
    workspace: _Path = ""
    shards: _Path = ""
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
    on_bad_record: Annotated[str, OneOf((ERROR, SKIP))] = ERROR

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
