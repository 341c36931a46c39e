"""Checkpoints of the PyTorch reference: read, converted strictly, and written back."""

import dataclasses
import pathlib
import re
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import yaml

from tarvis_jax.config import from_mapping
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import DATASETS, EXEMPLAR_KINDS, class_counts
from tarvis_jax.fields import shown
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.model.backbones import BACKBONES, ConvNextConfig, ResNetConfig, SwinConfig
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, flatten
from tarvis_jax.weights.deferred import Deferred
from tarvis_jax.weights.pytorch.files import StoredTensor, read_torch_file
from tarvis_jax.weights.pytorch.mapping import convert_weights, export_weights, plan_weights
from tarvis_jax.weights.pytorch.rules import model_rules
from tarvis_jax.weights.report import Report

# Datasets whose section of the reference's config.yaml has a part INFERENCE: it refuses keys that its defaults lack.
_VIDEO_DATASETS = ("YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "BURST", "DAVIS")
# Keys of DATASETS.X.INFERENCE in the reference's config.yaml, and the fields of InferenceConfig that hold the same.
_CLIP_KEYS = {"CLIP_LENGTH": "clip_length", "FRAME_OVERLAP": "overlap"}
_TRACK_KEYS = {"MAX_TRACKS_PER_CLIP": "max_tracks", "TRACK_SCORE_THRESHOLD": "score_threshold"}  # VIS and VPS
_SPARSE_STEP = 5  # frames of Cityscapes-VPS, where SPARSE_FRAMES is true


def read_torch_checkpoint(path: str | pathlib.Path) -> tuple[dict[str, StoredTensor], dict[str, Any]]:
    """Opens a checkpoint of the reference and the `config.yaml` beside it, without PyTorch and without running code.

    Args:
      path: the `.pth` file, {"model": state dict, ...}.

    Returns:
      The state dict, whose tensors are read when asked for, and the parsed configuration.

    Raises:
      ValueError: the file is not such a checkpoint, or it or its config.yaml is absent.
    """
    path = pathlib.Path(path)
    config_path = path.parent / "config.yaml"
    for file in (path, config_path):
        if not file.exists():
            raise ValueError(f"{file}: expected a checkpoint of the reference with its config.yaml beside it")
    content = read_torch_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        found = sorted(map(str, content))[:10] if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: expected a dict with the state dict under 'model', found {found}")
    state_dict = content["model"]
    check_state_dict(state_dict, path)
    try:
        config = yaml.safe_load(config_path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{config_path}: cannot be read as YAML: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{config_path}: expected a mapping, found {type(config).__name__}")
    return state_dict, config


def check_state_dict(state_dict: Mapping[Any, Any], path: str | pathlib.Path) -> None:
    """ValueError if anything but named tensors is in it; lists what."""
    odd = [
        f"{name!r:.100}: {type(value).__name__}"
        for name, value in state_dict.items()
        if not isinstance(value, StoredTensor) or not isinstance(name, str)
    ]
    if odd:
        raise ValueError(f"{path}: expected a state dict of named tensors, found something else: {', '.join(odd[:10])}")


def identify_backbone(state_dict: Mapping[str, Any]) -> str | None:
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


def model_config_from_reference(config: Mapping[str, Any], state_dict: Mapping[str, Any]) -> ModelConfig:
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
    classes = class_counts(names)
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


def inference_from_reference(config: Mapping[str, Any], datasets: Mapping[str, DatasetInfo]) -> dict[str, DatasetInfo]:
    """`datasets` with what a config.yaml of the reference says of inference.

    Of DATASETS.X.INFERENCE, these keys say how videos are cut, resized and stitched: CLIP_LENGTH, FRAME_OVERLAP,
    IMAGE_RESIZE (MODE, MIN_DIMS, MAX_DIM), MAX_TRACKS_PER_CLIP and TRACK_SCORE_THRESHOLD. MODE of BURST says by what
    the objects of a split are given, and SPARSE_FRAMES of CITYSCAPES_VPS whether every fifth frame or every frame of
    it is taken. What a file does not say is as in the table of datasets. The name of the split (SPLIT) and the place of
    tensors (POSTPROCESS_ON_CPU) are left out.

    Args:
      config: the parsed file.
      datasets: those of the model, all of them in the table.

    Raises:
      ValueError: a value is out of its range, or a mode of resizing is not one of ours; names the key.
    """
    sections = _section(config, "DATASETS", "config.yaml")
    found = {}
    for name, info in datasets.items():
        where = f"config.yaml: DATASETS.{name}"
        section = _section(_section(sections, name, where), "INFERENCE", f"{where}.INFERENCE")
        try:
            changes = {"inference": _inference_config(section, default_inference(name))} if section else {}
            found[name] = dataclasses.replace(info, **changes, **_split_settings(name, section))
        except ValueError as error:
            raise ValueError(f"{where}.INFERENCE: {error}") from None
    return found


def _inference_config(section: Mapping[str, Any], default: InferenceConfig) -> InferenceConfig:
    """`default` with what a section DATASETS.X.INFERENCE says."""
    names = _CLIP_KEYS | _TRACK_KEYS
    settings = {ours: section[theirs] for theirs, ours in names.items() if theirs in section}
    resize = _section(section, "IMAGE_RESIZE", "IMAGE_RESIZE")
    if "MAX_DIM" in resize:
        settings["max_dim"] = resize["MAX_DIM"]
    mode = resize.get("MODE", "none" if default.min_dim is None else "min_dim")
    if mode == "none":
        settings["min_dim"] = None
    elif mode == "min_dim":
        smaller = resize.get("MIN_DIMS", default.min_dim)
        smaller = smaller[0] if isinstance(smaller, list) and len(smaller) == 1 else smaller
        if smaller is None or isinstance(smaller, list):  # of several, the reference draws one for every clip
            raise ValueError(f"IMAGE_RESIZE.MIN_DIMS: expected one number, found {shown(smaller)}")
        settings["min_dim"] = smaller
    else:
        raise ValueError(
            f"IMAGE_RESIZE.MODE: expected 'min_dim' or 'none', found {shown(mode)}, which is not supported: change it "
            "in the file, to 'min_dim' with MIN_DIMS and MAX_DIM"
        )
    return from_mapping(InferenceConfig, dataclasses.asdict(default) | settings, "settings")


def _split_settings(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
    """Which frames and objects of a split are taken: fields of DatasetInfo. The reference reads no others."""
    if name == "BURST" and "MODE" in section:
        if section["MODE"] not in EXEMPLAR_KINDS:
            raise ValueError(f"MODE: expected one of {', '.join(EXEMPLAR_KINDS)}, found {shown(section['MODE'])}")
        return {"split_exemplar": section["MODE"]}
    if name == "CITYSCAPES_VPS" and "SPARSE_FRAMES" in section:
        if not isinstance(section["SPARSE_FRAMES"], bool):
            raise ValueError(f"SPARSE_FRAMES: expected true or false, found {shown(section['SPARSE_FRAMES'])}")
        return {"split_frame_step": _SPARSE_STEP if section["SPARSE_FRAMES"] else 1}
    return {}


def _section(mapping: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    """A section of a YAML file; empty if it is absent."""
    section = mapping.get(key, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{where}: expected a section of settings, found {shown(section)}")
    return section


def check_backbone(asked_for: str, state_dict: Mapping[str, Any]) -> None:
    """ValueError if the weights are those of another backbone than `asked_for`."""
    found = identify_backbone(state_dict)
    if found is not None and found != asked_for:
        raise ValueError(
            f"the checkpoint holds the weights of another backbone: expected {asked_for}, but it looks like {found}"
        )


def open_reference_checkpoint(
    path: str | pathlib.Path,
) -> tuple[ModelConfig, dict[str, Deferred], dict[str, DatasetInfo], Report]:
    """Checks a checkpoint of the reference and gives its variables to be read one at a time.

    Strict: every tensor is used exactly once and every variable is filled exactly once.

    Args:
      path: the `.pth` file, with its config.yaml beside it.

    Returns:
      The architecture; {path: array that `np.asarray` reads}; by name the datasets that the model can be asked for,
      with the settings of inference that config.yaml gives them; the report.

    Raises:
      ValueError: all tensors that do not fit, in one message.
    """
    state_dict, config = read_torch_checkpoint(path)
    try:
        model_config = model_config_from_reference(config, state_dict)
        variables, report = plan_weights(
            state_dict, flatten(abstract_model(model_config)), model_rules(model_config), source=str(path)
        )
        datasets = inference_from_reference(config, default_datasets(model_config.semantic_classes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return model_config, variables, datasets, report


def load_reference_checkpoint(path: str | pathlib.Path) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """`open_reference_checkpoint` with the values read; `variables.fill` makes the model."""
    model_config, variables, _, _ = open_reference_checkpoint(path)
    return model_config, {name: np.asarray(value) for name, value in variables.items()}


def from_reference_state_dict(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """Variables of `TarViS(config)` (flat dict) from a state dict; one ValueError lists all that is wrong."""
    check_backbone(config.backbone, state_dict)
    return convert_weights(state_dict, flatten(abstract_model(config)), model_rules(config))


def to_reference_state_dict(variables: Mapping[str, Any], config: ModelConfig) -> dict[str, np.ndarray]:
    """The inverse of `from_reference_state_dict`, bit for bit: a state dict that the reference loads strictly."""
    return {name: np.asarray(value) for name, value in export_weights(variables, model_rules(config)).items()}


def reference_config(
    config: ModelConfig, datasets: Mapping[str, DatasetInfo] = types.MappingProxyType({})
) -> dict[str, Any]:
    """What the reference's config.yaml says of this architecture: the keys that decide it (its others have defaults).

    Args:
      config: the architecture.
      datasets: by name; the reference's video datasets among them bring their settings of inference.

    Raises:
      ValueError: the architecture is not one of the reference's.
    """
    default = ModelConfig()
    fixed = ("hidden_size", "num_heads", "neck_layers", "neck_points", "temporal_window", "decoder_layers")
    different = [name for name in fixed if getattr(config, name) != getattr(default, name)]
    unknown = [
        name
        for name, number in config.semantic_classes
        if name not in DATASETS or DATASETS[name].spec.num_classes != number
    ]
    if different or unknown:
        raise ValueError(
            f"the reference has no such model: expected its defaults for {different} and its datasets with their own "
            f"numbers of classes, found others for {unknown}"
        )
    inference = {
        name: {"INFERENCE": _inference_section(info) | _split_section(name, info)}
        for name, info in datasets.items()
        if name in _VIDEO_DATASETS
    }
    return {
        "MODEL": {
            "BACKBONE": config.backbone,
            "CROSS_ATTENTION_TYPE": config.cross_attention,
            "NUM_OBJECT_QUERIES": config.num_instance_queries,
            "NUM_BACKGROUND_QUERIES": config.num_background_queries,
            "NUM_VOS_QUERIES_PER_OBJECT": config.num_queries_per_object,
        },
        "TRAINING": {"DATASET_LIST": [name for name, _ in config.semantic_classes]},
        **({"DATASETS": inference} if inference else {}),
    }


def _inference_section(info: DatasetInfo) -> dict[str, Any]:
    """The inverse of `_inference_config`."""
    names = _CLIP_KEYS | (_TRACK_KEYS if info.spec.num_classes else {})
    smaller = info.inference.min_dim
    resize = {"MODE": "none"} if smaller is None else {"MODE": "min_dim", "MIN_DIMS": smaller}
    settings = {theirs: getattr(info.inference, ours) for theirs, ours in names.items()}
    return settings | {"IMAGE_RESIZE": {**resize, "MAX_DIM": info.inference.max_dim}}


def _split_section(name: str, info: DatasetInfo) -> dict[str, Any]:
    """The inverse of `_split_settings`."""
    if name == "BURST" and info.split_exemplar is not None:
        return {"MODE": info.split_exemplar}
    if name == "CITYSCAPES_VPS" and info.split_frame_step is not None:
        return {"SPARSE_FRAMES": info.split_frame_step > 1}
    return {}
