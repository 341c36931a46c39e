"""The tiny run with a backbone as the reference has them, and a checkpoint of the reference to take it from."""

import pathlib

import ml_collections
import yaml

from tarvis_jax.model import backbones
from tarvis_jax.model.config import BACKBONE_FAMILIES, ModelConfig
from tarvis_jax.weights.pytorch.files import write_torch_file
from tarvis_jax.weights.pytorch.mapping import export_weights
from tarvis_jax.weights.pytorch.reference import reference_config
from tarvis_jax.weights.pytorch.rules import model_rules
from tests import tiny
from tests.parallel import tiny_run
from tests.weights.pytorch import mini

BACKBONE = "ResNetMini"
_ALL_ELSE = ("[!b]*",)  # names that do not start as those of the backbone; the reference has one size only, no tiny one


def get_config(arg: str) -> ml_collections.ConfigDict:
    """`arg`: the number of steps. Makes the backbone known to the process that reads this."""
    backbones.BACKBONES[BACKBONE], BACKBONE_FAMILIES[BACKBONE] = mini.CONFIGS[BACKBONE], "resnet"
    config = tiny_run.get_config(arg)
    config.model.backbone = BACKBONE
    config.train.init_new = config.train.init_leave_out = _ALL_ELSE
    return config


def write_checkpoint(path: pathlib.Path) -> None:
    """A .pth of a model of the reference's size with that backbone, which is known, and its config.yaml."""
    config = ModelConfig(backbone=BACKBONE, semantic_classes=())
    write_torch_file(path, export_weights(tiny.variables(config), model_rules(config)))
    (path.parent / "config.yaml").write_text(yaml.safe_dump(reference_config(config)))
