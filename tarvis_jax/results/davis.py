"""Results of VOS as DAVIS has them: one palette PNG per frame whose pixel values are object ids."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tarvis_jax.masks import rle
from tarvis_jax.masks.palette import palette
from tarvis_jax.results.tracks import VideoResult


def id_map(result: VideoResult, frame: int) -> np.ndarray:
    """Object id per pixel of a frame, uint8 [H, W], 0 = none; raises ValueError for an id that does not fit."""
    ids = np.zeros(result.size, np.uint8)
    for track in result.tracks:
        if not 1 <= track.id <= 255:
            raise ValueError(f"{result.video}: object id {track.id} does not fit a palette PNG (1..255)")
        if track.segmentations[frame] is not None:
            ids[rle.decode(track.segmentations[frame])] = track.id
    return ids


def write_davis_pngs(folder: str | pathlib.Path, result: VideoResult, frame_names: Sequence[str] | None = None) -> None:
    """Writes one palette PNG per frame, named 00000.png ... or by `frame_names`."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    colors = palette().flatten().tolist()
    names = frame_names or [f"{frame:05d}" for frame in range(result.num_frames)]
    for frame, name in zip(range(result.num_frames), names, strict=True):
        image = Image.fromarray(id_map(result, frame))
        image.putpalette(colors)
        image.save(folder / f"{name}.png")
