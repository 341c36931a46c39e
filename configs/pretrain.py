"""Pretraining on four sets of images, of which clips are made, for all tasks together (paper, implementation details).

    python main.py --config=configs/pretrain.py --workdir=runs/pretrain
    python main.py --config=configs/pretrain.py:backbone=SwinTiny --workdir=runs/pretrain_swin_tiny
    python main.py --config=configs/pretrain.py:backbone=SwinLarge --workdir=runs/pretrain_swin_large
    python main.py --config=configs/pretrain.py:datasets=COCO+ADE20K --workdir=runs/pretrain_coco_ade20k

It needs COCO, ADE20K, Cityscapes and Mapillary Vistas with their panoptic maps (docs/data.md) in the workspace, or
those of them that `datasets` names, and the backbone's weights from ImageNet (docs/weights.md). Fine-tuning goes on
from the result: `--config=configs/finetune.py --finetune_from=runs/pretrain`.

It takes 500 000 steps of 32 clips with 3 frames of 512x512 pixels each, in bfloat16. Every 8 steps are of one dataset
and one task: instance .3, panoptic .3, exemplar .4. It has not been run on the full datasets.
"""

import ml_collections

from configs import base
from input_pipeline.config import dataset_config
from tarvis_jax.config import to_plain
from tarvis_jax.datasets import class_counts

DATASETS = ("COCO", "ADE20K", "CITYSCAPES", "MAPILLARY")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>,datasets=<name>+<name>+..."."""
    options = base.parse_arg(arg, backbone="ResNet50", datasets="+".join(DATASETS))
    names = options.datasets.split("+")
    if set(names) - set(DATASETS) or len(set(names)) < len(names):
        known = ", ".join(DATASETS)
        raise ValueError(f"datasets: expected names of {known}, each once, joined by '+', found {options.datasets!r}")
    config = recipe(options.backbone, names)
    if options.backbone == "SwinLarge":
        config.loss.instance_semantic_weight = 0.75
        config.loss.panoptic_semantic_weight = 0.75
        config.loss.suppress_absent_classes = True
    return config


def recipe(backbone: str, names: tuple[str, ...], **of_datasets) -> ml_collections.ConfigDict:
    """Pretraining of `backbone` on some of the datasets, all with the fields `of_datasets` of `DatasetConfig`."""
    config = base.get_config()
    base.start_from_backbone(config, backbone)
    config.model.compute_dtype = "bfloat16"  # activations only; see ModelConfig
    config.model.semantic_classes = class_counts(names)
    config.data.datasets = tuple(to_plain(dataset_config(name, **of_datasets)) for name in names)
    config.loss.num_points_semantic = 25_088
    config.train.num_steps = 500_000
    config.train.checkpoint_steps = 20_000
    config.optimizer.warmup_steps = 0
    config.optimizer.decay_steps = (444_500, 481_500)
    config.optimizer.total_steps = 500_000
    return config


def ablation(arg: str, task: str) -> ml_collections.ConfigDict:
    """Pretraining on one task alone; `arg`: "backbone=<name>"."""
    return recipe(base.parse_arg(arg, backbone="ResNet50").backbone, DATASETS, task_weights=((task, 1.0),))
