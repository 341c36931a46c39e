"""Pretraining on targets given by masks and points alone (the paper's ablation of joint training).

    python main.py --config=configs/pretrain_vos_pet_only.py --workdir=runs/pretrain_vos_pet_only

But for the task, it is configs/pretrain.py, and needs the same. Fine-tuning goes on
from the result: `--config=configs/vos_pet_only.py --finetune_from=runs/pretrain_vos_pet_only`.
"""

import ml_collections

from configs import pretrain
from tarvis_jax.datasets import EXEMPLAR


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "backbone=<name>"."""
    return pretrain.ablation(arg, EXEMPLAR)
