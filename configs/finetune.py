"""Fine-tuning on all seven video datasets and all four tasks together (paper, implementation details).

    python main.py --config=configs/finetune.py --workdir=runs/finetune
    python main.py --config=configs/finetune.py:backbone=SwinTiny --workdir=runs/swin_tiny
    python main.py --config=configs/finetune.py:backbone=SwinLarge --workdir=runs/swin_large --finetune_from=PRETRAINING
    python main.py --config=configs/finetune.py:datasets=OVIS+DAVIS --workdir=runs/ovis_davis

It needs the datasets (docs/data.md) in the workspace, the folder that TARVIS_WORKSPACE_DIR or --config.data.workspace
names. `datasets` chooses some of them; their shares of the batches keep their proportions, and the log says them.
`held_out_every=10` keeps about one training video in ten for evaluation (docs/evaluation.md).

It starts from the backbone's weights from ImageNet, whose file lies in the folder pretrained_backbones of the workspace
(docs/weights.md), or from a pretraining run (`--finetune_from`), as the published models do. SwinLarge has loss
settings of its own.

It takes 90 000 steps of 32 clips with 3 frames each, in bfloat16. A device computes as many clips at once as it has
memory for. It has not been run on full datasets; docs/multihost.md says what it fits on.
"""

from collections.abc import Mapping

import ml_collections

from configs import base
from input_pipeline.config import dataset_config
from tarvis_jax.config import to_plain
from tarvis_jax.datasets import DATASETS as TABLE
from tarvis_jax.datasets import class_counts

DATASETS = ("YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "BURST", "DAVIS")
WEIGHTS = {name: TABLE[name].training["weight"] for name in DATASETS}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>,datasets=<name>+<name>+...,held_out_every=<number>"."""
    options = base.parse_arg(arg, backbone="ResNet50", datasets="+".join(DATASETS), held_out_every="0")
    names = options.datasets.split("+")
    if set(names) - set(DATASETS) or len(set(names)) < len(names):
        known = ", ".join(DATASETS)
        raise ValueError(f"datasets: expected names of {known}, each once, joined by '+', found {options.datasets!r}")
    config = recipe(options.backbone, {name: WEIGHTS[name] for name in names})
    if not options.held_out_every.isdecimal():
        raise ValueError(f"held_out_every: expected a whole number, found {options.held_out_every!r:.80}")
    every = {"held_out_every": int(options.held_out_every)}
    config.data.datasets = tuple(dataset | every for dataset in config.data.datasets)
    return config


def recipe(backbone: str, weights: Mapping[str, float]) -> ml_collections.ConfigDict:
    """Fine-tuning of `backbone` on the datasets of `weights` (share of the batches by name)."""
    config = base.get_config()
    base.start_from_backbone(config, backbone)
    config.model.compute_dtype = "bfloat16"  # activations only; see ModelConfig
    config.model.semantic_classes = class_counts(weights)
    config.data.datasets = tuple(to_plain(dataset_config(name, weight=weights[name])) for name in weights)
    if backbone == "SwinLarge":
        config.loss.instance_semantic_weight = 1.0
        config.loss.panoptic_semantic_weight = 1.0
        config.loss.logit_norm_weight = 1e-3
    return config


def ablation(arg: str, weights: Mapping[str, float]) -> ml_collections.ConfigDict:
    """Some of the datasets for the 25 k steps of the ablations; `arg`: "backbone=<name>"."""
    config = recipe(base.parse_arg(arg, backbone="ResNet50").backbone, weights)
    config.train.num_steps = 25_000
    config.optimizer.decay_steps = (15_000, 23_000)
    config.optimizer.total_steps = 25_000
    return config
