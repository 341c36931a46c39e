"""Panoptic quality over time (PQ, Kirillov et al., CVPR 2019; VPQ, Kim et al., CVPR 2020).

Inside a window of consecutive frames, a segment's masks form a tube. A true and a predicted tube of the same class
match if their IoU over the window is above 0.5. PQ of a class is the sum of matched IoUs over TP + FP / 2 + FN / 2,
summed over all windows of all videos; the result is the mean over classes with a tube in truth or prediction. Windows:

- `PQ_frame`: 1 frame, ordinary panoptic quality;
- `VPQ_k`: k consecutive frames, sliding by one (videos that are shorter add nothing);
- `PQ_tube`: the whole video: a thing must keep its id, and a stuff class is one tube.

Void pixels of the truth are taken out of unions, and unmatched predictions that lie on void for more than half are no
errors. So are unmatched true crowd segments and predictions mostly on void and crowds of their class.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

WHOLE_VIDEO = None
VOID_CLASS = 255
_INSTANCES = 1 << 20  # more than any instance id


@dataclasses.dataclass(frozen=True)
class Segments:
    """Segments of one frame.

    Attributes:
      ids: int [H, W]: the segment at each pixel, 0 = void; an id means the same segment in all frames of a video.
      classes: id -> class 0..K-1. Pixels of an id without entry are neither void nor any segment.
      crowd: ids of segments that stand for many objects (truth only).
      areas: id -> pixels as an annotation file states them, which the official VPQ believes (truth only).
    """

    ids: np.ndarray
    classes: dict[int, int]
    crowd: frozenset[int] = frozenset()
    areas: dict[int, int] | None = None


def segments_from_maps(
    class_map: np.ndarray, instance_map: np.ndarray, thing_classes: Sequence[int], *, is_truth: bool
) -> Segments:
    """Segments from classes (0..K-1, 255 void) and instance ids (>= 0), int [H, W] each.

    Stuff is one segment per class, whatever its instance ids. In the truth a thing's id 0 marks a crowd (KITTI-STEP).
    """
    class_map, instance_map = class_map.astype(np.int64), instance_map.astype(np.int64)
    if instance_map.min() < 0 or instance_map.max() >= _INSTANCES:
        raise ValueError(f"instance ids should be in 0..{_INSTANCES - 1}, found up to {instance_map.max()}")
    ids = (class_map + 1) * _INSTANCES + np.where(np.isin(class_map, thing_classes), instance_map, 0)
    ids[class_map == VOID_CLASS] = 0
    classes = {int(i): int(i) // _INSTANCES - 1 for i in np.unique(ids) if i > 0}
    crowd = {i for i, c in classes.items() if c in thing_classes and i % _INSTANCES == 0} if is_truth else ()
    return Segments(ids, classes, frozenset(crowd))


class PanopticQuality:
    """Sums of one window length over videos; add each video once, then ask for `scores`."""

    def __init__(self, num_classes: int, window: int | None):
        self.num_classes = num_classes
        self.window = window
        self.iou = np.zeros(num_classes)
        self.true_positives, self.false_positives, self.false_negatives = np.zeros((3, num_classes), np.int64)

    def add_overlaps(self, overlaps: Sequence["_Overlaps"]) -> None:
        """`overlaps`: of all frames of a video, from `frame_overlaps`."""
        length = len(overlaps) if self.window is WHOLE_VIDEO else self.window
        for start in range(len(overlaps) - length + 1):
            self._add_window(overlaps[start : start + length])

    def scores(self, classes: Iterable[int] | None = None) -> float:
        """Mean PQ (0..1) over `classes` (default: all) with any tube; -1 if none has."""
        by_class = self.by_class()
        chosen = [c for c in (range(self.num_classes) if classes is None else classes) if by_class[c] >= 0]
        return float(np.mean(by_class[chosen])) if chosen else -1.0

    def by_class(self) -> np.ndarray:
        """PQ (0..1) of each class, float64 [K]; -1 for classes without any tube."""
        total = self.true_positives + (self.false_positives + self.false_negatives) / 2
        return np.divide(self.iou, total, out=np.full(self.num_classes, -1.0), where=total > 0)

    def _add_window(self, overlaps: Sequence["_Overlaps"]) -> None:
        pairs = np.concatenate([o.pairs for o in overlaps])
        pairs, index = np.unique(pairs, axis=0, return_inverse=True)
        pixels = np.bincount(index.ravel(), np.concatenate([o.pixels for o in overlaps]), len(pairs)).astype(np.int64)
        # The class of a tube is that of its first frame in the window.
        true_classes, predicted_classes, crowd = {}, {}, set()
        for overlap in reversed(overlaps):
            true_classes |= overlap.true_classes
            predicted_classes |= overlap.predicted_classes
            crowd = {i for i in crowd if i not in overlap.true_classes} | overlap.crowd
        common = {(int(t), int(p)): int(n) for (t, p), n in zip(pairs, pixels, strict=True)}
        true_area = _sum([o.true_areas for o in overlaps])
        predicted_area = _sum([o.predicted_areas for o in overlaps])

        matched_true, matched_predicted = set(), set()
        for (t, p), intersection in common.items():
            if t not in true_classes or t in crowd or true_classes[t] != predicted_classes.get(p):
                continue
            union = true_area[t] + predicted_area[p] - intersection - common.get((0, p), 0)
            if intersection / union > 0.5:
                self.true_positives[true_classes[t]] += 1
                self.iou[true_classes[t]] += intersection / union
                matched_true.add(t)
                matched_predicted.add(p)
        for t, label in true_classes.items():
            if t not in matched_true and t not in crowd:
                self.false_negatives[label] += 1
        for p, label in predicted_classes.items():
            if p in matched_predicted:
                continue
            excused = common.get((0, p), 0)
            excused += sum(common.get((t, p), 0) for t in crowd if true_classes[t] == label)
            if excused / predicted_area[p] <= 0.5:
                self.false_positives[label] += 1


@dataclasses.dataclass(frozen=True)
class _Overlaps:
    pairs: np.ndarray  # int64 [P, 2]: true and predicted id
    pixels: np.ndarray  # int64 [P]
    true_classes: dict[int, int]
    predicted_classes: dict[int, int]
    true_areas: dict[int, int]
    predicted_areas: dict[int, int]
    crowd: frozenset[int]


def frame_overlaps(truth: Segments, prediction: Segments) -> _Overlaps:
    """What the frame adds to any window; all that is kept of it. Raises ValueError if the sizes differ."""
    if truth.ids.shape != prediction.ids.shape:
        raise ValueError(f"predicted segments have size {prediction.ids.shape}, the ground truth {truth.ids.shape}")
    unknown = np.setdiff1d(prediction.ids, [0, *prediction.classes])
    if unknown.size:
        raise ValueError(f"predicted segments {unknown[:3].tolist()} have no class")
    true_ids, true_index = np.unique(truth.ids, return_inverse=True)
    predicted_ids, predicted_index = np.unique(prediction.ids, return_inverse=True)
    joint = true_index.ravel() * len(predicted_ids) + predicted_index.ravel()
    pixels = np.bincount(joint, minlength=len(true_ids) * len(predicted_ids))
    shown = np.flatnonzero(pixels)
    pairs = np.stack([true_ids[shown // len(predicted_ids)], predicted_ids[shown % len(predicted_ids)]], axis=1)
    table = pixels.reshape(len(true_ids), len(predicted_ids))
    return _Overlaps(
        pairs.astype(np.int64),
        pixels[shown],
        {i: c for i, c in truth.classes.items() if i in true_ids},
        {i: c for i, c in prediction.classes.items() if i in predicted_ids},
        dict(zip(true_ids.tolist(), table.sum(axis=1).tolist(), strict=True)) if truth.areas is None else truth.areas,
        dict(zip(predicted_ids.tolist(), table.sum(axis=0).tolist(), strict=True)),
        truth.crowd,
    )


def _sum(areas: Sequence[dict[int, int]]) -> dict[int, int]:
    result: dict[int, int] = {}
    for frame in areas:
        for segment, pixels in frame.items():
            result[segment] = result.get(segment, 0) + pixels
    return result
