"""Panoptic maps of VPS: semantic classes under the thing tracks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.tracks import Track, VideoResult


def thing_tracks(result: VideoResult, thing_classes: Sequence[int], score_threshold: float) -> list[Track]:
    """Tracks whose best class is a thing and beats background and `score_threshold`; worst first, to be painted so.

    `thing_classes` are ids 0..K-1 as in semantic maps, that is `Track.class_id - 1`. Tracks without class logits have
    no background to beat.
    """
    kept = [
        track
        for track in result.tracks
        if (track.class_logits is None or int(np.argmax(track.class_logits)) > 0)
        and track.class_id is not None
        and track.class_id - 1 in thing_classes
        and track.score > score_threshold
    ]
    return sorted(kept, key=lambda track: track.score)


def numbered(tracks: Sequence[Track], highest: int, where: str) -> list[Track]:
    """The tracks with ids 1..highest: their own or, if one of them is not in this range, 1, 2, ... in their ids' order.

    Raises:
      ValueError: an id that is no number, or more tracks than ids.
    """
    for track in tracks:
        if type(track.id) is not int:
            raise ValueError(f"{where}: expected numbers as ids of the tracks, found {track.id!r:.80}")
    if len(tracks) > highest:
        raise ValueError(f"{where}: {len(tracks)} tracks in its panoptic maps, the format has ids 1..{highest}")
    if all(1 <= track.id <= highest for track in tracks):
        return list(tracks)
    ids = {track_id: number for number, track_id in enumerate(sorted(track.id for track in tracks), start=1)}
    return [dataclasses.replace(track, id=ids[track.id]) for track in tracks]


def panoptic_frame(result: VideoResult, frame: int, tracks: Sequence[Track]) -> tuple[np.ndarray, np.ndarray]:
    """Class map (0..K-1) and instance map (track id, 0 = stuff) of a frame, int32 [H, W] each.

    `tracks` in painting order, see `thing_tracks`; a later one covers an earlier one. ValueError without semantic maps.
    """
    height, width = result.size
    classes = result.semantic_map(frame).ravel(order="F")  # column by column, as masks are encoded
    ids = np.zeros_like(classes)
    for track in tracks:
        encoded = track.segmentations[frame]
        if encoded is not None:
            rle.paint(classes, encoded, track.class_id - 1)
            rle.paint(ids, encoded, track.id)
    return classes.reshape(width, height).T, ids.reshape(width, height).T
