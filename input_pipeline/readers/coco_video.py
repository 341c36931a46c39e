"""COCO's JSON, of videos: `images`, `categories` and `annotations` (one per object and frame), perhaps `videos`.

What tells the videos and objects apart has several names in the field:

- video of an image: `video_id` (CocoVID, TAO); without it the folder of `file_name`, if annotations name their track,
  else every image is a video of one frame;
- order of the frames: `frame_id` or `frame_index`, else the file names;
- track of an annotation: `instance_id` (CocoVID), `track_id` (TAO), or `track_id` among its `attributes` (CVAT);
  without it the annotation is an object of its own.

`segmentation` is an RLE (text or list) or polygons; annotations with `iscrowd` are left out, as they mark groups.
Categories are known by their names.
"""

import collections
import pathlib
from typing import Any

from input_pipeline import frame_files, workspace
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


def categories(content: Any, where: str) -> dict[int, str]:
    """Id -> name of a file's categories, in its order.

    Raises:
      ValueError: not such a list, or an id or name twice.
    """
    found: dict[int, str] = {}
    for i, category in enumerate(workspace.get(content, "categories", list, where)):
        place = f"{where}, categories[{i}]"
        key, name = workspace.get(category, "id", int, place), workspace.get(category, "name", str, place)
        if key in found or name in found.values():
            raise ValueError(f"{place}: id {key} or name {name!r} occurs twice")
        found[key] = name
    return found


def _read(unit: Unit, config: DatasetConfig) -> list[VideoRecord]:
    file = unit.annotations
    content = workspace.load_json(file)
    classes = ClassIds(categories(content, str(file)), config, f"{file}, categories")
    annotations = collections.defaultdict(list)
    listed = workspace.get(content, "annotations", list, str(file))
    for i, annotation in enumerate(listed):
        where = f"{file}, annotations[{i}]"
        annotations[workspace.get(annotation, "image_id", int, where)].append((i, annotation))
    has_tracks = any(_track(annotation) is not None for annotation in listed)
    videos = _group(workspace.get(content, "images", list, str(file)), content, has_tracks, unit, file)
    known = {image["id"] for images in videos.values() for _, image in images}
    stray = sorted(set(annotations) - known)
    if stray:
        i = annotations[stray[0]][0][0]
        raise ValueError(f"{file}, annotations[{i}]: image_id {stray[0]} is the id of no image")
    return [_video(name, images, annotations, classes, unit, config) for name, images in videos.items()]


def _group(
    listed: list, content: dict, has_tracks: bool, unit: Unit, file: pathlib.Path
) -> dict[str, list[tuple[str, dict]]]:
    """Name of the video -> its images in order, each with its place in the file."""
    names = {}
    for i, video in enumerate(content.get("videos") or ()):
        where = f"{file}, videos[{i}]"
        key = workspace.get(video, "id", int, where)
        if key in names:
            raise ValueError(f"{where}: id {key} occurs twice")
        names[key] = str(video.get("name", key))
    videos, seen = collections.defaultdict(list), set()
    for i, image in enumerate(listed):
        where = f"{file}, images[{i}]"
        key, path = workspace.get(image, "id", int, where), workspace.get(image, "file_name", str, where)
        if key in seen:
            raise ValueError(f"{where}: id {key} occurs twice")
        seen.add(key)
        if "video_id" in image:
            video = workspace.get(image, "video_id", int, where)
            if names and video not in names:
                raise ValueError(f"{where}: video_id {video} is the id of no video")
            name = names.get(video, str(video))
        elif has_tracks:
            name = pathlib.PurePosixPath(path).parent.as_posix()
        else:
            name = path
        place = next((image[k] for k in ("frame_id", "frame_index") if type(image.get(k)) is int), -1)
        videos[name].append(((place, frame_files.natural(path)), where, image))
    if list(videos) == ["."]:  # the images of one video, without a folder of their own
        videos = {unit.name: videos["."]}
    return {
        name: [(where, image) for _, where, image in sorted(images, key=lambda entry: entry[0])]
        for name, images in videos.items()
    }


def _video(name, images, annotations, classes: ClassIds, unit: Unit, config: DatasetConfig) -> VideoRecord:
    file, sizes = unit.annotations, set()
    for where, image in images:
        sizes.add(tuple(workspace.get(image, key, int, where) for key in ("height", "width")))
    if len(sizes) > 1:
        raise ValueError(f"{images[0][0]}, video {name!r}: expected frames of one size, found {sorted(sizes)[:3]}")
    paths = [workspace.join(unit.images, image["file_name"], f"{where}.file_name") for where, image in images]
    tracks = Tracks(paths, *sizes.pop(), f"{file}, video {name!r}")
    for t, (_, image) in enumerate(images):
        for i, annotation in annotations.get(image["id"], ()):
            where = f"{file}, annotations[{i}]"
            label = classes.of(workspace.get(annotation, "category_id", int, where), where)
            segmentation = annotation.get("segmentation")
            if annotation.get("iscrowd"):
                continue
            if not segmentation:
                raise ValueError(f"{where}: has no segmentation, found {segmentation!r}; boxes alone cannot be used")
            track = _track(annotation)
            tracks.add(t, ("annotation", i) if track is None else track, label, segmentation, f"{where}.segmentation")
    return tracks.record(config, name, file, range(len(images)))


def _track(annotation: Any) -> int | str | None:
    if not isinstance(annotation, dict):
        return None
    attributes = annotation.get("attributes")
    for source in (annotation, attributes if isinstance(attributes, dict) else {}):
        for key in ("instance_id", "track_id"):
            if isinstance(source.get(key), (int, str)):
                return source[key]
    return None
