"""Track AP of video instance segmentation by the official rules of YouTube-VIS and OVIS (COCO's AP over whole tracks).

Two tracks are compared by the sum over frames of the masks' intersections over the sum of their unions. Where the rules
differ from COCO's: size ranges are 128^2 and 256^2 pixels, on the mean area of the frames in which the track has
pixels, and a crowd track is compared like any other.
"""

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as coco_mask

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0.0, 1.0, 101)
MAX_DETECTIONS = 100  # per video and category, the best scores
_ALL = (0.0, math.inf)
_AREAS = {"s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}  # both ends included
_OCCLUSIONS = {"light": (0.0, 0.25), "medium": (0.25, 0.5), "heavy": (0.5, 1.0)}
_OCCLUSION_VALUES = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}


@dataclasses.dataclass
class _Truth:
    segmentations: list[dict[str, Any] | None]
    area: float
    is_crowd: bool
    occlusion: float


@dataclasses.dataclass
class _Cell:
    """One video and one category: tracks, and IoU [D, G] of detections by falling score with truths in file order."""

    scores: np.ndarray
    areas: np.ndarray
    truths: list[_Truth]
    ious: np.ndarray


@dataclasses.dataclass(frozen=True)
class CategoryScores:
    """Precision [10 thresholds, 101 recalls] of one category; final recall [10] with at most 1, 10, 100 detections."""

    precision: np.ndarray
    recall: dict[int, np.ndarray]


def evaluate_ap(ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The summary numbers as fractions; -1 where no track of the ground truth counts.

    Args:
      ground_truth: content of an annotation file: `videos`, `categories`, `annotations` (`segmentations` per frame:
        RLE, compressed or not, or null; `areas`; `iscrowd`; for OVIS `occlusion`).
      predictions: list of {video_id, category_id, score, segmentations (RLE or null per frame)}.
    Returns:
      AP, AP50, AP75, APs/m/l, AR1, AR10, AR100, ARs/m/l; with `occlusion` in every annotation also AP_occ_light/medium/
      heavy and AR_occ_...
    Raises:
      ValueError: an unknown video or category, or tracks of another length than the video's.
    """
    return evaluate_ap_by_category(ground_truth, predictions)[0]


def evaluate_ap_by_category(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """What `evaluate_ap` returns, and AP, AP50, AP75, AR1, AR10, AR100 of each category with a track that counts."""
    cells = _build_cells(ground_truth, predictions)
    by_category = _score_categories(cells, _ALL, _ALL)
    result = {
        "AP": _mean_precision(by_category),
        "AP50": _mean_precision(by_category, 0),
        "AP75": _mean_precision(by_category, 5),
    }
    result |= {f"AR{limit}": _mean_recall(by_category, limit) for limit in (1, 10, 100)}
    for name, limits in _AREAS.items():
        scores = _score_categories(cells, limits, _ALL)
        result |= {f"AP{name}": _mean_precision(scores), f"AR{name}": _mean_recall(scores)}
    annotations = ground_truth["annotations"]
    if annotations and all("occlusion" in annotation for annotation in annotations):
        for name, limits in _OCCLUSIONS.items():
            scores = _score_categories(cells, _ALL, limits)
            result |= {f"AP_occ_{name}": _mean_precision(scores), f"AR_occ_{name}": _mean_recall(scores)}
    return result, {
        category: {
            "AP": float(scores.precision.mean()),
            "AP50": float(scores.precision[0].mean()),
            "AP75": float(scores.precision[5].mean()),
            **{f"AR{limit}": float(recall.mean()) for limit, recall in scores.recall.items()},
        }
        for category, scores in by_category.items()
    }


def track_iou(detections: Sequence[Sequence[Any]], truths: Sequence[Sequence[Any]]) -> np.ndarray:
    """IoU over whole tracks, float64 [D, G]; a track is a list of one RLE or None per frame. 0 where both are empty."""
    intersection = np.zeros((len(detections), len(truths)))
    areas = [np.zeros(len(detections)), np.zeros(len(truths))]
    for frame in range(len(truths[0]) if truths else 0):
        shown = [[i for i, track in enumerate(tracks) if track[frame]] for tracks in (detections, truths)]
        rles = [[tracks[i][frame] for i in index] for tracks, index in zip((detections, truths), shown, strict=True)]
        size = [coco_mask.area(r).astype(np.float64) if r else np.zeros(0) for r in rles]
        for total, index, area in zip(areas, shown, size, strict=True):
            total[index] += area
        if rles[0] and rles[1]:
            iou = coco_mask.iou(*rles, [0] * len(rles[1]))
            # iou = i / (a + b - i), and i is a whole number.
            total = size[0][:, None] + size[1][None, :]
            intersection[np.ix_(*shown)] += np.round(iou * total / (1 + iou))
    union = areas[0][:, None] + areas[1][None, :] - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _build_cells(ground_truth, predictions) -> dict[int, list[_Cell]]:
    """Category -> its videos, by video id; every category, and only videos with a truth or detection of it."""
    videos = {video["id"]: video for video in ground_truth["videos"]}
    categories = sorted(category["id"] for category in ground_truth["categories"])
    truths, detections = collections.defaultdict(list), collections.defaultdict(list)
    for kind, entries, groups in (
        ("annotations", ground_truth["annotations"], truths),
        ("predictions", predictions, detections),
    ):
        for index, entry in enumerate(entries):
            where = f"{kind}[{index}]"
            video_id, category = entry["video_id"], entry["category_id"]
            if video_id not in videos or category not in categories:
                raise ValueError(
                    f"{where}: video_id {video_id} and category_id {category} should be in the ground truth's "
                    f"{len(videos)} videos and categories {categories}"
                )
            num_frames = len(videos[video_id]["file_names"])
            if len(entry["segmentations"]) != num_frames:
                raise ValueError(
                    f"{where}: {len(entry['segmentations'])} frames, expected {num_frames} as in the video"
                )
            groups[category, video_id].append(entry)
    cells: dict[int, list[_Cell]] = {category: [] for category in categories}
    for category in categories:
        for video_id in sorted(videos):
            key = category, video_id
            if key in truths or key in detections:
                cells[category].append(_make_cell(videos[video_id], truths.get(key, []), detections.get(key, [])))
    return cells


def _make_cell(video, truths, detections) -> _Cell:
    scores = np.asarray([entry["score"] for entry in detections], np.float64)
    best = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    size = video["height"], video["width"]
    detected = [[_compress(rle, size) for rle in detections[i]["segmentations"]] for i in best]
    true = [
        _Truth(
            [_compress(rle, size) for rle in entry["segmentations"]],
            _mean_area(entry["areas"]),
            bool(entry.get("iscrowd")),
            _occlusion(entry["occlusion"]) if "occlusion" in entry else 0.0,
        )
        for entry in truths
    ]
    areas = np.asarray([_mean_area([rle and int(coco_mask.area(rle)) for rle in track]) for track in detected])
    return _Cell(scores[best], areas, true, track_iou(detected, [truth.segmentations for truth in true]))


def _score_categories(cells, area_limits, occlusion_limits) -> dict[int, CategoryScores]:
    """Only categories with a track that is neither crowd nor outside the limits."""
    result = {}
    for category, videos in cells.items():
        matched = [_match(cell, area_limits, occlusion_limits) for cell in videos]
        num_truths = sum(count for *_, count in matched)
        if num_truths == 0:
            continue
        precision, recall = {}, {}
        for limit in (1, 10, 100):
            precision[limit], recall[limit] = _curves(videos, matched, num_truths, limit)
        result[category] = CategoryScores(precision[100], recall)
    return result


def _match(cell: _Cell, area_limits, occlusion_limits) -> tuple[np.ndarray, np.ndarray, int]:
    """Greedy matching by score: is_matched and is_ignored bool [10, D], and the number of truths that count."""
    ignored = np.asarray(
        [
            t.is_crowd
            or not area_limits[0] <= t.area <= area_limits[1]
            or not occlusion_limits[0] <= t.occlusion <= occlusion_limits[1]
            for t in cell.truths
        ],
        bool,
    )
    order = np.argsort(ignored, kind="stable")  # truths that count come first
    outside = (cell.areas < area_limits[0]) | (cell.areas > area_limits[1])
    shape = len(IOU_THRESHOLDS), len(cell.scores)
    is_matched, is_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    for level, threshold in enumerate(IOU_THRESHOLDS):
        taken = set()
        for d in range(len(cell.scores)):
            best, best_iou = -1, min(threshold, 1 - 1e-10)
            for g in order:
                if g in taken and not cell.truths[g].is_crowd:
                    continue
                if best >= 0 and ignored[g] and not ignored[best]:
                    break
                if cell.ious[d, g] >= best_iou:  # equal: the later one
                    best, best_iou = g, cell.ious[d, g]
            if best >= 0:
                taken.add(best)
                is_matched[level, d], is_ignored[level, d] = True, ignored[best]
    return is_matched, is_ignored | (~is_matched & outside), int(np.count_nonzero(~ignored))


def _curves(videos, matched, num_truths: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision [10, 101] at the recall points and final recall [10], with at most `limit` detections per video."""
    scores = np.concatenate([cell.scores[:limit] for cell in videos])
    by_score = np.argsort(-scores, kind="stable")
    is_matched = np.concatenate([m[:, :limit] for m, _, _ in matched], axis=1)[:, by_score]
    is_ignored = np.concatenate([i[:, :limit] for _, i, _ in matched], axis=1)[:, by_score]
    true_positives = np.cumsum(is_matched & ~is_ignored, axis=1, dtype=np.float64)
    false_positives = np.cumsum(~is_matched & ~is_ignored, axis=1, dtype=np.float64)
    recall = true_positives / num_truths
    precision = true_positives / (true_positives + false_positives + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    sampled = np.zeros((len(IOU_THRESHOLDS), len(RECALL_POINTS)))
    for level in range(len(IOU_THRESHOLDS)):
        index = np.searchsorted(recall[level], RECALL_POINTS, side="left")
        reached = index < recall.shape[1]
        sampled[level, reached] = precision[level, index[reached]]
    return sampled, recall[:, -1] if len(scores) else np.zeros(len(IOU_THRESHOLDS))


def _mean_precision(by_category: Mapping[int, CategoryScores], level: int | None = None) -> float:
    if not by_category:
        return -1.0
    levels = slice(None) if level is None else slice(level, level + 1)
    return float(np.mean([scores.precision[levels] for scores in by_category.values()]))


def _mean_recall(by_category: Mapping[int, CategoryScores], limit: int = MAX_DETECTIONS) -> float:
    return float(np.mean([scores.recall[limit] for scores in by_category.values()])) if by_category else -1.0


def _compress(rle: Any, size: tuple[int, int]) -> dict[str, Any] | None:
    if not rle:
        return None
    if isinstance(rle["counts"], list):
        return coco_mask.frPyObjects({"size": list(size), "counts": rle["counts"]}, *size)
    return rle


def _mean_area(areas: Sequence[float | None]) -> float:
    shown = [area for area in areas if area]
    return sum(shown) / len(shown) if shown else 0.0


def _occlusion(labels: Sequence[str | None]) -> float:
    """OVIS: mean of the more occluded half of the frames in which the object is annotated."""
    values = sorted((_OCCLUSION_VALUES[label] for label in labels if label), reverse=True)
    if not values:
        raise ValueError("a track's 'occlusion' should hold a label for at least one frame, found none")
    half = math.ceil(len(values) / 2)
    return sum(values[:half]) / half
