"""Segments what the command line names with a trained run or a checkpoint of the reference."""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from absl import logging

from tarvis_jax.api import load
from tarvis_jax.commands.infer_split import segment_split
from tarvis_jax.compiled import keep_between_runs
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.video import segment_video
from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target

MAX_SIDE = 16384  # pixels of a mask given as RLE, whose size costs its writer nothing


# What --mode=infer takes for one video, for the videos of a split, and for a folder of videos.
_ALLOWED = {"input": ("targets",)}
_ALLOWED["clips"] = ("videos", "share", "format", "overlays", "min_score", "polygons")
_ALLOWED["split"] = (*_ALLOWED["clips"], "data_root", "exemplar", "frame_step")
_SETTINGS = ("clip_length", "overlap", "min_dim", "max_dim")


def run_inference(
    *, checkpoint: str, dataset: str, output: str, dtype: str | None = None, clip_batch: int = 0, **given: Any
) -> None:
    """Segments one video (`segment_input`), or those of a split or a folder (`segment_split`), by the flags of main.py.

    Raises:
      ValueError: flags that do not go together, or see these two functions.
    """
    changes = {name: given.pop(name) for name in _SETTINGS if name in given}
    kinds = [name for name in _ALLOWED if name in given]
    if len(kinds) != 1:
        raise ValueError(
            "--mode=infer needs --input for one video, --split for those of a benchmark or --clips for a folder, "
            "one of the three"
        )
    wrong = [f"--{name}" for name in given if name not in (kinds[0], *_ALLOWED[kinds[0]])]
    if wrong:
        raise ValueError(f"--mode=infer with --{kinds[0]} does not take {', '.join(wrong)}")

    def settings(config: InferenceConfig) -> InferenceConfig:
        return with_changes(config, changes, dataset)

    how = {"dtype": dtype, "settings": settings, "clip_batch": clip_batch}
    if "input" in given:
        targets = given.get("targets")
        segment_input(checkpoint, given["input"], output, dataset, targets, **how)
    else:
        segment_split(checkpoint, dataset, given.pop("split", None), output, **how, **given)


def with_changes(config: InferenceConfig, changes: Mapping[str, int], dataset: str) -> InferenceConfig:
    """The settings of a checkpoint with those of the command line in their place; a `min_dim` of 0 keeps the size.

    Raises:
      ValueError: they do not fit each other.
    """
    values = {name: None if name == "min_dim" and value == 0 else value for name, value in changes.items()}
    try:
        return dataclasses.replace(config, **values)
    except ValueError as error:
        given = ", ".join(f"--{name}={value}" for name, value in changes.items())
        raise ValueError(f"{given}, the other settings being those of the checkpoint for {dataset}: {error}") from None


def segment_input(
    checkpoint: str,
    input_path: str,
    output: str,
    dataset: str,
    targets: str | None = None,
    *,
    dtype: str | None = None,
    settings: Callable[[InferenceConfig], InferenceConfig] = lambda config: config,
    clip_batch: int = 0,
) -> None:
    """Segments one video and writes results and overlays.

    Args:
      checkpoint: anything `tarvis_jax.load` takes: a run's workdir, a checkpoint of the reference (.pth with its
        config.yaml beside it), a folder that `save_pretrained` wrote, an id on the hub.
      input_path: a folder of frames or a video file.
      output: folder for the results.
      dataset: whose classes to look for, or whose settings to use for given targets.
      targets: JSON file with the objects to follow, see `read_targets`.
      dtype: of activations, see `tarvis_jax.load`.
      settings: changes those of the checkpoint.
      clip_batch: clips that go through the network at once, see `Session`.

    Raises:
      ValueError: unknown dataset, unreadable input or targets.
    """
    keep_between_runs()
    given = read_targets(targets) if targets else ()
    model = load(checkpoint, dtype=dtype)
    if dataset not in model.datasets:
        raise ValueError(f"--dataset={dataset}: expected one of {sorted(model.datasets)}")
    info = model.datasets[dataset]
    config = settings(info.inference)
    pathlib.Path(output).mkdir(parents=True, exist_ok=True)  # what cannot be written is known before the work
    _, summary = segment_video(
        model.predictor,
        dataset,
        input_path,
        output,
        targets=given,
        spec=info.spec,
        config=config,
        class_names=dict(enumerate(info.class_names, start=1)),
        clip_batch=clip_batch,
    )
    logging.info("%s", summary)


def read_targets(path: str | pathlib.Path) -> list[Target]:
    """Reads the objects to follow: a JSON list of {"id": "dog", "frame": 0, "point_yx": [y, x]} or, for masks,
    {"id": 1, "frame": 0, "mask": ...}, where the mask is an image file (non-zero = object; in the JSON's folder or
    below) or an RLE {"size", "counts"}; ids are numbers or strings. An id may come in several frames: those after the
    first correct it.

    Raises:
      ValueError: not such a list, or an image that cannot be read.
    """
    path = pathlib.Path(path)
    try:
        entries = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"--targets={path}: cannot be read as JSON: {error}") from error
    if not isinstance(entries, list):
        raise ValueError(f"{path}: expected a list of targets, found {type(entries).__name__}")
    return [_target(entry, f"{path}[{i}]", path.parent) for i, entry in enumerate(entries)]


def _target(entry: Any, where: str, folder: pathlib.Path) -> Target:
    if not isinstance(entry, dict) or not {"id", "frame"} <= entry.keys() or ("mask" in entry) == ("point_yx" in entry):
        raise ValueError(f"{where}: expected keys id, frame and either mask or point_yx, found {entry!r}")
    unknown = sorted(entry.keys() - {"id", "frame", "mask", "point_yx"})
    if unknown:
        raise ValueError(f"{where}: unknown keys {unknown}; known are id, frame, mask, point_yx")
    frame, identity = entry["frame"], entry["id"]
    if type(frame) is not int or frame < 0:
        raise ValueError(f"{where}: frame: expected a whole number from 0 on, found {frame!r}")
    if type(identity) not in (int, str):
        raise ValueError(f"{where}: id: expected a whole number or a text, found {identity!r}")
    if "mask" in entry:
        return Target(frame, identity, mask=_mask(entry["mask"], where, folder))
    point = entry["point_yx"]
    if not isinstance(point, list) or len(point) != 2 or not all(type(value) in (int, float) for value in point):
        raise ValueError(f"{where}: point_yx: expected two numbers [y, x], found {point!r}")
    return Target(frame, identity, point_yx=(float(point[0]), float(point[1])))


def _mask(value: Any, where: str, folder: pathlib.Path) -> np.ndarray:
    if isinstance(value, dict):
        size = value.get("size")
        if not isinstance(size, list) or len(size) != 2 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in size):
            raise ValueError(f"{where}: size of the mask: expected [height, width] in 1..{MAX_SIDE}, found {size!r}")
        return rle.decode(rle.to_rle(value, *size, where))
    if not isinstance(value, str):
        raise ValueError(f"{where}: mask: expected an image file or an RLE, found {value!r:.80}")
    file = folder / value
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{where}: mask: expected a file in {folder} or below, found {value!r}")
    image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{where}: the mask {file} cannot be read as an image")
    return (image if image.ndim == 2 else image.any(-1)) > 0
