"""Panoptic maps of VPS: semantic classes under the thing tracks, and the PNG files of KITTI-STEP."""

import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from tarvis_jax.results.tracks import Track, VideoResult, paint_things


def thing_tracks(result: VideoResult, thing_classes: Sequence[int], score_threshold: float) -> list[Track]:
    """Tracks whose best class is a thing and beats background and `score_threshold`; worst first, to be painted so.

    `thing_classes` are ids 0..K-1 as in semantic maps, that is `Track.class_id - 1`.
    """
    kept = [
        track
        for track in result.tracks
        if int(np.argmax(track.class_logits)) > 0
        and track.class_id - 1 in thing_classes
        and track.score > score_threshold
    ]
    return sorted(kept, key=lambda track: track.score)


def panoptic_frame(result: VideoResult, frame: int, tracks: Sequence[Track]) -> tuple[np.ndarray, np.ndarray]:
    """Class map (0..K-1) and instance map (track id, 0 = stuff) of a frame, int32 [H, W] each.

    `tracks` in painting order, see `thing_tracks`; a later one covers an earlier one.
    """
    shown = [track for track in tracks if track.segmentations[frame] is not None]
    things = [(track.id, track.class_id, track.segmentations[frame]) for track in shown]
    return paint_things(result.semantic_map(frame), things)


def write_panoptic_pngs(
    folder: str | pathlib.Path,
    result: VideoResult,
    thing_classes: Sequence[int],
    score_threshold: float = 0.5,
    frame_names: Sequence[str] | None = None,
) -> None:
    """Writes one RGB PNG per frame as KITTI-STEP has it: R = class, G = id // 256, B = id % 256."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tracks = thing_tracks(result, thing_classes, score_threshold)
    names = frame_names or [f"{frame:06d}" for frame in range(result.num_frames)]
    for frame, name in zip(range(result.num_frames), names, strict=True):
        class_map, instance_map = panoptic_frame(result, frame, tracks)
        blue_green_red = np.stack([instance_map % 256, instance_map // 256, class_map], axis=-1).astype(np.uint8)
        if not cv2.imwrite(str(folder / f"{name}.png"), blue_green_red):
            raise OSError(f"{folder / name}.png: could not be written")
