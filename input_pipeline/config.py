"""Configuration of the input pipeline, and the numbers of the published fine-tuning for each dataset."""

import dataclasses

from tarvis_jax import datasets as dataset_table

FORMATS = ("youtube_vis", "generic", "kitti_step", "vipseg", "davis", "davis_official", "burst")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One dataset: where it lies, how it is read, how clips are cut from it.

    Attributes:
      name: as in `tarvis_jax.datasets`; chooses the queries and losses.
      format: one of FORMATS (`input_pipeline/datasets/`).
      task: "instance", "panoptic" or "exemplar".
      num_classes: K; ids outside are errors. 0 for exemplar datasets.
      thing_classes: classes (0..K-1) with instances; carried along for evaluation.
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
      buckets: sizes (height, width), multiples of the model's `size_divisor`, that clips are padded to.
      hue_saturation, brightness: largest shift up and down, in 8-bit units (hue: of 256 for the full circle).
      contrast: range of the factor about mid-gray.
      min_mask_area: masks below this many pixels are left out when training annotations are read (BURST).
    """

    name: str
    format: str
    task: str
    num_classes: int = 0
    thing_classes: tuple[int, ...] = ()
    weight: float = 1.0
    train_images: str = ""
    train_annotations: str = ""
    eval_images: str = ""
    eval_annotations: str = ""
    eval_truth: str = ""
    min_dims: tuple[int, ...] = (512,)
    max_dim: int = 1333
    crop: tuple[float, float] = (0.75, 0.75)
    flip_probability: float = 0.5
    frame_sampling_factor: float = 7.5
    consecutive_frames: bool = False
    max_instances: int = 32
    buckets: tuple[tuple[int, int], ...] = ((512, 960), (512, 1344), (960, 512), (1344, 512))
    hue_saturation: int = 12
    contrast: tuple[float, float] = (0.95, 1.05)
    brightness: int = 25
    min_mask_area: int = 1

    def __post_init__(self):
        problems = []
        if self.format not in FORMATS:
            problems.append(f"format should be one of {FORMATS}, found {self.format!r}")
        if self.task not in dataset_table.TASKS:
            problems.append(f"task should be one of {dataset_table.TASKS}, found {self.task!r}")
        if (self.num_classes > 0) != (self.task != dataset_table.EXEMPLAR) or self.num_classes > 254:
            problems.append(
                f"num_classes should be 0 for exemplar datasets and 1..254 for others, found {self.num_classes}"
            )
        if not self.buckets or any(len(bucket) != 2 or min(bucket) < 1 for bucket in self.buckets):
            problems.append(f"buckets should be (height, width) pairs, at least one, found {self.buckets}")
        if self.weight < 0:
            problems.append(f"weight should be >= 0, found {self.weight}")
        if self.max_instances < 1:
            problems.append(f"max_instances should be >= 1, found {self.max_instances}")
        if self.frame_sampling_factor < 1:
            problems.append(f"frame_sampling_factor should be >= 1, found {self.frame_sampling_factor}")
        if len(self.crop) != 2 or not all(0 < share <= 1 for share in self.crop):
            problems.append(f"crop should be two shares in (0, 1], found {self.crop}")
        if any(size < 1 for size in self.min_dims) or self.max_dim < 1:
            problems.append(f"min_dims and max_dim should be >= 1, found {self.min_dims}, {self.max_dim}")
        if not 0 <= self.flip_probability <= 1:
            problems.append(f"flip_probability should be in [0, 1], found {self.flip_probability}")
        if problems:
            raise ValueError(f"dataset {self.name}: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The training mixture and how its batches are made.

    Attributes:
      datasets: what to draw from.
      workspace: the folder that holds the data; empty: the environment variable TARVIS_WORKSPACE_DIR.
      batch_size: B over all hosts.
      clip_length: T.
      chunk_steps: consecutive batches that are of one dataset (and of one number of objects).
      seed: of every random choice.
      num_parallel: samples that are prepared at the same time.
      prefetch: batches that are kept ready.
      cache_records: keep decoded frames in memory.
      cache_megabytes: bound of that memory.
      max_attempts: how often a sample without any visible target is drawn again before it is an error.
      recorded: a file of batches (`main.py --mode=record`, `input_pipeline/recorded.py`); training takes its batches
        from there, round and round, instead of making them: it then needs neither TensorFlow nor the data. "": none.
    """

    datasets: tuple[DatasetConfig, ...] = ()
    workspace: str = ""
    recorded: str = ""
    batch_size: int = 32
    clip_length: int = 3
    chunk_steps: int = 8
    seed: int = 0
    num_parallel: int = 8
    prefetch: int = 2
    cache_records: bool = False
    cache_megabytes: int = 1024
    max_attempts: int = 10

    def __post_init__(self):
        names = ("batch_size", "clip_length", "chunk_steps", "num_parallel", "prefetch", "max_attempts")
        wrong = {name: getattr(self, name) for name in names if getattr(self, name) < 1}
        if wrong or self.seed < 0:
            raise ValueError(f"data: expected values >= 1 (seed >= 0), found {wrong or {'seed': self.seed}}")
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

    num_train: int = 0
    num_val: int = 16
    num_frames: int = 10
    height: int = 64
    width: int = 96
    seed: int = 0
    val_seed: int = 10**6


_FILES = {
    "YOUTUBE_VIS": (
        "youtube_vis",
        "youtube_vis_2021",
        "youtube_vis_2021.json",
        "youtube_vis_2021",
        "youtube_vis/{split}_2021.json",
    ),
    "OVIS": ("youtube_vis", "ovis", "ovis.json", "ovis", "ovis/{split}.json"),
    "KITTI_STEP": ("kitti_step", "kitti_step", "kitti_step.json", "kitti_step_val", "kitti_step_val"),
    "CITYSCAPES_VPS": ("generic", "cityscapes_vps", "cityscapes_vps.json", "", ""),
    "VIPSEG": ("vipseg", "vipseg", "vipseg", "vipseg", "vipseg/{split}.json"),
    "DAVIS": ("davis", "davis", "davis_semisupervised.json", "davis", "davis"),
    "BURST": ("burst", "burst", "burst.json", "burst/{split}", "burst/first_frame_annotations_{split}.json"),
}

# Numbers of the published fine-tuning. max_instances and buckets are ours: they cover what the resizing can give.
_TRAINING = {
    "YOUTUBE_VIS": {
        "weight": 0.225,
        "min_dims": (448, 512),
        "max_dim": 1024,
        "buckets": ((448, 832), (512, 960), (512, 1024), (832, 448), (960, 512), (1024, 512)),
    },
    "OVIS": {
        "weight": 0.225,
        "max_dim": 1024,
        "max_instances": 64,
        "buckets": ((512, 960), (512, 1024), (960, 512), (1024, 512)),
    },
    "KITTI_STEP": {
        "weight": 0.075,
        "min_dims": (320,),
        "crop": (0.75, 0.5),
        "frame_sampling_factor": 2.0,
        "max_instances": 64,
        "buckets": ((320, 768),),
        "hue_saturation": 10,
        "brightness": 20,
    },
    "CITYSCAPES_VPS": {
        "weight": 0.075,
        "min_dims": (448,),
        "crop": (0.5, 0.5),
        "frame_sampling_factor": 1.0,
        "consecutive_frames": True,
        "max_instances": 64,
        "buckets": ((448, 896),),
        "hue_saturation": 10,
        "brightness": 20,
    },
    "VIPSEG": {
        "weight": 0.15,
        "crop": (0.75, 0.5),
        "frame_sampling_factor": 5.0,
        "max_instances": 64,
        "buckets": ((512, 640), (640, 512), (512, 1344), (1344, 512)),
        "hue_saturation": 10,
        "brightness": 20,
    },
    "BURST": {
        "weight": 0.2,
        "frame_sampling_factor": 3.0,
        "max_instances": 4,
        "min_mask_area": 100,
        "eval_truth": "dataset_annotations/inference/burst/all_classes_{split}.json",
    },
    "DAVIS": {"weight": 0.05, "max_instances": 4},
}


def reference_dataset(name: str, **overrides) -> DatasetConfig:
    """A dataset in the released workspace's layout with the published fine-tuning's numbers, some of them replaced.

    Raises:
      ValueError: an unknown name or field.
    """
    if name not in _FILES:
        raise ValueError(f"dataset {name!r} has no reader; known are {sorted(_FILES)}")
    fields = {field.name for field in dataclasses.fields(DatasetConfig)}
    if not fields >= set(overrides):
        raise ValueError(
            f"dataset {name}: unknown fields {sorted(set(overrides) - fields)}; known are {sorted(fields)}"
        )
    kind, train_images, train_annotations, eval_images, eval_annotations = _FILES[name]
    spec = dataset_table.DATASETS[name]
    values = {
        "format": kind,
        "task": spec.task,
        "num_classes": spec.num_classes,
        "thing_classes": spec.thing_classes,
        "train_images": f"dataset_images/training/{train_images}",
        "train_annotations": f"dataset_annotations/training/{train_annotations}",
        "eval_images": eval_images and f"dataset_images/inference/{eval_images}",
        "eval_annotations": eval_annotations and f"dataset_annotations/inference/{eval_annotations}",
    }
    return DatasetConfig(name=name, **{**values, **_TRAINING[name], **overrides})
