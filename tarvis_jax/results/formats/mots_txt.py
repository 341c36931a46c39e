"""MOTS as text: <video>.txt in a zip, one line "frame id class height width rle" for each mask.

Frames count from 0, the id is 1000 x class + number as in the PNGs (`formats.mots`), and `rle` is the compressed counts
of COCO. Masks of one frame do not overlap: the one with the higher score keeps the pixel (of equal ones, the later).
The format knows neither names of frames and classes nor frames after the last mask.
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.mots import mots_values, with_classes
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, check_count, loaded, value_map, visible
from tarvis_jax.results.tracks import Track, VideoResult

_MAX_FRAMES = 10**6


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/<video>.txt and <output>.zip; returns both.

    Raises:
      ValueError: see `formats.mots.write`.
    """
    output = pathlib.Path(output)
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            values = mots_values(result, options, where)
            path = folder / f"{video.id}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w") as file:
                for frame in range(result.num_frames):
                    shown = value_map(result, frame, values, np.uint16)
                    for value, encoded in sorted(rle.encode_labels(shown).items()):
                        if value:
                            height, width = result.size
                            file.write(f"{frame} {value} {value // 1000} {height} {width} {encoded['counts']}\n")
            del result
    return [output, files.write_zip(files.zip_beside(output), output)]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of the text files in a folder; regions of class 10 (ignored) are left out."""
    paths = sorted(pathlib.Path(path).glob("*.txt"))
    if not paths:
        raise ValueError(f"{path}: expected a file <video>.txt for each video, found none")
    for file in paths:
        result = with_classes(_result(file), options)
        names = tuple(f"{frame:06d}" for frame in range(result.num_frames))
        yield ResultVideo(file.stem, names, lambda result=result: result)


def _result(path: pathlib.Path) -> VideoResult:
    masks: dict[int, dict[int, rle.Rle]] = {}
    size, count = None, 0
    with path.open() as file:
        for number, line in enumerate(file, start=1):
            where, parts = f"{path}, line {number}", line.split()
            if len(parts) != 6 or not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts[:5]):
                raise ValueError(f"{where}: expected frame id class height width rle, found {line!r:.80}")
            frame, value, label, height, width = map(int, parts[:5])
            if value // 1000 != label or frame >= _MAX_FRAMES or value >= 2**16:
                raise ValueError(
                    f"{where}: expected an id of class {label} and a frame below {_MAX_FRAMES}, found {line!r:.80}"
                )
            if (size := size or (height, width)) != (height, width):
                raise ValueError(f"{where}: {height} x {width} pixels, {size[0]} x {size[1]} before")
            if frame in masks.setdefault(value, {}):
                raise ValueError(f"{where}: object {value} occurs twice in frame {frame}")
            encoded = visible(rle.to_rle(parts[5], height, width, where))
            count = max(count, frame + 1)
            if encoded is not None:
                masks[value][frame] = encoded
    check_count(len(masks), count, str(path))
    tracks = [Track(value, [of.get(frame) for frame in range(count)]) for value, of in sorted(masks.items())]
    return VideoResult(path.stem, "", size or (0, 0), count, tracks)
