"""MOTS PNG: one 16-bit PNG per frame with 1000 x class + number of the object, 0 background, 10 x 1000 ignored.

The frames and PNGs of a video lie in <images>/{video} and <instances>/{video}, as on the benchmark's site, or in
{video}/images and {video}/instances, as CVAT and Datumaro write them, with the classes' names in labels.txt beside the
PNGs. Ignored pixels count as background: an instance dataset has no region without labels.
"""

import pathlib

import numpy as np

from input_pipeline import frame_files, images, tracks
from input_pipeline.config import DatasetConfig
from input_pipeline.frame_files import Unit
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.masks import rle

LABELS_FILE = "labels.txt"
_PER_CLASS = 1000
_IGNORED = 10  # as class, unless there are so many classes


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The annotated frames of all videos that have masks."""
    return frame_files.read_training(config, root, _read)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All frames of all videos that have masks."""
    return frame_files.read_evaluation(config, split, root, _read)


def class_names(file: pathlib.Path) -> tuple[str, ...]:
    """The names in a labels.txt, one a line."""
    try:
        names = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{file}: expected different names of classes, one a line, found {names!r:.200}")
    return names


def _read(unit: Unit, config: DatasetConfig) -> list[VideoRecord]:
    frames = frame_files.frames_in(unit.images)
    maps = frame_files.images_in(unit.annotations)
    if not maps:
        raise ValueError(f"{unit.annotations}: expected PNGs with the masks of {unit.images}, found none")
    index = frame_files.match_frames(maps, frames, str(unit.annotations))
    labels = unit.annotations / LABELS_FILE
    names = class_names(labels) if labels.is_file() else config.class_names
    known = dict(enumerate(names or map(str, range(1, config.num_classes + 1)), start=1))
    classes = tracks.ClassIds(known, config, str(labels)) if names else None
    height, width = images.image_size(frames[0])
    segmentations: list[dict[int, rle.Rle]] = [{} for _ in frames]
    instances = {}
    for t, path in zip(index, maps, strict=True):
        values = images.read_id_map(path, height, width)
        for value in np.flatnonzero(np.bincount(values.ravel())).tolist():
            label = value // _PER_CLASS
            if value == 0 or (label == _IGNORED and len(known) < _IGNORED):
                continue
            if config.task == EXEMPLAR:
                instances[value] = 0
            elif classes is not None:
                instances[value] = classes.of(label, f"{path}, value {value}")
            elif 1 <= label <= config.num_classes:
                instances[value] = label
            else:
                raise ValueError(f"{path}: value {value} is of class {label}, expected 1..{config.num_classes}")
            segmentations[t][value] = rle.encode(values == value)
    return [
        VideoRecord(
            dataset=config.name,
            id=unit.name,
            source=str(unit.annotations),
            frame_paths=tuple(frames),
            height=height,
            width=width,
            instances=instances,
            segmentations=tuple(segmentations),
            annotated_frames=tuple(sorted(index)),
        )
    ]
