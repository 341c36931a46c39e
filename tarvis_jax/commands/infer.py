"""Segments a video given on the command line with a trained run or a checkpoint of the reference."""

import json
import pathlib
from typing import Any

import cv2
import numpy as np
from absl import logging

from tarvis_jax.api import load
from tarvis_jax.inference.video import segment_video
from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target


def segment_input(checkpoint: str, input_path: str, output: str, dataset: str, targets: str | None = None) -> None:
    """Segments one video and writes results and overlays.

    Args:
      checkpoint: anything `tarvis_jax.load` takes: a run's workdir, a checkpoint of the reference (.pth with its
        config.yaml beside it), a folder that `save_pretrained` wrote, an id on the hub.
      input_path: a folder of frames or a video file.
      output: folder for the results.
      dataset: whose classes to look for, or whose settings to use for given targets.
      targets: JSON file with the objects to follow, see `read_targets`.
    Raises:
      ValueError: unknown dataset, unreadable input or targets.
    """
    model = load(checkpoint)
    if dataset not in model.datasets:
        raise ValueError(f"--dataset={dataset}: expected one of {sorted(model.datasets)}")
    info = model.datasets[dataset]
    _, summary = segment_video(
        model.predictor,
        dataset,
        input_path,
        output,
        targets=read_targets(targets) if targets else (),
        spec=info.spec,
        config=info.inference,
        class_names=dict(enumerate(info.class_names, start=1)),
    )
    logging.info("%s", summary)


def read_targets(path: str | pathlib.Path) -> list[Target]:
    """Reads the objects to follow: a JSON list of {"id": "dog", "frame": 0, "point_yx": [y, x]} or, for masks,
    {"id": 1, "frame": 0, "mask": ...}, where the mask is an image file (non-zero = object; relative to the JSON) or an
    RLE {"size", "counts"}; ids are numbers or strings.

    Raises:
      ValueError: not such a list, or an image that cannot be read.
    """
    path = pathlib.Path(path)
    try:
        entries = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
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
    if "point_yx" in entry:
        y, x = entry["point_yx"]
        return Target(int(entry["frame"]), entry["id"], point_yx=(float(y), float(x)))
    return Target(int(entry["frame"]), entry["id"], mask=_mask(entry["mask"], where, folder))


def _mask(value: Any, where: str, folder: pathlib.Path) -> np.ndarray:
    if isinstance(value, dict):
        return rle.decode(value)
    image = cv2.imread(str(folder / value), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f"{where}: the mask {folder / value} cannot be read as an image")
    return (image if image.ndim == 2 else image.any(-1)) > 0
