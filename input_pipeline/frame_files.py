"""Videos of one's own on disk: folders of frames, names that stand for a video, and which file is which frame.

A path of a config may hold "{video}" in place of a video's name: "mine/frames/{video}" stands for every entry of
mine/frames, "mine/{video}/annotations.xml" for that file in every folder of mine.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence

from absl import logging

from input_pipeline import bad_records, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord

VIDEO = "{video}"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Unit:
    """A folder of frames and the file (or folder) with its annotations; mostly one video."""

    name: str
    images: pathlib.Path
    annotations: pathlib.Path


def read_training(
    config: DatasetConfig, root: str, read: Callable[[Unit, DatasetConfig], list[VideoRecord]]
) -> list[VideoRecord]:
    """The records of `train_images` and `train_annotations`, reduced to the frames that are annotated.

    Args:
      config: of the dataset.
      root: see `workspace.workspace_root`; absolute paths do not need it.
      read: reads one unit.
    """
    units = _units(config, config.train_images, config.train_annotations, root)
    if len(units) == 1:  # a whole dataset in one unit: an error of its file is no error of one video
        return [video.annotated_only() for video in read(units[0], config)]
    return _latest(bad_records.keep_good(units, lambda unit: [video.annotated_only() for video in read(unit, config)]))


def read_evaluation(
    config: DatasetConfig, split: str, root: str, read: Callable[[Unit, DatasetConfig], list[VideoRecord]]
) -> list[VideoRecord]:
    """The records of `eval_images` and `eval_annotations`, with all frames."""
    images, annotations = (path.replace("{split}", split) for path in (config.eval_images, config.eval_annotations))
    return _latest(read(unit, config) for unit in _units(config, images, annotations, root))


def _latest(of_units: Iterable[list[VideoRecord]]) -> list[VideoRecord]:
    """The videos of all units. Where two units have one video, the later one counts: a corrected export.

    These are videos of one name that have frames in common; others of one name are left to be an error.
    """
    found: dict[int | str, list[VideoRecord]] = {}
    for videos in of_units:
        before = {video.id: found.get(video.id, []) for video in videos}
        for video in videos:
            paths = set(video.frame_paths)
            replaced = [other for other in before[video.id] if not paths.isdisjoint(other.frame_paths)]
            for other in replaced:
                logging.info("%s takes the place of %s", video.where, other.source)
            found[video.id] = [other for other in found.get(video.id, []) if other not in replaced] + [video]
    return [video for videos in found.values() for video in videos]


def frames_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """The images of a folder, in the order of the numbers in their names ("2.jpg" before "10.jpg").

    Raises:
      ValueError: it is no folder, or has no image.
    """
    paths = images_in(folder)
    if not paths:
        raise ValueError(f"{folder}: expected a folder with frames ({', '.join(IMAGE_SUFFIXES)}), found none")
    return paths


def images_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """As `frames_in`, but none where there are none."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES), key=lambda p: natural(p.name))


def natural(name: str) -> tuple:
    """Sorts "frame2" before "frame10"."""
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part)


def match_frames(files: Sequence[pathlib.Path], frames: Sequence[pathlib.Path], where: str) -> list[int]:
    """The index of the frame that each file belongs to: the frame of the same name or, if no name agrees, number.

    Raises:
      ValueError: a file belongs to no frame, or two to one.
    """
    index = {path.stem: t for t, path in enumerate(frames)}
    keys = [path.stem for path in files]
    if not any(key in index for key in keys):
        index = {number(path.stem): t for t, path in enumerate(frames)}
        keys = [number(path.stem) for path in files]
    stray = [file.name for file, key in zip(files, keys, strict=True) if key is None or key not in index]
    if stray:
        raise ValueError(
            f"{where}: {len(stray)} of {len(files)} masks belong to no frame, {', '.join(stray[:3])}; "
            f"the {len(frames)} frames are {frames[0].name} ... {frames[-1].name}"
        )
    found = [index[key] for key in keys]
    if len(set(found)) < len(found):
        raise ValueError(f"{where}: two masks belong to one frame")
    return found


def number(stem: str) -> int | None:
    """The number that a name ends in (frame_000012 -> 12)."""
    match = re.search(r"(\d{1,18})$", stem)
    return int(match[1]) if match else None


def _units(config: DatasetConfig, images: str, annotations: str, root: str) -> list[Unit]:
    """The units of two paths of a config, each with or without "{video}"."""
    paths = {"images": images, "annotations": annotations}
    found = {key: expand(path, root, f"dataset {config.name}, {key}") for key, path in paths.items()}
    of_images, of_annotations = found["images"], found["annotations"]
    if VIDEO in annotations and VIDEO not in images:  # one folder for all
        of_images, images = dict.fromkeys(of_annotations, of_images[""]), annotations
    if VIDEO in images and VIDEO in annotations:
        absent = sorted(set(of_annotations) - set(of_images))
        if absent:
            raise ValueError(
                f"dataset {config.name}: there are annotations of {len(absent)} videos without frames: {absent[:3]}; "
                f"their frames should be at {images}"
            )
        return [Unit(name, of_images[name], path) for name, path in of_annotations.items()]
    if len(of_images) != 1 or len(of_annotations) != 1:
        raise ValueError(
            f"dataset {config.name}: expected frames and annotations of one video each, found {len(of_images)} at "
            f"{images} and {len(of_annotations)} at {annotations}"
        )
    ((name, folder),), ((_, path),) = of_images.items(), of_annotations.items()
    if VIDEO not in images:
        name = pathlib.Path(os.path.commonpath([folder, path])).name or "video"
    return [Unit(name, folder, path)]


def expand(pattern: str, root: str, where: str) -> dict[str, pathlib.Path]:
    """Name of the video -> path, in natural order; a ValueError if there is none."""
    if not pattern:
        raise ValueError(f"{where}: no path given")
    if not os.path.isabs(pattern):
        pattern = str(workspace.join(workspace.workspace_root(root), pattern, where))
    if VIDEO not in pattern:
        if not os.path.exists(pattern):
            raise ValueError(f"{where}: expected a file or folder at {pattern}, but it does not exist")
        return {"": pathlib.Path(pattern)}
    before, _, after = pattern.partition(VIDEO)
    parent, prefix = os.path.split(before)
    suffix, _, rest = after.partition(os.sep)
    found = {}
    if os.path.isdir(parent):
        for entry in sorted(os.listdir(parent), key=natural):
            if entry.startswith(prefix) and entry.endswith(suffix) and not entry.startswith("."):
                name = entry[len(prefix) : len(entry) - len(suffix)]
                path = pathlib.Path(parent, entry, rest)
                if name and (path.exists() if suffix or rest else path.is_dir()):
                    found[name] = path
    if not found:
        raise ValueError(f"{where}: expected videos at {pattern}, found none")
    return found
