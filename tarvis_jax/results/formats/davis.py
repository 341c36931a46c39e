"""DAVIS and MOSE: <sequence>/<frame>.png, palette PNGs whose values are object ids, and a zip of the sequences.

Where masks overlap, the one with the higher score keeps the pixel (of equal ones, the later one).
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from tarvis_jax.masks.palette import palette
from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, from_value_maps, loaded, numbers, value_map
from tarvis_jax.results.tracks import VideoResult

_VOID = 255
MAX_ID = _VOID - 1
_COLORS = palette().flatten().tolist()


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/<sequence>/<frame>.png and <output>.zip; returns both.

    Raises:
      ValueError: an id that is no number 1..254.
    """
    output = pathlib.Path(output)
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            write_frames(folder / str(video.id), result, video.frame_names)
            del result
    return [output, files.write_zip(files.zip_beside(output), output)]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The sequences below a folder; 255 counts as background."""
    for name, paths in files.video_folders(path):
        yield frames_of(name, paths)


def write_frames(folder: pathlib.Path, result: VideoResult, names: Iterable[str]) -> None:
    """Writes the PNGs of the frames that have a name in `names` (None: the frame is left out)."""
    values = numbers(result, 1, MAX_ID, result.video, "a palette PNG")
    for frame, name in enumerate(names):
        if name is not None:
            png_files.save_png(folder / f"{name}.png", value_map(result, frame, values, np.uint8), _COLORS)


def frames_of(name: str, paths: list[pathlib.Path]) -> ResultVideo:
    """The video whose id maps these are."""

    def load() -> VideoResult:
        return from_value_maps(name, "", png_files.frame_stack(paths, ("P", "L")), ignored=(_VOID,))

    return ResultVideo(name, tuple(path.stem for path in paths), load)
