"""KITTI-STEP: <sequence>/<frame>.png, RGB with R = class (255 = void), G = id // 256 and B = id % 256.

Ids are 1..999, since the metric makes class x 1000 + id of them; 0 is stuff. If a sequence has a track with a higher
id, its tracks are numbered anew.

Differs from the reference: it writes any id, and the metric then takes a high one for another class.
"""

import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files, panoptic
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded
from tarvis_jax.results.tracks import VideoResult

_MAX_ID = 999


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/<sequence>/<frame>.png; returns the folder.

    Raises:
      ValueError: results without semantic maps, or more than 999 tracks in a sequence.
    """
    output = pathlib.Path(output)
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            write_frames(folder / str(video.id), result, video.frame_names, options)
            del result
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The sequences below a folder; pixels of `options.thing_classes` with an id are tracks."""
    for name, paths in files.video_folders(path):

        def load(name: str = name, paths: list[pathlib.Path] = paths) -> VideoResult:
            colors = (frame.astype(np.int32) for frame in png_files.frame_stack(paths, ("RGB",)))
            frames = ((frame[..., 0], frame[..., 1] << 8 | frame[..., 2]) for frame in colors)
            return panoptic.from_maps(name, frames, options.thing_classes)

        yield ResultVideo(name, tuple(path.stem for path in paths), load)


def write_frames(
    folder: pathlib.Path, result: VideoResult, names: Sequence[str], options: Options, max_id: int = _MAX_ID
) -> None:
    """Writes the PNGs of one sequence; `max_id` is at most 65535."""
    where = f"video {result.video!r}"
    for name, (classes, ids) in zip(names, panoptic.maps(result, options, max_id, where), strict=True):
        colors = np.stack([classes, ids >> 8, ids & 255], axis=-1).astype(np.uint8)
        png_files.save_png(folder / f"{name}.png", colors)
