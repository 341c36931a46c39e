"""MOTS PNG: <video>/instances/<frame>.png, 16 bits with 1000 x class + number of the object, beside a labels.txt.

The layout is that of CVAT and Datumaro; the benchmarks' own is <instances>/<video>/<frame>.png. Where masks overlap,
the one with the higher score keeps the pixel (of equal ones, the later one). Ids 0..999 are the objects' numbers; ids
from 1000 on must be values of the format already, as `read` gives them where two classes use one number.
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import (
    DEFAULTS,
    Options,
    ResultVideo,
    class_names,
    class_of,
    from_value_maps,
    loaded,
    numbers,
    value_map,
)
from tarvis_jax.results.tracks import VideoResult

PER_CLASS = 1000
IGNORED = 10  # as class, unless there are so many classes
_FOLDER = "instances"
_LABELS = "labels.txt"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes the PNGs and labels.txt of each video; returns the folder.

    Raises:
      ValueError: an id that is no number or does not fit, a class without a name, or more than 64 classes.
    """
    output = pathlib.Path(output)
    names = class_names(options)
    if any(name != name.strip() or "\n" in name or not name for name in names):
        raise ValueError(f"MOTS: names of classes are lines of {_LABELS}, found {names!r:.80}")
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            target = folder / str(video.id) / _FOLDER
            values = mots_values(result, options, where)
            for frame, name in enumerate(video.frame_names):
                pixels = value_map(result, frame, values, np.uint16)
                png_files.save_png(target / f"{name}.png", pixels)
            (target / _LABELS).write_text("".join(f"{name}\n" for name in names))
            del result
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos in <path>/<video>/instances or <path>/<video>; ignored regions count as background."""
    path = pathlib.Path(path)
    nested = sorted(folder.parent for folder in path.glob(f"*/{_FOLDER}")) if path.is_dir() else []
    if nested:
        found = [(folder.name, sorted((folder / _FOLDER).glob("*.png"))) for folder in nested]
    else:
        found = files.video_folders(path)
    for name, paths in found:

        def load(name: str = name, paths: list[pathlib.Path] = paths) -> VideoResult:
            maps = (frame.astype(np.uint16) for frame in png_files.frame_stack(paths, ("I;16", "L")))
            return with_classes(from_value_maps(name, "", maps), options)

        yield ResultVideo(name, tuple(png.stem for png in paths), load)


def mots_values(result: VideoResult, options: Options, where: str) -> dict[int | str, int]:
    """Id of a track -> its value."""
    numbers(result, 0, 2**16 - 1, where, "MOTS")
    values: dict[int | str, int] = {}
    for track in result.tracks:
        label = class_of(track, options, where)
        value = track.id if track.id >= PER_CLASS else PER_CLASS * label + track.id
        if value // PER_CLASS != label or value >= 2**16:
            raise ValueError(
                f"{where}: object id {track.id} of class {label} does not fit MOTS (ids 0..{PER_CLASS - 1}, or "
                f"{PER_CLASS} x class + number, up to {2**16 - 1})"
            )
        if value in values.values():
            raise ValueError(f"{where}: two tracks have the value {value}")
        values[track.id] = value
    return values


def with_classes(result: VideoResult, options: Options) -> VideoResult:
    """The result of values with the classes and numbers in them; ids stay values where two classes use one number."""
    ignored = IGNORED if len(class_names(options)) < IGNORED else None
    tracks = [track for track in result.tracks if track.id // PER_CLASS != ignored]
    has_numbers = len({track.id % PER_CLASS for track in tracks}) == len(tracks)
    for track in tracks:
        track.class_id = track.id // PER_CLASS
        if has_numbers:
            track.id %= PER_CLASS
    result.tracks = tracks
    return result
