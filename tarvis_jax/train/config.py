"""How long to train, what to log, evaluate and keep."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The training loop. Durations are in optimiser steps; 0 switches the thing off.

    Attributes:
      num_steps: optimiser steps in all.
      seed: of initialisation, data order and every random draw.
      max_samples_per_device: a device never sees more samples at once; the global batch (`data.batch_size`) is kept by
        accumulating gradients over microbatches. 0: no limit.
      exemplar_point_probability: each object of an exemplar batch is given by a point with this probability, else by
        its mask (0.3 in the paper).
      log_steps: steps between two progress lines and metric entries.
      eval_steps: steps between two evaluations on the held-out videos.
      checkpoint_steps: steps between two checkpoints (the last step is always saved).
      keep_checkpoints: how many of the newest checkpoints stay on disk.
      init_from: weights to start from: another run's workdir or a checkpoint of the reference (.pth); "" draws them
        from the seed.
      final_eval: evaluate on the held-out videos after the last step and write the table.
      demo_videos: this many held-out videos per task are drawn as overlay videos at the end.
      tensorboard: write TensorBoard summaries beside metrics.jsonl.
      wandb_project: Weights & Biases project; "" does not use it.
      profile_steps: trace this many steps, from the tenth on, into workdir/profile.
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
    final_eval: bool = False
    demo_videos: int = 0
    tensorboard: bool = True
    wandb_project: str = ""
    profile_steps: int = 0
    distributed: bool = False

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, found {self.num_steps}")
        if not 0.0 <= self.exemplar_point_probability <= 1.0:
            raise ValueError(f"exemplar_point_probability: expected 0..1, found {self.exemplar_point_probability}")
        for name in ("log_steps", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
