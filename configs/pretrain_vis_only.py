"""Pretraining on instance segmentation alone (the paper's ablation of joint training).

    python main.py --config=configs/pretrain_vis_only.py --workdir=runs/pretrain_vis_only

But for the task and the weights of the semantic losses, it is configs/pretrain.py, and needs the same. Fine-tuning goes
on from the result: `--config=configs/vis_only.py --finetune_from=runs/pretrain_vis_only`.
"""

import ml_collections

from configs import pretrain
from tarvis_jax.datasets import INSTANCE


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    config = pretrain.ablation(arg, INSTANCE)
    config.loss.instance_semantic_weight = 0.5
    config.loss.panoptic_semantic_weight = 0.75  # without effect: no batch is panoptic
    config.loss.logit_norm_weight = 1e-3
    return config
