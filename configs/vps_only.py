"""Fine-tuning on video panoptic segmentation alone (the paper's ablation of joint training).

    python main.py --config=configs/vps_only.py --workdir=runs/vps_only
    python main.py --config=configs/vps_only.py:backbone=SwinTiny --workdir=runs/vps_only_swin_tiny

It takes 25 000 steps on KITTI-STEP, Cityscapes-VPS and VIPSeg (.2, .1 and .7 of the steps).
But for the length and the weights of the semantic losses, it is configs/finetune.py, and needs the same.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    config = finetune.ablation(arg, {"KITTI_STEP": 0.2, "CITYSCAPES_VPS": 0.1, "VIPSEG": 0.7})
    config.loss.panoptic_semantic_weight = 0.25  # of its pretraining, from which the original takes it over
    config.loss.logit_norm_weight = 1e-3
    return config
