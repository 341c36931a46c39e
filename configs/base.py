"""Every setting with its default; the other config files start from it and change what they need.

    python -c "from configs import base; print(base.get_config())"

The command prints them all. The defaults are those of the published fine-tuning. The list of datasets is empty and
nothing says which weights to start from, so this file alone trains nothing. The dataclass of each section says what its
settings mean (`tarvis_jax/run_config.py`).
"""

import ml_collections

from tarvis_jax.config import to_config_dict
from tarvis_jax.run_config import Config
from tarvis_jax.weights.backbone_files import backbone_file


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """All sections from the dataclasses' defaults; `arg` must be empty."""
    if arg:
        raise ValueError(f"configs/base.py takes no argument, found {arg!r}")
    return to_config_dict(Config())


def parse_arg(arg: str, **defaults: str) -> ml_collections.ConfigDict:
    """A config file's argument "key=value,key=value" with defaults; ValueError for a key that has none."""
    values = dict(defaults)
    for item in filter(None, arg.split(",")):
        key, separator, value = item.partition("=")
        if not separator or key not in defaults:
            raise ValueError(f"config argument {item!r}: expected key=value with a key of {sorted(defaults)}")
        values[key] = value
    return ml_collections.ConfigDict(values)


def start_from_backbone(config: ml_collections.ConfigDict, name: str) -> None:
    """Chooses the backbone, and its file from ImageNet to start from ("random" for a backbone that has none)."""
    config.model.backbone = name
    config.train.init_from = backbone_file(name)
