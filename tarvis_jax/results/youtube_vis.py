"""Results of VIS in the JSON of YouTube-VIS and OVIS."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.class_scores import softmax
from tarvis_jax.results.tracks import VideoResult


def ranked_instances(result: VideoResult, max_predictions: int) -> list[tuple[int, int, float]]:
    """The best (index in result.tracks, class id 1..K, score) of a video, best first.

    Every track competes with each of its classes, so one track may appear more than once with different classes;
    the score is the softmax over background and classes.
    """
    if not result.tracks:
        return []
    scores = softmax(np.asarray([track.class_logits for track in result.tracks], np.float64))[:, 1:]
    best = np.argsort(-scores, axis=None, kind="stable")[:max_predictions]
    rows, columns = np.unravel_index(best, scores.shape)
    return [(int(r), int(c) + 1, float(scores[r, c])) for r, c in zip(rows, columns, strict=True)]


def youtube_vis_predictions(result: VideoResult, video_id: int, max_predictions: int = 10) -> list[dict[str, Any]]:
    """A video's predictions; those of the same class do not overlap (the higher score keeps the pixel).

    The reference writes 10 predictions per video for YouTube-VIS and 20 for OVIS.
    """
    ranked = ranked_instances(result, max_predictions)
    predictions = [
        {"video_id": video_id, "score": score, "category_id": class_id, "segmentations": [None] * result.num_frames}
        for _, class_id, score in ranked
    ]
    for frame in range(result.num_frames):
        taken: dict[int, np.ndarray] = {}  # class -> pixels of better predictions
        for prediction, (row, class_id, _) in zip(predictions, ranked, strict=True):
            encoded = result.tracks[row].segmentations[frame]
            if encoded is None:
                continue
            mask = rle.decode(encoded)
            if class_id in taken:
                prediction["segmentations"][frame] = rle.encode(mask & ~taken[class_id])
                taken[class_id] |= mask
            else:
                prediction["segmentations"][frame] = encoded
                taken[class_id] = mask
    return predictions


def write_youtube_vis(path: str | pathlib.Path, results: Mapping[int, VideoResult], max_predictions: int = 10) -> None:
    """Writes `results.json` of several videos, by video id."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            [p for video_id, r in results.items() for p in youtube_vis_predictions(r, video_id, max_predictions)]
        )
    )
