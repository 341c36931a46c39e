"""VSPW, video semantic segmentation: <video>/<frame>.png, gray values 0..K-1 = class (255 = none).

The class of a pixel is that of the semantic maps, which come from the class queries; tracks do not change it.
"""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded
from tarvis_jax.results.tracks import VideoResult


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/<video>/<frame>.png; returns the folder.

    Raises:
      ValueError: results without semantic maps, or a class that is not in 0..255.
    """
    output = pathlib.Path(output)
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            for frame, name in enumerate(video.frame_names):
                classes = result.semantic_map(frame)
                if not 0 <= classes.min() <= classes.max() <= 255:
                    raise ValueError(f"{where}, frame {frame}: class {classes.max()} does not fit a PNG of 8 bits")
                png_files.save_png(folder / str(video.id) / f"{name}.png", classes.astype(np.uint8))
            del result
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos below a folder: semantic maps without tracks."""
    for name, paths in files.video_folders(path):

        def load(name: str = name, paths: list[pathlib.Path] = paths) -> VideoResult:
            semantic, size = [], (0, 0)
            for classes in png_files.frame_stack(paths, ("L", "P")):
                size = classes.shape
                semantic.append(rle.encode_labels(classes))
            return VideoResult(name, "", tuple(size), len(semantic), [], semantic)

        yield ResultVideo(name, tuple(path.stem for path in paths), load)
