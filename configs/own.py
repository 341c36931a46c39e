"""Fine-tuning on your own videos: from a folder and a checkpoint to a trained model and a report.

    python main.py --config=configs/own.py:root=VIDEOS --finetune_from=CHECKPOINT --workdir=runs/mine
    python main.py --config=configs/own.py:root=VIDEOS,steps=500,batch=4 --finetune_from=CHECKPOINT --workdir=runs/mine

`VIDEOS` is a folder with videos and what a labeling tool exports for them; docs/own_data.md shows the formats and
layouts. What is found in it is printed. `CHECKPOINT` is a released .pth file, a run's workdir, a folder of
save_pretrained or an id on the hub. The network is the checkpoint's, whatever it is; of the class queries, the model
has those of your classes alone, drawn from the seed unless the checkpoint knows a dataset of the same name.

After the last step, the held-out videos are scored; eval/final/report.html in the workdir shows the scores and
pictures. The model knows your classes under the name MINE, unless you give another: `model.session(dataset="MINE")`.
"""

import ml_collections

from configs import base
from input_pipeline.own_videos import CLIP_LENGTH, own_dataset
from tarvis_jax.config import to_config_dict, to_plain
from tarvis_jax.datasets import INSTANCE
from tarvis_jax.inference.config import InferenceConfig


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "root=<folder>" and, if needed, options of `own_dataset` or the length of the training:

    format=<reader>, task=instance|exemplar, classes=<a+b+...>, name=<MINE>, held_out=<share, or names of videos as
    a+b+...>, frames=<folder for the frames of video files>, steps=<number>, batch=<clips per step>.
    """
    options = base.parse_arg(
        arg,
        root="",
        format="auto",
        task="auto",
        classes="",
        name="MINE",
        held_out="0.2",
        frames="",
        steps="2000",
        batch="8",
    )
    if not options.root:
        raise ValueError("expected root=<folder with your videos>, as in configs/own.py:root=data/my_videos")
    dataset = own_dataset(
        options.root,
        name=options.name,
        format=options.format,
        task=options.task,
        classes=tuple(filter(None, options.classes.split("+"))),
        held_out=_held_out(options.held_out),
        frames_folder=options.frames or None,
    )
    steps = int(options.steps)
    config = base.get_config()
    config.model.semantic_classes = ((dataset.name, dataset.num_classes),) if dataset.task == INSTANCE else ()
    config.model.compute_dtype = "bfloat16"  # activations only; see ModelConfig
    config.data.datasets = (to_plain(dataset),)
    config.data.batch_size = int(options.batch)
    config.data.clip_length = CLIP_LENGTH
    config.loss.interpolate_class_ids = False

    config.optimizer.warmup_steps = steps // 20
    config.optimizer.decay_steps = (max(steps * 3 // 4, steps // 20 + 1),)
    config.optimizer.decay_rates = (0.1,)
    config.optimizer.total_steps = steps

    config.train.adopt_architecture = True
    config.train.num_steps = steps
    config.train.checkpoint_steps = 500
    config.train.final_eval = True
    config.train.demo_videos = 1
    (side,) = dataset.min_dims
    most = max(InferenceConfig().max_tracks, dataset.max_instances)
    inference = InferenceConfig(min_dim=side, max_dim=dataset.max_dim, max_tracks=most, max_predictions=most)
    config.inference = ml_collections.ConfigDict({dataset.name: to_config_dict(inference)})
    return config


def _held_out(text: str) -> float | tuple[str, ...]:
    """A share is a number; all else are names."""
    try:
        return float(text)
    except ValueError:
        return tuple(filter(None, text.split("+")))
