"""How long to train, what to log, evaluate and keep; and the whole config, one section per part."""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from input_pipeline.config import DataConfig, SyntheticConfig
from input_pipeline.workspace import WORKSPACE_VARIABLE
from tarvis_jax.config import from_mapping, load_config_file
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import DATASETS
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields, raise_problems
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.losses.config import LossConfig
from tarvis_jax.model.config import ModelConfig, settle_backends

CONFIG_FILE = "config.json"  # of a run, in its workdir
CHECKPOINTS_FOLDER = "checkpoints"
RANDOM_WEIGHTS = "random"  # as train.init_from
SCHEDULES = ("step", "cosine")
SHARDS = ("none", "optimizer", "parameters")

_Steps = Annotated[int, Range(0, 10**9)]
_Decay = Annotated[float, Range(0, 1, below_high=True)]
_Path = Annotated[str, Text(4096)]
_Patterns = Annotated[tuple[Annotated[str, Text(500, 1)], ...], Length(0, 1000)]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop. Durations are in optimizer steps; 0 switches the thing off.

    Attributes:
      num_steps: optimizer steps in all.
      seed: of initialization, data order and every random draw.
      max_samples_per_device: a device never sees more samples at once; the global batch (`data.batch_size`) is kept by
        accumulating gradients over microbatches. 0: as many as the compiler says there is memory for, and on CPUs,
        whose memory is not known, all of a device's share.
      microbatches_at_once: on one CPU a batch is split into so many microbatches or more, and so many are computed at
        the same time, because the program of a small network hardly keeps two cores busy. Elsewhere it changes nothing.
      pack_state: between steps, parameters, moving average and the optimizer's state lie in a few long vectors instead
        of hundreds of arrays, which is faster where a step takes milliseconds. Checkpoints are the same. Not together
        with `shard`.
      shard: what of the training state is split over devices instead of lying whole on each: "none"; "optimizer" (its
        state, the moving average and the gradients); "parameters" (those, and the parameters). It saves memory, and
        changes a result by rounding alone.
      fsdp_devices: over how many devices it is split; 0: all. It divides their number; a host's own number keeps the
        exchange within hosts.
      exemplar_point_probability: each object of an exemplar batch is given by a point with this probability, else by
        its mask (0.3 in the paper).
      log_steps: steps between two progress lines and metric entries.
      eval_steps: steps between two evaluations on the held-out videos.
      checkpoint_steps: steps between two checkpoints (the last step is always saved).
      keep_checkpoints: how many of the newest checkpoints stay on disk.
      init_from: weights to start from: another run's workdir, a folder with model.safetensors, a checkpoint of the
        reference (.pth), or a backbone of another project (.pkl or .pth; docs/weights.md). "{workspace}/..." lies in
        `data.workspace`. "random" draws all weights from the seed. "" is an error when a training starts.
      adopt_architecture: with `--finetune_from`, the network is that of the run it names, its backbone included; else
        only the settings that the config leaves at their defaults, and another backbone is an error.
      init_new: shell patterns (`*`) of variables that may start from the seed although `init_from` is given.
      init_leave_out: shell patterns of the tensors in `init_from` that are not used.
      final_eval: evaluate on the held-out videos after the last step and write the table.
      eval_split: which split of the datasets is held out ("val").
      eval_videos: at most so many held-out videos of each dataset are used; 0: all.
      demo_videos: this many held-out videos per task are drawn as overlay videos at the end.
      tensorboard: write TensorBoard summaries beside metrics.jsonl.
      wandb_project: Weights & Biases project; "" does not use it.
      compilation_cache: a folder in which compiled programs are kept for later runs, on a disk or in a bucket. "auto":
        that of JAX_COMPILATION_CACHE_DIR, or else tarvis_jax in the user's folder for caches (XDG_CACHE_HOME, or
        ~/.cache). "": none.
      deterministic: training gives the same bits in every run on GPUs, too, where it is slower: deformable attention
        sorts what it adds, attention is not cuDNN's, and XLA takes no operation whose result changes from run to run.
        TPUs and CPUs give the same bits anyway.
      profile: the steps that a trace is written of, in workdir/profile: "20:25" is the 21st to the 25th. "": none.
    """

    num_steps: Annotated[int, Range(1, 10**9)] = 90_000
    seed: Annotated[int, Range(0, 2**31 - 1)] = 42
    max_samples_per_device: Annotated[int, Range(0, 10**6)] = 0
    microbatches_at_once: Annotated[int, Range(1, 256)] = 1
    pack_state: bool = False
    shard: Annotated[str, OneOf(SHARDS)] = "none"
    fsdp_devices: Annotated[int, Range(0, 10**6)] = 0
    exemplar_point_probability: Annotated[float, Range(0, 1)] = 0.3
    log_steps: Annotated[int, Range(1, 10**9)] = 20
    eval_steps: _Steps = 0
    checkpoint_steps: _Steps = 10_000
    keep_checkpoints: Annotated[int, Range(1, 10**6)] = 2
    init_from: _Path = ""
    adopt_architecture: bool = False
    init_new: _Patterns = ()
    init_leave_out: _Patterns = ()
    final_eval: bool = False
    eval_split: Annotated[str, Text(100, 1)] = "val"
    eval_videos: Annotated[int, Range(0, 10**6)] = 0
    demo_videos: Annotated[int, Range(0, 10**6)] = 0
    tensorboard: bool = True
    wandb_project: Annotated[str, Text(200)] = ""
    compilation_cache: _Path = "auto"
    deterministic: bool = False
    profile: Annotated[str, Text(100)] = ""

    def __post_init__(self):
        check_fields(self)
        if self.pack_state and self.shard != "none":
            raise_problems([f"pack_state: expected False where shard is {self.shard!r}, found True"])
        if self.profile and not self.profiled_steps:
            raise_problems([f'profile: expected "FIRST:END" with FIRST below END, found {self.profile!r}'])

    @property
    def profiled_steps(self) -> range:
        """The steps of `profile`, numbered from 0."""
        found = re.fullmatch(r"(\d{1,9}):(\d{1,9})", self.profile)
        return range(*map(int, found.groups())) if found else range(0)

    @property
    def mesh_fsdp_devices(self) -> int:
        """Size of the mesh's axis "fsdp", as `make_mesh` takes it."""
        return 1 if self.shard == "none" else self.fsdp_devices


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

    learning_rate: Annotated[float, Range(0, 100)] = 1e-4
    weight_decay: Annotated[float, Range(0, 100)] = 0.05
    backbone_multiplier: Annotated[float, Range(0, 1000)] = 0.1
    clip_norm: Annotated[float, Range(0, 1e9)] = 0.01
    warmup_steps: _Steps = 10_000
    schedule: Annotated[str, OneOf(SCHEDULES)] = "step"
    decay_steps: Annotated[tuple[_Steps, ...], Length(0, 1000)] = (50_000, 84_000)
    decay_rates: Annotated[tuple[Annotated[float, Range(0, 1000)], ...], Length(0, 1000)] = (0.1, 0.1)
    total_steps: _Steps = 90_000
    beta1: _Decay = 0.9
    beta2: _Decay = 0.999
    eps: Annotated[float, Range(0, 1, above_low=True)] = 1e-8
    ema_decay: _Decay = 0.0

    def __post_init__(self):
        check_fields(self)
        problems = []
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
        raise_problems(problems)


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
    inference: Annotated[dict[Annotated[str, Text(100, 1)], InferenceConfig], Length(0, 1000)] = dataclasses.field(
        default_factory=lambda: {name: default_inference(name) for name in DATASETS}
    )

    def __post_init__(self):
        """Checks what concerns more than one part."""
        check_fields(self)
        problems = []
        semantic = dict(self.model.semantic_classes)
        divisor = self.model.size_divisor
        if self.data.size_divisor % divisor:
            problems.append(
                f"data.size_divisor: expected a multiple of the model's {divisor}, found {self.data.size_divisor}"
            )
        for dataset in self.data.datasets:
            if dataset.num_classes and semantic.get(dataset.name) != dataset.num_classes:
                problems.append(
                    f"model.semantic_classes: expected {dataset.name} with {dataset.num_classes} classes as in "
                    f"data.datasets, found {semantic.get(dataset.name)}"
                )
            if dataset.name not in self.inference:
                problems.append(f"inference.{dataset.name}: missing; known are {sorted(self.inference)}")
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
        try:
            self.dataset_infos()
        except ValueError as error:
            raise ValueError(f"model.semantic_classes: {error}") from None

    def dataset_infos(self) -> dict[str, DatasetInfo]:
        """What the run's model says of its datasets, by name: those of `data.datasets`, and those of the table."""
        given = {
            dataset.name: DatasetInfo(dataset.spec, dataset.class_names, self.inference[dataset.name])
            for dataset in self.data.datasets
        }
        return {
            name: dataclasses.replace(info, inference=self.inference.get(name, info.inference))
            for name, info in default_datasets(self.model.semantic_classes, given).items()
        }


def load_config(given: str, overrides: Sequence[str] = ()) -> Config:
    """The config of a config file with some settings replaced, settled by the environment.

    Arguments and errors are those of `load_config_file` and `settle`.
    """
    return settle(from_mapping(Config, load_config_file(given, overrides)))


def settle(config: Config, environ: Mapping[str, str] = os.environ) -> Config:
    """`config` with everything that it leaves to environment variables: done once, at the start of a command.

    What is computed then follows from the config alone, and the config is saved with the run. Settings of the config
    come before variables.

    Raises:
      ValueError: a variable has a value that the config refuses.
    """
    data = config.data
    if not data.workspace and environ.get(WORKSPACE_VARIABLE):
        workspace = os.path.abspath(os.path.expanduser(environ[WORKSPACE_VARIABLE]))
        data = dataclasses.replace(data, workspace=workspace)
    return dataclasses.replace(config, model=settle_backends(config.model, environ), data=data)
