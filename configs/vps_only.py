"""Fine-tuning on video panoptic segmentation alone (the paper's ablation of joint training).

configs/vps_only.py:backbone=SwinTiny for another backbone.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: as of configs/finetune.py."""
    config = finetune.ablation(arg, {"KITTI_STEP": 0.2, "CITYSCAPES_VPS": 0.1, "VIPSEG": 0.7})
    config.loss.logit_norm_weight = 1e-3
    return config
