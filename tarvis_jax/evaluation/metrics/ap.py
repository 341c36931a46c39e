"""Track AP of video instance segmentation by the official rules of YouTube-VIS and OVIS (COCO's AP over whole tracks).

Two tracks are compared by the sum over frames of the masks' intersections over the sum of their unions. Where the rules
differ from COCO's: size ranges are 128^2 and 256^2 pixels, on the mean area of the frames in which the track has
pixels, and a crowd track is compared like any other. What surprises in the official code, and is the same here:

- a true track with id 0 can be matched, but the detection counts as unmatched;
- where two true tracks have the same IoU, the later one is matched;
- a true track whose occlusion is exactly 0.25 or 0.5 belongs to two levels, and so does one of 128^2 or 256^2 pixels;
- detections have no occlusion, so an unmatched one is a false positive at every level.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tarvis_jax.masks import intervals
from tarvis_jax.masks.intervals import Intervals

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # per video and category, the best scores
_ALL = (0.0, math.inf)
_AREAS = {"s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}  # both ends included
_OCCLUSIONS = {"light": (0.0, 0.25), "medium": (0.25, 0.5), "heavy": (0.5, 1.0)}
OCCLUSION_VALUES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


@dataclasses.dataclass(frozen=True)
class TrueTrack:
    """One track of the ground truth.

    Attributes:
      id, category: as in the annotation file.
      area: mean of the areas that the annotation file has for the frames in which the track has pixels.
      is_crowd: whether it counts neither as found nor as missed.
      occlusion: 0..1, see `occlusion_score`; 0 for datasets without it.
    """

    id: int
    category: int
    area: float
    is_crowd: bool = False
    occlusion: float = 0.0


@dataclasses.dataclass(frozen=True)
class DetectedTrack:
    """One predicted track; `area` is the mean over the frames in which it has pixels."""

    category: int
    score: float
    area: float


@dataclasses.dataclass(frozen=True)
class VideoTracks:
    """All tracks of one video, both kinds in the order of their files, and the pixels of each."""

    id: int
    truths: Sequence[TrueTrack]
    detections: Sequence[DetectedTrack]
    true_pixels: Intervals
    found_pixels: Intervals


@dataclasses.dataclass
class TrackScores:
    """What `score_tracks` gives, as fractions; -1 where no track of the ground truth counts.

    Attributes:
      summary: AP, AP50, AP75, AR1, AR10, AR100, APs/m/l, ARs/m/l; with occlusion also AP_occ_light/medium/heavy and
        AR_occ_...
      per_category: AP, AP50, AP75, AR1, AR10, AR100 of each category with a track that counts.
      ious: (video id, category) -> float64 [D, G]: the (at most 100) detections by falling score, the true tracks in
        the order of the file; where there are both.
    """

    summary: dict[str, float]
    per_category: dict[int, dict[str, float]]
    ious: dict[tuple[int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Cell:
    """One video and one category, without masks."""

    scores: np.ndarray  # [D], falling
    areas: np.ndarray  # [D], mean over frames with pixels
    ious: np.ndarray  # [D, G]
    can_be_found: np.ndarray  # bool [G]: the track's id is not 0
    truth_areas: np.ndarray  # [G]
    occlusions: np.ndarray  # [G]
    is_crowd: np.ndarray  # bool [G]


@dataclasses.dataclass(frozen=True)
class _CategoryScores:
    """Precision [10 thresholds, 101 recalls] of one category; final recall [10] with at most 1, 10, 100 detections."""

    precision: np.ndarray
    recall: dict[int, np.ndarray]


def score_tracks(videos: Iterable[VideoTracks], categories: Iterable[int], with_occlusion: bool) -> TrackScores:
    """Scores of all videos. They are read one after the other; only their IoUs are kept.

    Args:
      videos: by rising id; the order decides between detections of equal score.
      categories: their ids.
      with_occlusion: whether the scores by level of occlusion are computed, too (OVIS).
    """
    cells: dict[int, list[_Cell]] = {category: [] for category in sorted(categories)}
    ious = {}
    for video in videos:
        for category, cell in _cells_of(video):
            cells[category].append(cell)
            if cell.ious.size:
                ious[video.id, category] = cell.ious
    by_category = _score_categories(cells, _ALL, _ALL)
    summary = {
        "AP": _mean_precision(by_category),
        "AP50": _mean_precision(by_category, 0),
        "AP75": _mean_precision(by_category, 5),
    }
    summary |= {f"AR{limit}": _mean_recall(by_category, limit) for limit in (1, 10, 100)}
    for name, limits in _AREAS.items():
        scores = _score_categories(cells, limits, _ALL)
        summary |= {f"AP{name}": _mean_precision(scores), f"AR{name}": _mean_recall(scores)}
    for name, limits in _OCCLUSIONS.items() if with_occlusion else ():
        scores = _score_categories(cells, _ALL, limits)
        summary |= {f"AP_occ_{name}": _mean_precision(scores), f"AR_occ_{name}": _mean_recall(scores)}
    per_category = {
        category: {
            "AP": float(scores.precision.mean()),
            "AP50": float(scores.precision[0].mean()),
            "AP75": float(scores.precision[5].mean()),
            **{f"AR{limit}": float(recall.mean()) for limit, recall in scores.recall.items()},
        }
        for category, scores in by_category.items()
    }
    return TrackScores(summary, per_category, ious)


def evaluate_ap_by_category(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """The summary and the scores per category of tracks in the form of a YouTube-VIS annotation file.

    Args:
      ground_truth: `videos`, `categories`, `annotations` (`segmentations` per frame: RLE or null; `areas`; `iscrowd`).
      predictions: list of {video_id, category_id, score, segmentations (RLE or null per frame)}.
    """
    groups = [collections.defaultdict(list), collections.defaultdict(list)]
    for group, entries in zip(groups, (ground_truth["annotations"], predictions), strict=True):
        for entry in entries:
            group[entry["video_id"]].append(entry)

    def read() -> Iterator[VideoTracks]:
        for video in sorted(ground_truth["videos"], key=lambda video: video["id"]):
            entries = [group[video["id"]] for group in groups]
            pixels, areas = zip(
                *(
                    track_pixels([entry["segmentations"] for entry in each], video["height"], video["width"], str)
                    for each in entries
                ),
                strict=True,
            )
            yield VideoTracks(
                video["id"],
                [
                    TrueTrack(entry["id"], entry["category_id"], mean_area(entry["areas"]), bool(entry["iscrowd"]))
                    for entry in entries[0]
                ],
                [
                    DetectedTrack(entry["category_id"], entry["score"], area)
                    for entry, area in zip(entries[1], areas[1], strict=True)
                ],
                *pixels,
            )

    scores = score_tracks(read(), [c["id"] for c in ground_truth["categories"]], with_occlusion=False)
    return scores.summary, scores.per_category


def track_pixels(
    tracks: Sequence[Sequence[Any]], height: int, width: int, where: Callable[[tuple[int, int]], str]
) -> tuple[Intervals, list[float]]:
    """The pixels of whole tracks, and the mean area of each over the frames in which it has pixels.

    Args:
      tracks: per track and frame an RLE, or something false for none.
      height, width: of the frames.
      where: (track, frame) -> place of the mask, for errors.
    Raises:
      ValueError: a mask is not as it should be.
    """
    places = [(i, t) for i, track in enumerate(tracks) for t, mask in enumerate(track) if mask]
    masks = intervals.from_segmentations(
        [tracks[i][t] for i, t in places], height, width, lambda number: where(places[number])
    )
    numbers, frames = np.asarray(places, np.int64).reshape(-1, 2).T
    areas = masks.areas()
    totals = np.bincount(numbers, areas, len(tracks))
    shown = np.bincount(numbers, areas > 0, len(tracks))
    return masks.joined(frames, numbers, len(tracks), height * width), (totals / np.maximum(shown, 1)).tolist()


def mean_area(areas: Sequence[float | None]) -> float:
    """Mean over the frames in which there are pixels; 0 where there are none."""
    shown = [area for area in areas if area]
    return float(np.mean(shown)) if shown else 0.0


def occlusion_score(labels: Iterable[str | None]) -> float:
    """OVIS: mean of the more occluded half of the frames in which the object is annotated.

    Args:
      labels: per frame a key of `OCCLUSION_VALUES`, or None; at least one is not None.
    """
    values = sorted((OCCLUSION_VALUES[label] for label in labels if label is not None), reverse=True)
    half = math.ceil(len(values) / 2)
    return sum(values[:half]) / half


def match_tracks(
    ious: np.ndarray, thresholds: Sequence[float], ignored: np.ndarray, absorbs: np.ndarray, tolerance: float = 0.0
) -> np.ndarray:
    """Greedy matching: each detection takes the free true track with the largest IoU; one that counts comes first.

    Args:
      ious: float [D, G], detections by falling score.
      ignored: bool [G]: true tracks that do not count.
      absorbs: bool [G]: true tracks that any number of detections may take (crowds).
      tolerance: an IoU that is lower by this much is as good.
    Returns:
      int64 [number of thresholds, D]: the column of the true track, -1 for none.
    """
    matched = np.full((len(thresholds), len(ious)), -1, np.int64)
    if ious.size == 0:
        return matched
    best_ious = ious.max(axis=1)
    candidates = [(d, best_ious[d]) for d in np.flatnonzero(best_ious >= min(thresholds) - tolerance).tolist()]
    if not candidates:
        return matched
    order = np.argsort(ignored, kind="stable")  # tracks that count come first
    columns = [(int(g), bool(ignored[g]), bool(absorbs[g])) for g in order]
    rows = ious.tolist()
    for level, threshold in enumerate(thresholds):
        least = min(threshold, 1 - 1e-10)
        taken = set()
        for d, largest in candidates:
            if largest < least - tolerance:
                continue
            best, best_iou, best_ignored = -1, least, False
            for g, is_ignored, can_absorb in columns:
                if g in taken and not can_absorb:
                    continue
                if best >= 0 and is_ignored and not best_ignored:
                    break
                if rows[d][g] >= best_iou - tolerance:  # equal: the later one
                    best, best_iou, best_ignored = g, rows[d][g], is_ignored
            if best >= 0:
                taken.add(best)
                matched[level, d] = best
    return matched


def precision_and_recall(
    scores: np.ndarray, is_matched: np.ndarray, is_ignored: np.ndarray, num_truths: int
) -> tuple[np.ndarray, np.ndarray]:
    """Precision float64 [T, 101] at the recall points and final recall [T], for T thresholds.

    Args:
      scores: [D]; where they are equal, the order counts.
      is_matched, is_ignored: bool [T, D].
      num_truths: true tracks that count, at least 1.
    """
    by_score = np.argsort(-scores, kind="stable")
    is_matched, is_ignored = is_matched[:, by_score], is_ignored[:, by_score]
    true_positives = np.cumsum(is_matched & ~is_ignored, axis=1, dtype=np.float64)
    false_positives = np.cumsum(~is_matched & ~is_ignored, axis=1, dtype=np.float64)
    recall = true_positives / num_truths
    precision = true_positives / (true_positives + false_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(is_matched), len(RECALL_POINTS)))
    for level in range(len(is_matched)):
        index = np.searchsorted(recall[level], RECALL_POINTS, side="left")
        reached = index < recall.shape[1]
        sampled[level, reached] = precision[level, index[reached]]
    return sampled, recall[:, -1] if len(scores) else np.zeros(len(is_matched))


def _cells_of(video: VideoTracks) -> Iterator[tuple[int, _Cell]]:
    """The categories of which the video has tracks."""
    true_categories = np.asarray([track.category for track in video.truths], object)
    found_categories = np.asarray([track.category for track in video.detections], object)
    scores = np.asarray([track.score for track in video.detections], np.float64)
    for category in sorted({*true_categories, *found_categories}):
        index = np.flatnonzero(true_categories == category)
        found = np.flatnonzero(found_categories == category)
        best = found[np.argsort(-scores[found], kind="stable")[:MAX_DETECTIONS]]
        truths = [video.truths[i] for i in index]
        yield (
            category,
            _Cell(
                scores[best],
                np.asarray([video.detections[i].area for i in best]),
                intervals.union_iou(video.found_pixels.take(best), video.true_pixels.take(index)),
                np.asarray([track.id != 0 for track in truths], bool),
                np.asarray([track.area for track in truths]),
                np.asarray([track.occlusion for track in truths]),
                np.asarray([track.is_crowd for track in truths], bool),
            ),
        )


def _score_categories(cells, area_limits, occlusion_limits) -> dict[int, _CategoryScores]:
    """Only categories with a track that is neither crowd nor outside the limits."""
    result = {}
    for category, videos in cells.items():
        left_out = [
            cell.is_crowd | ~_is_within(cell.truth_areas, area_limits) | ~_is_within(cell.occlusions, occlusion_limits)
            for cell in videos
        ]
        num_truths = sum(np.count_nonzero(~each) for each in left_out)
        if num_truths == 0:
            continue
        matched = [_match(cell, each, area_limits) for cell, each in zip(videos, left_out, strict=True)]
        precision, recall = {}, {}
        for limit in (1, 10, MAX_DETECTIONS):
            precision[limit], recall[limit] = precision_and_recall(
                np.concatenate([cell.scores[:limit] for cell in videos]),
                np.concatenate([each[:, :limit] for each, _ in matched], axis=1),
                np.concatenate([each[:, :limit] for _, each in matched], axis=1),
                num_truths,
            )
        result[category] = _CategoryScores(precision[MAX_DETECTIONS], recall)
    return result


def _match(cell: _Cell, ignored: np.ndarray, area_limits: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """is_matched and is_ignored bool [10, D]; `ignored` bool [G] are the truths that do not count."""
    matched = match_tracks(cell.ious, IOU_THRESHOLDS, ignored, cell.is_crowd)
    # Columns of -1, for none, look up the last entries, which are such that nothing is matched or ignored.
    is_matched = np.append(cell.can_be_found, False)[matched]
    is_ignored = np.append(ignored, False)[matched]
    return is_matched, is_ignored | (~is_matched & ~_is_within(cell.areas, area_limits))


def _is_within(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _mean_precision(by_category: Mapping[int, _CategoryScores], level: int | None = None) -> float:
    if not by_category:
        return -1.0
    levels = slice(None) if level is None else slice(level, level + 1)
    return float(np.mean([scores.precision[levels] for scores in by_category.values()]))


def _mean_recall(by_category: Mapping[int, _CategoryScores], limit: int = MAX_DETECTIONS) -> float:
    return float(np.mean([scores.recall[limit] for scores in by_category.values()])) if by_category else -1.0
