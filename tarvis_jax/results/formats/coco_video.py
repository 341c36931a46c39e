"""COCO's JSON, of videos (CocoVID): annotations.json with `videos`, `images`, `categories` and `annotations`.

An annotation is one object in one frame: a compressed RLE with `area`, `bbox` (x, y, width, height), the id of its
track as `instance_id`, and `score`. Masks may overlap. Files of frames are <video>/<frame><options.image_suffix>.
"""

import collections
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import (
    DEFAULTS,
    Options,
    ResultVideo,
    check_count,
    class_names,
    class_of,
    loaded,
    visible,
)
from tarvis_jax.results.tracks import Track, VideoResult

FILE = "annotations.json"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/annotations.json; returns it.

    Raises:
      ValueError: a class without a name.
    """
    output = pathlib.Path(output)
    listed: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []

    def annotations() -> Iterator[dict[str, Any]]:
        count = 0
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            listed.append({"id": len(listed) + 1, "name": str(video.id)})
            first = len(images) + 1
            for frame, name in enumerate(video.frame_names):
                path = f"{video.id}/{name}{options.image_suffix}"
                image = {"id": first + frame, "video_id": len(listed), "frame_id": frame, "file_name": path}
                images.append(image | {"height": result.size[0], "width": result.size[1]})
            for track in result.tracks:
                label = class_of(track, options, where)
                for frame, encoded in enumerate(track.segmentations):
                    if visible(encoded) is None:
                        continue
                    count += 1
                    top, left, bottom, right = rle.box(encoded).tolist()
                    yield {
                        "id": count,
                        "image_id": first + frame,
                        "category_id": label,
                        "instance_id": track.id,
                        "segmentation": encoded,
                        "area": rle.area(encoded),
                        "bbox": [left, top, right - left, bottom - top],
                        "iscrowd": 0,
                        "score": track.score,
                    }
            del result

    categories = [{"id": i, "name": name} for i, name in enumerate(class_names(options), start=1)]
    with files.whole_folder(output) as folder:
        rest = {"videos": listed, "images": images, "categories": categories}
        files.write_json_list(folder / FILE, "annotations", annotations(), rest)
    return [output / FILE]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of an annotations.json as `write` makes it (or the folder that it lies in).

    `input_pipeline.readers.coco_video` reads the other forms of the format, too. Categories are known by their names if
    `options.class_names` has them, else by their place in the file.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    content = files.read_json(path)
    labels = {}
    names = [
        files.get(each, "name", str, f"{path}, categories")
        for each in files.get(content, "categories", list, str(path))
    ]
    for place, (each, name) in enumerate(zip(content["categories"], names, strict=True), start=1):
        if options.class_names and name not in options.class_names:
            raise ValueError(
                f"{path}, categories: {name!r:.80} is none of class_names {', '.join(options.class_names)}"
            )
        label = options.class_names.index(name) + 1 if options.class_names else place
        labels[files.get(each, "id", int, f"{path}, categories")] = label
    images = collections.defaultdict(list)
    for i, image in enumerate(files.get(content, "images", list, str(path))):
        where = f"{path}, images[{i}]"
        frame, key = files.get(image, "frame_id", int, where), files.get(image, "id", int, where)
        size = tuple(files.get(image, side, int, where) for side in ("height", "width"))
        stem = pathlib.PurePosixPath(files.get(image, "file_name", str, where)).stem
        images[files.get(image, "video_id", int, where)].append((frame, key, stem, size))
    masks = collections.defaultdict(list)
    for i, annotation in enumerate(files.get(content, "annotations", list, str(path))):
        where = f"{path}, annotations[{i}]"
        masks[files.get(annotation, "image_id", int, where)].append((where, annotation))
    for video in files.get(content, "videos", list, str(path)):
        key, name = files.get(video, "id", int, f"{path}, videos"), files.get(video, "name", str, f"{path}, videos")
        frames = sorted(images[key])
        if not frames or len({size for *_, size in frames}) != 1:
            raise ValueError(f"{path}, video {name!r}: expected frames of one size, found {len(frames)} frames")
        result = _result(name, frames, [masks[image] for _, image, _, _ in frames], labels)
        yield ResultVideo(name, tuple(stem for _, _, stem, _ in frames), lambda result=result: result)


def _result(name: str, frames: list, masks: list[list], labels: dict[int, int]) -> VideoResult:
    size = frames[0][3]
    tracks: dict[int | str, Track] = {}
    for frame, annotations in enumerate(masks):
        for where, annotation in annotations:
            key = files.get(annotation, "instance_id", (int, str), where)
            category = files.get(annotation, "category_id", int, where)
            if category not in labels:
                raise ValueError(f"{where}: category_id {category} is none of the categories {sorted(labels)}")
            check_count(len(tracks) + 1, len(frames), where)
            score = float(files.get(annotation, "score", (int, float), where)) if "score" in annotation else 1.0
            track = tracks.setdefault(key, Track(key, [None] * len(frames), None, labels[category], score))
            if track.class_id != labels[category] or track.segmentations[frame] is not None:
                raise ValueError(f"{where}: track {key!r} has another class before, or two masks in the frame")
            track.segmentations[frame] = rle.to_rle(annotation.get("segmentation"), *size, where)
    return VideoResult(name, "", size, len(frames), list(tracks.values()))
