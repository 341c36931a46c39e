"""Fine-tuning on video instance segmentation alone (the paper's ablation of joint training).

configs/vis_only.py:backbone=SwinTiny for another backbone.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: as of configs/finetune.py."""
    config = finetune.ablation(arg, {"YOUTUBE_VIS": 0.5, "OVIS": 0.5})
    config.loss.instance_semantic_weight = 0.5
    config.loss.logit_norm_weight = 1e-3
    return config
