"""Datumaro's JSON, which CVAT exports, too: `categories.label.labels` and `items`, one per frame, with annotations.

An annotation has a `type`, of which "mask" (`rle`) and "polygon" (`points`) are read; the annotations of a frame with
the same `track_id` (in `attributes`) are parts of one object. Other types are an error, but "label", which is about the
whole frame. The frames of a video are the items in one folder (of their `id`), in the order of `attr.frame` or else of
their names. Without any track, every item is a video of one frame, and objects are told apart by `group`. The image of
an item is the file below the folder of images that has its `id` as its name.
"""

import collections
import os
import pathlib
from typing import Any

from input_pipeline import frame_files, images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.frame_files import Unit
from input_pipeline.records import VideoRecord
from input_pipeline.tracks import ClassIds, Tracks


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """All videos of the training JSON."""
    return frame_files.read_training(config, root, _read)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All videos of a JSON of the same form."""
    return frame_files.read_evaluation(config, split, root, _read)


def labels(content: Any, where: str) -> dict[int, str]:
    """Label id (the place in the list) -> name.

    Raises:
      ValueError: not such a list, or a name twice.
    """
    of_labels = workspace.get(workspace.get(content, "categories", dict, where), "label", dict, f"{where}, categories")
    found: dict[int, str] = {}
    for i, label in enumerate(workspace.get(of_labels, "labels", list, f"{where}, categories.label")):
        name = workspace.get(label, "name", str, f"{where}, categories.label.labels[{i}]")
        if name in found.values():
            raise ValueError(f"{where}, categories.label.labels[{i}]: name {name!r} occurs twice")
        found[i] = name
    return found


def _read(unit: Unit, config: DatasetConfig) -> list[VideoRecord]:
    file = unit.annotations
    content = workspace.load_json(file)
    classes = ClassIds(labels(content, str(file)), config, f"{file}, categories.label.labels")
    items, seen = [], set()
    for i, item in enumerate(workspace.get(content, "items", list, str(file))):
        where = f"{file}, items[{i}]"
        workspace.get(item, "id", str, where), workspace.get(item, "annotations", list, where)
        if item["id"] in seen:
            raise ValueError(f"{where}: id {item['id']!r} occurs twice")
        seen.add(item["id"])
        items.append((where, item))
    has_tracks = any(_track(annotation) is not None for _, item in items for annotation in item["annotations"])
    videos = collections.defaultdict(list)
    for where, item in items:
        name = item["id"]
        videos[pathlib.PurePosixPath(name).parent.as_posix() if has_tracks else name].append((where, item))
    if list(videos) == ["."]:
        videos = {unit.name: videos["."]}
    files = _images_below(unit.images)
    return [_video(name, sorted(frames, key=_place), classes, files, unit, config) for name, frames in videos.items()]


def _video(name, items, classes: ClassIds, files, unit: Unit, config: DatasetConfig) -> VideoRecord:
    file, paths = unit.annotations, []
    for where, item in items:
        if item["id"] not in files:
            raise ValueError(f"{where}: there is no image {item['id']!r} below {unit.images}")
        paths.append(files[item["id"]])
    height, width = images.image_size(paths[0])
    for where, item in items:
        stated = item["image"].get("size") if isinstance(item.get("image"), dict) else None
        if stated is not None and stated != [height, width]:
            raise ValueError(
                f"{where}: image.size is {stated!r:.80}, {paths[0]} has [height, width] = {[height, width]}"
            )
    tracks = Tracks(paths, height, width, f"{file}, video {name!r}")
    for t, (place, item) in enumerate(items):
        for i, annotation in enumerate(item["annotations"]):
            where = f"{place}.annotations[{i}]"
            kind = workspace.get(annotation, "type", str, where)
            if kind == "label":
                continue
            if kind not in ("mask", "polygon"):
                raise ValueError(f"{where}: expected type mask or polygon (or label), found {kind!r:.80}")
            label = classes.of(workspace.get(annotation, "label_id", int, where), where)
            if kind == "mask":
                segmentation = workspace.get(annotation, "rle", dict, where)
            else:
                segmentation = [workspace.get(annotation, "points", list, where)]
            track = _track(annotation)
            if track is None:  # of this frame alone; parts have one group
                group = annotation.get("group")
                track = (t, "group", group) if type(group) is int and group else (t, i)
            tracks.add(t, track, label, segmentation, where)
    return tracks.record(config, name, file, range(len(items)))


def _track(annotation: Any) -> int | str | None:
    attributes = annotation.get("attributes") if isinstance(annotation, dict) else None
    track = attributes.get("track_id") if isinstance(attributes, dict) else None
    return track if isinstance(track, (int, str)) else None


def _place(entry: tuple[str, dict]) -> tuple:
    item = entry[1]
    attributes = item.get("attr")
    frame = attributes.get("frame") if isinstance(attributes, dict) else None
    return (frame if type(frame) is int else -1, frame_files.natural(item["id"]))


def _images_below(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The images in a folder and below, by their path without suffix; not found through links to folders."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = pathlib.Path(parent, name)
            if path.suffix.lower() in frame_files.IMAGE_SUFFIXES:
                found[path.relative_to(folder).with_suffix("").as_posix()] = path
    return found
