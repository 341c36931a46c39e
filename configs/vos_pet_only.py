"""Fine-tuning on targets given by masks and points alone (the paper's ablation of joint training).

configs/vos_pet_only.py:backbone=SwinTiny for another backbone.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: as of configs/finetune.py."""
    return finetune.ablation(arg, {"BURST": 0.85, "DAVIS": 0.15})
