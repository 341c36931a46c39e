"""How long to train, what to log, evaluate and keep; and the whole config, one section per part."""

import dataclasses

from input_pipeline.config import DataConfig, DatasetConfig, SyntheticConfig
from tarvis_jax.datasets import DATASETS, DatasetSpec
from tarvis_jax.inference.config import INFERENCE_DEFAULTS, InferenceConfig
from tarvis_jax.losses.config import LossConfig
from tarvis_jax.model.config import ModelConfig

CONFIG_FILE = "config.json"  # of a run, in its workdir
SCHEDULES = ("step", "cosine")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop. Durations are in optimizer steps; 0 switches the thing off.

    Attributes:
      num_steps: optimizer steps in all.
      seed: of initialization, data order and every random draw.
      max_samples_per_device: a device never sees more samples at once; the global batch (`data.batch_size`) is kept by
        accumulating gradients over microbatches. 0: no limit.
      exemplar_point_probability: each object of an exemplar batch is given by a point with this probability, else by
        its mask (0.3 in the paper).
      log_steps: steps between two progress lines and metric entries.
      eval_steps: steps between two evaluations on the held-out videos.
      checkpoint_steps: steps between two checkpoints (the last step is always saved).
      keep_checkpoints: how many of the newest checkpoints stay on disk.
      init_from: weights to start from: another run's workdir, a folder with model.safetensors, a checkpoint of the
        reference (.pth), or a backbone of another project (.pkl or .pth; docs/weights.md); "" draws them from the seed.
      init_new: shell patterns (`*`) of variables that may start from the seed although `init_from` is given.
      init_leave_out: shell patterns of the tensors in `init_from` that are not used.
      final_eval: evaluate on the held-out videos after the last step and write the table.
      eval_split: which split of the datasets is held out ("val").
      eval_videos: at most so many held-out videos of each dataset are used; 0: all.
      demo_davis: a folder in DAVIS' official layout; the first video of its split `eval_split` is segmented from its
        first masks at the end, as a real example. Where the folder is absent the log says so. "": no such example.
      demo_videos: this many held-out videos per task are drawn as overlay videos at the end.
      tensorboard: write TensorBoard summaries beside metrics.jsonl.
      wandb_project: Weights & Biases project; "" does not use it.
      distributed: join the other processes of a multi-host run at the start.
    """

    num_steps: int = 90_000
    seed: int = 42
    max_samples_per_device: int = 1
    exemplar_point_probability: float = 0.3
    log_steps: int = 20
    eval_steps: int = 0
    checkpoint_steps: int = 10_000
    keep_checkpoints: int = 2
    init_from: str = ""
    init_new: tuple[str, ...] = ()
    init_leave_out: tuple[str, ...] = ()
    final_eval: bool = False
    eval_split: str = "val"
    eval_videos: int = 0
    demo_davis: str = ""
    demo_videos: int = 0
    tensorboard: bool = True
    wandb_project: str = ""
    distributed: bool = False

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, found {self.num_steps}")
        if not 0.0 <= self.exemplar_point_probability <= 1.0:
            raise ValueError(f"exemplar_point_probability: expected 0..1, found {self.exemplar_point_probability}")
        for name in ("log_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer settings; the defaults are those of fine-tuning. Steps are optimizer steps.

    Attributes:
      learning_rate: of everything but the backbone, after warm-up.
      weight_decay: of weights and their biases; norms, query tables and learned embeddings have none.
      backbone_multiplier: the backbone's learning rate over `learning_rate`.
      clip_norm: largest norm of the gradient of all parameters together; 0 = no clipping.
      warmup_steps: the learning rate rises linearly from 0 over so many steps; 0 = no warm-up.
      schedule: "step" (multiply by decay_rates at decay_steps) or "cosine" (half a cosine from the end of warm-up down
        to 0 at total_steps).
      decay_steps: "step": ascending steps.
      decay_rates: "step": a factor for each of them.
      total_steps: "cosine": where the learning rate reaches 0.
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squared gradients.
      eps: added to the root of the mean square.
      ema_decay: of the moving average of the parameters that the training state keeps; 0 = keep none.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    backbone_multiplier: float = 0.1
    clip_norm: float = 0.01
    warmup_steps: int = 10_000
    schedule: str = "step"
    decay_steps: tuple[int, ...] = (50_000, 84_000)
    decay_rates: tuple[float, ...] = (0.1, 0.1)
    total_steps: int = 90_000
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    ema_decay: float = 0.0

    def __post_init__(self):
        problems = []
        if self.schedule not in SCHEDULES:
            problems.append(f"schedule is one of {SCHEDULES}, found {self.schedule!r}")
        if len(self.decay_steps) != len(self.decay_rates):
            problems.append(
                f"decay_steps and decay_rates are of equal length, found {self.decay_steps} and {self.decay_rates}"
            )
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            problems.append(f"decay_steps ascend, found {self.decay_steps}")
        if self.schedule == "step" and self.decay_steps and self.decay_steps[0] <= self.warmup_steps:
            problems.append(f"decay_steps lie after warmup_steps = {self.warmup_steps}, found {self.decay_steps}")
        if self.schedule == "cosine" and self.total_steps <= self.warmup_steps:
            problems.append(f"total_steps lies after warmup_steps = {self.warmup_steps}, found {self.total_steps}")
        for name in ("learning_rate", "weight_decay", "backbone_multiplier", "clip_norm", "warmup_steps"):
            if getattr(self, name) < 0:
                problems.append(f"{name} is >= 0, found {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            problems.append(f"ema_decay lies in 0..1 (1 excluded), found {self.ema_decay}")
        if problems:
            raise ValueError("OptimizerConfig: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on; saved in its workdir and in its checkpoints.

    Attributes:
      model, loss, optimizer, data, synthetic, train: the parts' own settings.
      inference: by dataset name; how its videos are cut, resized and stitched.
    """

    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    train: TrainConfig = TrainConfig()
    inference: dict[str, InferenceConfig] = dataclasses.field(default_factory=lambda: dict(INFERENCE_DEFAULTS))

    def __post_init__(self):
        """Checks what concerns more than one part."""
        problems = []
        semantic = dict(self.model.semantic_classes)
        for dataset in self.data.datasets:
            if dataset.num_classes and semantic.get(dataset.name) != dataset.num_classes:
                problems.append(
                    f"model.semantic_classes: expected {dataset.name} with {dataset.num_classes} classes as in "
                    f"data.datasets, found {semantic.get(dataset.name)}"
                )
            if dataset.name not in self.inference:
                problems.append(f"inference.{dataset.name}: missing; known are {sorted(self.inference)}")
            divisor = self.model.size_divisor
            wrong = [bucket for bucket in dataset.buckets if bucket[0] % divisor or bucket[1] % divisor]
            if wrong:
                problems.append(f"data.datasets, {dataset.name}: buckets {wrong} are not multiples of {divisor}")
            most = self.model.num_instance_queries
            if dataset.num_classes and dataset.max_instances > most:
                problems.append(
                    f"data.datasets, {dataset.name}: max_instances {dataset.max_instances} exceeds "
                    f"model.num_instance_queries {most}"
                )
        if problems:
            raise ValueError("\n  ".join(problems))


def dataset_spec(dataset: DatasetConfig) -> DatasetSpec:
    """What a session and the evaluation must know of a dataset."""
    known = DATASETS.get(dataset.name)
    exemplar = known.exemplar if known else "mask"
    return DatasetSpec(dataset.task, dataset.num_classes, dataset.thing_classes, exemplar)
