"""A shipped config with next to no network, small clips of one dataset and a single step: for what is about neither.

python main.py --config=tests/rehearsal/small.py:finetune --workdir=runs/small
"""

import importlib

import ml_collections

from tests.rehearsal.recipes import LOSS, NETWORK, choose


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: the config's name, and after a comma its own argument."""
    name, _, rest = arg.partition(",")
    config = importlib.import_module(f"configs.{name}").get_config(rest)
    names = [dataset["name"] for dataset in config.data.datasets]
    choose(config, "DAVIS" if "DAVIS" in names else names[0])
    (dataset,) = config.data.datasets
    sizes = {"min_dims": (64,), "max_dim": 96}
    config.data.datasets = ({**dataset, **sizes, "buckets": ((64, 64),) if dataset["image_clips"] else ()},)
    config.data.batch_size = 1
    config.data.num_parallel = 1
    config.model.update({**NETWORK, "neck_layers": 0, "decoder_layers": 0, "object_encoder_layers": 0})
    config.loss.update(LOSS)
    config.optimizer.warmup_steps = 0
    config.train.num_steps = 1
    config.train.init_from = "random"
    config.train.tensorboard = False
    for settings in config.inference.values():
        settings.min_dim = 64
        settings.max_dim = 96
    return config
