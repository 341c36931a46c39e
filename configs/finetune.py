"""Fine-tuning on all video datasets and tasks jointly (paper, implementation details).

configs/finetune.py                       ResNet-50
configs/finetune.py:backbone=SwinTiny     also SwinLarge, with its own loss settings, and every other backbone
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
