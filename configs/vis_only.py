"""Fine-tuning on video instance segmentation alone (the paper's ablation of joint training).

    python main.py --config=configs/vis_only.py --workdir=runs/vis_only
    python main.py --config=configs/vis_only.py:backbone=SwinTiny --workdir=runs/vis_only_swin_tiny

It takes 25 000 steps on YouTube-VIS and OVIS (half of the steps each).
But for the length and the weights of the semantic losses, it is configs/finetune.py, and needs the same.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    config = finetune.ablation(arg, {"YOUTUBE_VIS": 0.5, "OVIS": 0.5})
    config.loss.instance_semantic_weight = 0.5
    config.loss.panoptic_semantic_weight = 0.75  # without effect: no batch is panoptic
    config.loss.logit_norm_weight = 1e-3
    return config
