"""Checkpoints of the PyTorch reference: read, converted strictly, and written back."""

import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from tarvis_jax.convert.rules import model_rules
from tarvis_jax.convert.weights import convert_weights, export_weights
from tarvis_jax.datasets import DATASETS
from tarvis_jax.model.backbones import BACKBONES, ConvNextConfig, ResNetConfig, SwinConfig
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model


def read_torch_checkpoint(path: str | pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a checkpoint of the reference and the `config.yaml` beside it.

    Only tensors are unpickled; a file that would run code is refused.

    Args:
      path: the `.pth` file, {"model": state dict, ...}.

    Returns:
      The state dict as numpy arrays, and the parsed configuration.

    Raises:
      ValueError: the file is not such a checkpoint, or holds a type that numpy lacks.
      FileNotFoundError: the checkpoint or its config.yaml is absent.
    """
    import torch

    path = pathlib.Path(path)
    config_path = path.parent / "config.yaml"
    for file in (path, config_path):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: expected a checkpoint of the reference with its config.yaml beside it")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a file of tensors only, refused: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected a dict with the state dict under 'model', found {found}")
    state_dict = content["model"]
    odd = [
        name
        for name, value in state_dict.items()
        if not isinstance(value, torch.Tensor) or value.dtype == torch.bfloat16
    ]
    if odd:
        raise ValueError(f"{path}: expected float32 and integer tensors, found something else under {odd}")
    config = yaml.safe_load(config_path.read_text())
    if not isinstance(config, dict):
        raise ValueError(f"{config_path}: expected a mapping, found {type(config).__name__}")
    return {name: value.numpy() for name, value in state_dict.items()}, config


def identify_backbone(state_dict: Mapping[str, np.ndarray]) -> str | None:
    """Which backbone a state dict of the reference holds, by the depths and widths of its stages; None if unknown."""

    def depths(pattern: str) -> tuple[int, ...]:
        blocks = {match.groups() for name in state_dict if (match := re.match(pattern, name))}
        stages = sorted({stage for stage, _ in blocks})
        return tuple(sum(stage == s for s, _ in blocks) for stage in stages)

    def width(name: str) -> int | None:
        return state_dict[name].shape[0] if name in state_dict else None

    resnet = depths(r"backbone\.backbone\.res(\d)\.(\d+)\.")
    swin = depths(r"backbone\.backbone\.layers\.(\d)\.blocks\.(\d+)\.")
    convnext = depths(r"backbone\.backbone\.stages\.(\d)\.(\d+)\.")
    for name, config in BACKBONES.items():
        match config:
            case ResNetConfig(block="bottleneck"):
                fits = config.depths == resnet
            case SwinConfig():
                embed = width("backbone.backbone.patch_embed.proj.weight")
                fits = config.depths == swin and config.channels == embed
            case ConvNextConfig():
                fits = config.depths == convnext and config.channels[0] == width(
                    "backbone.backbone.downsample_layers.0.0.weight"
                )
            case _:
                fits = False
        if fits:
            return name
    return None


def model_config_from_reference(config: Mapping[str, Any], state_dict: Mapping[str, np.ndarray]) -> ModelConfig:
    """The architecture of a checkpoint of the reference.

    Args:
      config: the reference's config.yaml: MODEL.* and TRAINING.DATASET_LIST (the datasets whose classes have queries).
      state_dict: its weights; checked to be of the configured backbone and number of classes.

    Raises:
      ValueError: a key is missing, a dataset or backbone is unknown, or the weights contradict the configuration.
    """

    def get(section: str, key: str):
        if key not in config.get(section, {}):
            raise ValueError(f"config.yaml of the reference: expected {section}.{key}, found {sorted(config)}")
        return config[section][key]

    backbone = get("MODEL", "BACKBONE")
    if backbone not in BACKBONES:
        raise ValueError(f"config.yaml: MODEL.BACKBONE: expected one of {sorted(BACKBONES)}, found {backbone!r}")
    check_backbone(backbone, state_dict)
    names = get("TRAINING", "DATASET_LIST")
    unknown = sorted(set(names) - set(DATASETS))
    if unknown:
        raise ValueError(f"config.yaml: TRAINING.DATASET_LIST: expected names of {sorted(DATASETS)}, found {unknown}")
    classes = tuple((name, DATASETS[name].num_classes) for name in sorted(names) if DATASETS[name].num_classes)
    table = state_dict.get("embedding_container._semantic_queries")
    num_rows = 1 + sum(k for _, k in classes)
    if table is not None and table.shape[0] != num_rows:
        raise ValueError(
            f"embedding_container._semantic_queries: expected {num_rows} rows for 1 embedding and the classes of "
            f"TRAINING.DATASET_LIST {dict(classes)}, found {table.shape[0]}"
        )
    return ModelConfig(
        backbone=backbone,
        cross_attention=get("MODEL", "CROSS_ATTENTION_TYPE"),
        num_instance_queries=get("MODEL", "NUM_OBJECT_QUERIES"),
        num_background_queries=get("MODEL", "NUM_BACKGROUND_QUERIES"),
        num_queries_per_object=get("MODEL", "NUM_VOS_QUERIES_PER_OBJECT"),
        semantic_classes=classes,
    )


def check_backbone(asked_for: str, state_dict: Mapping[str, np.ndarray]) -> None:
    """ValueError if the weights are those of another backbone than `asked_for`."""
    found = identify_backbone(state_dict)
    if found is not None and found != asked_for:
        raise ValueError(
            f"the checkpoint holds the weights of another backbone: expected {asked_for}, but it looks like {found}"
        )


def load_reference_checkpoint(path: str | pathlib.Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Loads a checkpoint of the reference as (architecture, variables); `variables.fill` makes the model.

    Strict: every tensor is used exactly once and every variable is filled exactly once.

    Args:
      path: the `.pth` file, with its config.yaml beside it.

    Raises:
      ValueError: all tensors that do not fit, in one message.
    """
    state_dict, config = read_torch_checkpoint(path)
    try:
        model_config = model_config_from_reference(config, state_dict)
        return model_config, from_reference_state_dict(state_dict, model_config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_reference_state_dict(state_dict: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """Variables of `TarViS(config)` (flat dict) from a state dict; one ValueError lists all that is wrong."""
    check_backbone(config.backbone, state_dict)
    return convert_weights(state_dict, abstract_model(config), model_rules(config))


def to_reference_state_dict(variables: Mapping[str, np.ndarray], config: ModelConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_reference_state_dict`, bit for bit: a state dict that the reference loads strictly."""
    return export_weights(variables, model_rules(config))
