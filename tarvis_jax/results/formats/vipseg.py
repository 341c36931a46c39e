"""VIPSeg: pan_pred/<video>/<frame>.png, RGB with the ids of segments, and pred.json with the segments of each video.

The ids of segments are the same in all frames of a video (`formats.panoptic.segment_maps`). With `options.annotations`,
the benchmark's panoptic JSON, the frames that it lists are written, in its order.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files, panoptic
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/pred.json and <output>/pan_pred/<video>/<frame>.png; returns the folder.

    Raises:
      ValueError: results without semantic maps; with `options.annotations`, a video that is missing or not listed, or a
        listed frame without result.
    """
    output = pathlib.Path(output)
    listed = _listed_frames(options.annotations)

    def annotations(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
        seen = set()
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            wanted = list(video.frame_names) if listed is None else listed.get(video.id)
            if wanted is None:
                raise ValueError(f"{where}: {options.annotations} does not list it")
            absent = sorted(set(wanted) - set(video.frame_names))
            if absent:
                raise ValueError(f"{where}: {len(absent)} frames of {options.annotations} have no result: {absent[:3]}")
            of_frames = {}
            for name, (colors, segments) in zip(
                video.frame_names, panoptic.segment_maps(result, options, where), strict=True
            ):
                if name in wanted:
                    file = f"{name}.png"
                    png_files.save_png(folder / str(video.id) / file, colors)
                    of_frames[name] = {"image_id": name, "file_name": file, "segments_info": segments}
            seen.add(video.id)
            yield {"video_id": video.id, "annotations": [of_frames[name] for name in wanted]}
            del result
        missing = sorted(set(listed or ()) - seen)
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(listed)} videos of {options.annotations} have no result: {missing[:5]}"
            )

    with files.whole_folder(output) as folder:
        with (folder / "pred.json").open("w") as file:
            file.write('{"annotations": ')
            files.write_list(file, annotations(folder / "pan_pred"))
            file.write("}")
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of such a folder; `options.thing_classes` says which segments are tracks.

    Raises:
      ValueError: malformed entries, or segments that do not fit their PNG.
    """
    path = pathlib.Path(path)
    file = path / "pred.json"
    for i, entry in enumerate(files.get(files.read_json(file), "annotations", list, str(file))):
        where = f"{file}, annotations[{i}]"
        name = files.get(entry, "video_id", str, where)
        frames = []
        for t, annotation in enumerate(files.get(entry, "annotations", list, where)):
            place = f"{where}.annotations[{t}]"
            stem = pathlib.PurePosixPath(files.get(annotation, "file_name", str, place)).stem
            png = files.inside(path / "pan_pred", f"{name}/{stem}.png", place)
            frames.append((png, panoptic.segment_list(annotation, place)))
        yield panoptic.video_of_segments(name, frames, options.thing_classes)


def _listed_frames(path: pathlib.Path | None) -> dict[str, list[str]] | None:
    """Video -> names of its frames, without suffix."""
    if path is None:
        return None
    found = {}
    for i, video in enumerate(files.get(files.read_json(path), "videos", list, str(path))):
        where = f"{path}, videos[{i}]"
        images = files.get(video, "images", list, where)
        names = [files.get(image, "file_name", str, f"{where}.images[{t}]") for t, image in enumerate(images)]
        found[files.get(video, "video_id", str, where)] = [pathlib.PurePosixPath(name).stem for name in names]
    return found
