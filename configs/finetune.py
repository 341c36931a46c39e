"""Fine-tuning on all seven video datasets and all four tasks together (paper, implementation details).

    python main.py --config=configs/finetune.py --workdir=runs/finetune
    python main.py --config=configs/finetune.py:backbone=SwinTiny --workdir=runs/swin_tiny
    python main.py --config=configs/finetune.py:backbone=SwinLarge --workdir=runs/swin_large --finetune_from=PRETRAINING

It needs the datasets (docs/data.md) in the workspace, the folder that TARVIS_WORKSPACE_DIR or --config.data.workspace
names, and weights to start from: `--finetune_from` takes a pretrained checkpoint, `--config.train.init_from` an image
backbone (docs/weights.md). Without them the network starts from random weights. SwinLarge has loss settings of its own.

It takes 90 000 steps of 32 clips with 3 frames each, in bfloat16. A device computes one clip at a time, whatever the
number of devices is. It has not been run on full datasets; docs/benchmarks.md says how much memory a step needs on H200
and TPU v5e.
"""

import ml_collections

from configs import base
from input_pipeline.config import dataset_config
from tarvis_jax.config import to_plain
from tarvis_jax.datasets import class_counts

DATASETS = ("YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "BURST", "DAVIS")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    options = base.parse_arg(arg, backbone="ResNet50")
    config = base.get_config()
    config.model.backbone = options.backbone
    config.model.compute_dtype = "bfloat16"  # activations only; see ModelConfig
    config.data.datasets = tuple(to_plain(dataset_config(name)) for name in DATASETS)
    if options.backbone == "SwinLarge":
        config.loss.instance_semantic_weight = 1.0
        config.loss.panoptic_semantic_weight = 1.0
        config.loss.logit_norm_weight = 1e-3
    return config


def ablation(arg: str, weights: dict[str, float]) -> ml_collections.ConfigDict:
    """Some of the datasets for the 25 k steps of the ablations; the model keeps the class queries of these alone."""
    config = get_config(arg)
    datasets = [dataset_config(name, weight=weight) for name, weight in weights.items()]
    config.data.datasets = tuple(to_plain(dataset) for dataset in datasets)
    config.model.semantic_classes = class_counts(weights)
    config.train.num_steps = 25_000
    config.optimizer.decay_steps = (15_000, 23_000)
    config.optimizer.total_steps = 25_000
    return config
