"""Readers of the JSON files of YouTube-VIS and OVIS: annotations and results, checked."""

import collections
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline import workspace
from tarvis_jax.evaluation.metrics.ap import (
    OCCLUSION_VALUES,
    DetectedTrack,
    TrackScores,
    TrueTrack,
    VideoTracks,
    mean_area,
    occlusion_score,
    score_tracks,
    track_pixels,
)
from tarvis_jax.masks.intervals import Intervals


def score_files(results: pathlib.Path, gt: pathlib.Path, with_occlusion: bool) -> TrackScores:
    """Track AP and AR of a result file; both files are parsed as a whole, masks are decoded one video at a time.

    Args:
      results: JSON, a list of {video_id, category_id, score, segmentations: one RLE or null per frame}.
      gt: JSON with `videos`, `categories` and `annotations`; masks are RLEs (counts as text or as list), polygons or
        null.
      with_occlusion: whether annotations have `occlusion` (OVIS).
    Raises:
      ValueError: anything in the files that is not as it should be.
    """
    results, gt = _file(results, "results.json"), _file(gt, "annotations.json")
    truth = workspace.load_json(gt, with_runs=True)
    videos = _by_id(truth, "videos", gt)
    categories = _by_id(truth, "categories", gt)
    annotations = _by_id(truth, "annotations", gt)
    found = workspace.load_json(results, with_runs=True)
    if not isinstance(found, list):
        raise ValueError(f"{results}: expected a list of tracks, found {type(found).__name__}")
    sizes = {}
    for video_id, (where, video) in videos.items():
        num_frames = len(workspace.get(video, "file_names", list, where))
        sizes[video_id] = (num_frames, *workspace.get_size(video, where))
    records = {
        gt: [(where, entry) for where, entry in annotations.values()],
        results: [(f"{results}, entry {index}", entry) for index, entry in enumerate(found)],
    }
    groups = {file: collections.defaultdict(list) for file in records}
    for file, entries in records.items():
        for where, entry in entries:
            video_id = workspace.get(entry, "video_id", int, where)
            category = workspace.get(entry, "category_id", int, where)
            for kind, value, known in (("video", video_id, videos), ("category", category, categories)):
                if value not in known:
                    raise ValueError(
                        f"{where}: {kind}_id {value} is not among the {len(known)} {kind} ids of {gt.name}: "
                        f"{', '.join(map(str, sorted(known)[:5]))}, ..."
                    )
            groups[file][video_id].append((where, entry))

    def read() -> Iterator[VideoTracks]:
        for video_id in sorted(videos):
            size = sizes[video_id]
            truths, detections = (groups[file].pop(video_id, []) for file in (gt, results))
            true_pixels, _ = _pixels(truths, size)
            found_pixels, areas = _pixels(detections, size)
            yield VideoTracks(
                video_id,
                [_true_track(entry, size[0], where, with_occlusion) for where, entry in truths],
                [
                    DetectedTrack(entry["category_id"], _score(entry, where), area)
                    for (where, entry), area in zip(detections, areas, strict=True)
                ],
                true_pixels,
                found_pixels,
            )

    return score_tracks(read(), categories, with_occlusion)


def scores_json(scores: TrackScores) -> dict[str, Any]:
    """The scores under the names of docs/evaluation.md."""
    return {
        "expected": scores.summary,
        "per_category": {str(category): values for category, values in scores.per_category.items()},
        "ious_example": {f"{video},{category}": iou.tolist() for (video, category), iou in scores.ious.items()},
    }


def _file(path: pathlib.Path, name: str) -> pathlib.Path:
    """The file of that name if `path` is a folder."""
    return path / name if path.is_dir() else path


def _by_id(content: Any, key: str, file: pathlib.Path) -> dict[int, tuple[str, Any]]:
    """Id -> (where, record) of a list of the annotation file."""
    found: dict[int, tuple[str, Any]] = {}
    for index, record in enumerate(workspace.get(content, key, list, str(file))):
        where = f"{file}, {key}[{index}]"
        number = workspace.get(record, "id", int, where)
        if number in found:
            raise ValueError(f"{where}: id {number} is also that of {found[number][0].rpartition(' ')[2]}")
        found[number] = where, record
    return found


def _true_track(entry: dict[str, Any], num_frames: int, where: str, with_occlusion: bool) -> TrueTrack:
    is_crowd = entry.get("iscrowd", 0)
    if type(is_crowd) not in (int, bool) or is_crowd not in (0, 1):
        raise ValueError(f"{where}: iscrowd should be 0 or 1, found {is_crowd!r:.80}")
    areas = _per_frame(entry, "areas", num_frames, where)
    for frame, area in enumerate(areas):
        if area is not None and not (_is_number(area) and area >= 0):
            raise ValueError(f"{where}, areas[{frame}]: expected a number of pixels or null, found {area!r:.80}")
    occlusion = 0.0
    if with_occlusion:
        labels = _per_frame(entry, "occlusion", num_frames, where)
        for frame, label in enumerate(labels):
            if label is not None and (not isinstance(label, str) or label not in OCCLUSION_VALUES):
                known = ", ".join(OCCLUSION_VALUES)
                raise ValueError(f"{where}, occlusion[{frame}]: expected {known} or null, found {label!r:.80}")
        if all(label is None for label in labels):
            raise ValueError(f"{where}: 'occlusion' should hold a label for at least one frame, found none")
        occlusion = occlusion_score(labels)
    return TrueTrack(entry["id"], entry["category_id"], mean_area(areas), bool(is_crowd), occlusion)


def _score(entry: dict[str, Any], where: str) -> float:
    score = workspace.get(entry, "score", (int, float), where)
    if not _is_number(score):
        raise ValueError(f"{where}: score should be a finite number, found {score!r:.80}")
    return float(score)


def _pixels(entries: list[tuple[str, dict[str, Any]]], size: tuple[int, int, int]) -> tuple[Intervals, list[float]]:
    """Pixels and mean areas of tracks, each of which comes with its place in the file."""
    return track_pixels(
        [_per_frame(entry, "segmentations", size[0], where) for where, entry in entries],
        *size[1:],
        lambda place: f"{entries[place[0]][0]}, segmentations[{place[1]}]",
    )


def _per_frame(entry: dict[str, Any], key: str, num_frames: int, where: str) -> list[Any]:
    """A list with one value per frame of the video."""
    values = workspace.get(entry, key, (list, np.ndarray), where)
    if len(values) != num_frames:
        raise ValueError(f"{where}: {key} has {len(values)} entries, but the video has {num_frames} frames")
    return values.tolist() if isinstance(values, np.ndarray) else values


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # neither NaN nor too large for a float
