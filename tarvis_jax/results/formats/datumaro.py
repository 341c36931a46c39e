"""Datumaro's JSON: annotations/default.json with an item for each frame, "<video>/<frame>", and its masks.

A mask is a compressed RLE with the number of its label (from 0), and has the id of its track and its score among its
`attributes`. Masks may overlap. Images are images/default/<video>/<frame><options.image_suffix>.
"""

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

FILE = "annotations/default.json"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/annotations/default.json; returns it.

    Raises:
      ValueError: a class without a name.
    """
    output = pathlib.Path(output)

    def items() -> Iterator[dict[str, Any]]:
        for video, result in loaded(videos):
            labels = [class_of(track, options, f"video {video.id!r}") - 1 for track in result.tracks]
            for frame, name in enumerate(video.frame_names):
                key = f"{video.id}/{name}"
                annotations = [
                    {
                        "id": number,
                        "type": "mask",
                        "attributes": {"track_id": track.id, "score": track.score},
                        "group": 0,
                        "label_id": label,
                        "rle": {"counts": encoded["counts"], "size": list(encoded["size"])},
                        "z_order": 0,
                    }
                    for number, (track, label) in enumerate(zip(result.tracks, labels, strict=True))
                    if (encoded := visible(track.segmentations[frame])) is not None
                ]
                image = {"path": f"{key}{options.image_suffix}", "size": list(result.size)}
                yield {"id": key, "annotations": annotations, "attr": {"frame": frame}, "image": image}
            del result

    labels = [{"name": name, "parent": "", "attributes": []} for name in class_names(options)]
    categories = {"label": {"labels": labels, "attributes": ["score", "track_id"]}}
    with files.whole_folder(output) as folder:
        (folder / FILE).parent.mkdir()
        files.write_json_list(folder / FILE, "items", items(), {"info": {}, "categories": categories})
    return [output / FILE]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of a default.json as `write` makes it (or the folder that its folder lies in).

    `input_pipeline.readers.datumaro` reads the other forms of the format, too. Labels are known by their names if
    `options.class_names` has them, else by their place in the file.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    content = files.read_json(path)
    of_labels = files.get(files.get(content, "categories", dict, str(path)), "label", dict, f"{path}, categories")
    labels = []
    for place, label in enumerate(files.get(of_labels, "labels", list, f"{path}, categories.label"), start=1):
        name = files.get(label, "name", str, f"{path}, categories.label")
        if options.class_names and name not in options.class_names:
            raise ValueError(f"{path}, labels: {name!r:.80} is none of class_names {', '.join(options.class_names)}")
        labels.append(options.class_names.index(name) + 1 if options.class_names else place)
    videos: dict[str, list[tuple[int, str, str, dict]]] = {}
    for i, item in enumerate(files.get(content, "items", list, str(path))):
        where = f"{path}, items[{i}]"
        key = pathlib.PurePosixPath(files.get(item, "id", str, where))
        frame = files.get(files.get(item, "attr", dict, where), "frame", int, where)
        videos.setdefault(key.parent.as_posix(), []).append((frame, key.name, where, item))
    for name, items in videos.items():
        items.sort(key=lambda entry: entry[:2])
        result = _result(name, items, labels)
        yield ResultVideo(name, tuple(stem for _, stem, _, _ in items), lambda result=result: result)


def _result(name: str, items: list, labels: list[int]) -> VideoResult:
    _, _, where, first = items[0]
    size = files.get(files.get(first, "image", dict, where), "size", list, where)
    if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        raise ValueError(f"{where}: expected [height, width] as image.size, found {size!r:.80}")
    tracks: dict[int | str, Track] = {}
    for frame, (_, _, place, item) in enumerate(items):
        for i, annotation in enumerate(files.get(item, "annotations", list, place)):
            where = f"{place}.annotations[{i}]"
            attributes = files.get(annotation, "attributes", dict, where)
            key, label = (
                files.get(attributes, "track_id", (int, str), where),
                files.get(annotation, "label_id", int, where),
            )
            if not 0 <= label < len(labels):
                raise ValueError(f"{where}: label_id {label} is not in 0..{len(labels) - 1}")
            check_count(len(tracks) + 1, len(items), where)
            score = float(files.get(attributes, "score", (int, float), where)) if "score" in attributes else 1.0
            track = tracks.setdefault(key, Track(key, [None] * len(items), None, labels[label], score))
            if track.class_id != labels[label] or track.segmentations[frame] is not None:
                raise ValueError(f"{where}: track {key!r} has another label before, or two masks in the frame")
            track.segmentations[frame] = rle.to_rle(files.get(annotation, "rle", dict, where), *size, where)
    return VideoResult(name, "", tuple(size), len(items), list(tracks.values()))
