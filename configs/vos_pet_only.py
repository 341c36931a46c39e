"""Fine-tuning on targets given by masks and points alone (the paper's ablation of joint training).

    python main.py --config=configs/vos_pet_only.py --workdir=runs/vos_pet_only
    python main.py --config=configs/vos_pet_only.py:backbone=SwinTiny --workdir=runs/vos_pet_only_swin_tiny

It takes 25 000 steps on BURST and DAVIS (.85 and .15 of the steps).
But for the length, it is configs/finetune.py, and needs the same.
"""

import ml_collections

from configs import finetune


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    return finetune.ablation(arg, {"BURST": 0.85, "DAVIS": 0.15})
