"""Videos of one's own with a PNG per frame whose values are object ids: <frames>/{video}/*.jpg, <masks>/{video}/*.png.

A mask belongs to the frame of the same name, or of the same number. 0 is background; in PNGs of 8 bits, 255 is void,
unless a video has no other value: then its masks are binary, and 255 is object 1. Frames without a PNG count as not
annotated. `object_classes` names a JSON file that says which class each object has:

    {"classes": ["ball", "box"], "objects": {"<video>": {"1": "ball", "2": "box"}}}

Without "objects", a value is the number of its class; a text file with one name a line says the same.
"""

import pathlib
from collections.abc import Callable

import numpy as np

from input_pipeline import frame_files, images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.frame_files import Unit
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.masks import rle


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The annotated frames of all videos that have masks."""
    return frame_files.read_training(config, root, _reader(config, root))


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All frames of all videos that have masks."""
    return frame_files.read_evaluation(config, split, root, _reader(config, root))


def read_classes(file: pathlib.Path) -> tuple[tuple[str, ...], dict | None]:
    """The names of the classes in an `object_classes` file, and the classes of the objects, None if it has none.

    Raises:
      ValueError: not such a file.
    """
    if file.suffix == ".txt":
        content = {"classes": [line.strip() for line in _text(file).splitlines() if line.strip()]}
    else:
        content = workspace.load_json(file)
    names = workspace.get(content, "classes", list, str(file))
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ValueError(f"{file}: classes: expected different names, found {names!r:.200}")
    objects = content.get("objects")
    if objects is not None and not isinstance(objects, dict):
        raise ValueError(f"{file}: objects: expected video -> {{id: class}}, found {objects!r:.80}")
    return tuple(names), objects


def _text(file: pathlib.Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error


def _reader(config: DatasetConfig, root: str) -> Callable[[Unit, DatasetConfig], list[VideoRecord]]:
    file, objects = None, None
    if config.object_classes:
        file = workspace.resolve(config.object_classes, root, dataset=config.name, key="object_classes", kind="file")
        _, objects = read_classes(file)
    return lambda unit, config: [_video(unit, config, file, objects)]


def _video(unit: Unit, config: DatasetConfig, file: pathlib.Path | None, objects: dict | None) -> VideoRecord:
    frames = frame_files.frames_in(unit.images)
    maps = frame_files.images_in(unit.annotations)
    if not maps:
        raise ValueError(f"{unit.annotations}: expected PNGs with the masks of {unit.images}, found none")
    index = frame_files.match_frames(maps, frames, str(unit.annotations))
    height, width = images.image_size(frames[0])
    segmentations: list[dict[int, rle.Rle]] = [{} for _ in frames]
    voids: dict[int, rle.Rle] = {}
    for t, path in zip(index, maps, strict=True):
        ids = images.read_id_map(path, height, width)
        has_void = ids.max() <= images.VOID
        for value in np.flatnonzero(np.bincount(ids.ravel())).tolist():
            if value == images.VOID and has_void:
                voids[t] = rle.encode(ids == value)
            elif value:
                segmentations[t][value] = rle.encode(ids == value)
    if voids and not any(segmentations):  # binary masks
        for t, mask in voids.items():
            segmentations[t][1] = mask
    ids = sorted({value for frame in segmentations for value in frame})
    return VideoRecord(
        dataset=config.name,
        id=unit.name,
        source=str(unit.annotations),
        frame_paths=tuple(frames),
        height=height,
        width=width,
        instances={value: _class_of(value, unit.name, config, file, objects, unit.annotations) for value in ids},
        segmentations=tuple(segmentations),
        annotated_frames=tuple(sorted(index)),
    )


def _class_of(
    value: int, video: str, config: DatasetConfig, file: pathlib.Path | None, objects: dict | None, masks: pathlib.Path
) -> int:
    if config.task == EXEMPLAR:
        return 0
    if objects is None:
        if value > config.num_classes:
            raise ValueError(
                f"{masks}: value {value} is no class 1..{config.num_classes}; if the values are object ids, "
                f'"objects" in {file or "the file that object_classes names"} says their classes'
            )
        return value
    of_video = objects.get(video)
    if not isinstance(of_video, dict) or str(value) not in of_video:
        raise ValueError(f"{file}, objects: the class of object {value} of video {video!r} ({masks}) is missing")
    name = of_video[str(value)]
    if name not in config.class_names:
        known = ", ".join(config.class_names)
        raise ValueError(f"{file}, objects, {video!r}, {value}: unknown class {name!r:.80}; the classes are {known}")
    return config.class_names.index(name) + 1
