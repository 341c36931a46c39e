"""Panoptic quality over time (PQ, Kirillov et al., CVPR 2019; VPQ, Kim et al., CVPR 2020).

Inside a window of consecutive frames, a segment's masks form a tube. A true and a predicted tube of the same class
match if their IoU over the window is above 0.5. PQ of a class is the sum of matched IoUs over TP + FP / 2 + FN / 2,
summed over all windows of all videos; the result is the mean over classes with a tube in truth or prediction. Windows:

- `PQ_frame`: 1 frame, ordinary panoptic quality;
- `VPQ_k`: k consecutive frames, sliding by one (videos that are shorter add nothing);
- `PQ_tube`: the whole video: a thing must keep its id, and a stuff class is one tube.

Void pixels of the truth are taken out of unions, and unmatched predictions that lie on void for more than half are no
errors. So are unmatched true crowd segments and predictions mostly on void and the crowd of their class.

These are the rules of the official evaluation, also where they surprise:

- class and crowd flag of a tube are those of the first frame of the window that lists it;
- a true segment has the area that its file states; one that is listed and has no pixels is missed all the same;
- pixels of the truth whose id no segment has are not void: predictions there are charged;
- of several crowds of a class, the one that is listed last in the window excuses predictions, the others do not.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from tarvis_jax.evaluation.metrics.overlap import count_pairs

WHOLE_VIDEO = None
VOID_CLASS = 255
_INSTANCES = 1 << 20  # more than any instance id


@dataclasses.dataclass(frozen=True)
class Segments:
    """Segments of one frame.

    Attributes:
      ids: int [H, W], 0..2^31-1: the segment at each pixel, 0 = void; an id means the same in all frames of a video.
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

    def add_overlaps(self, overlaps: Sequence["Overlap"]) -> None:
        """`overlaps`: of all frames of a video, from `frame_overlap`.

        Raises:
          ValueError: a true area that is too small for the pixels it shares with a prediction (an IoU above 1).
        """
        length = len(overlaps) if self.window is WHOLE_VIDEO else self.window
        for start in range(len(overlaps) - length + 1):
            self._add_window(overlaps[start : start + length])

    def add(self, other: "PanopticQuality") -> None:
        """Adds the sums over other videos."""
        self.iou += other.iou
        self.true_positives += other.true_positives
        self.false_positives += other.false_positives
        self.false_negatives += other.false_negatives

    def scores(self, classes: Iterable[int] | None = None) -> float:
        """Mean PQ (0..1) over `classes` (default: all) with any tube; -1 if none has."""
        by_class = self.by_class()
        chosen = [c for c in (range(self.num_classes) if classes is None else classes) if by_class[c] >= 0]
        return float(np.mean(by_class[chosen])) if chosen else -1.0

    def by_class(self) -> np.ndarray:
        """PQ (0..1) of each class, float64 [K]; -1 for classes without any tube."""
        total = self.true_positives + (self.false_positives + self.false_negatives) / 2
        return np.divide(self.iou, total, out=np.full(self.num_classes, -1.0), where=total > 0)

    def _add_window(self, overlaps: Sequence["Overlap"]) -> None:
        true_classes, predicted_classes, true_area = {}, {}, {}
        crowds, crowd_of_class = set(), {}
        for overlap in overlaps:
            for t, label in overlap.true_classes.items():
                if t not in true_classes and t in overlap.crowd:
                    crowds.add(t)
                    crowd_of_class[label] = t  # the last one stands for the class
                true_classes.setdefault(t, label)
                true_area[t] = true_area.get(t, 0) + overlap.true_areas[t]
            for p, label in overlap.predicted_classes.items():
                predicted_classes.setdefault(p, label)
        common, predicted_area = _sum(overlaps)

        matched_true, matched_predicted = set(), set()
        for (t, p), intersection in common.items():
            if t not in true_classes or t in crowds or true_classes[t] != predicted_classes.get(p):
                continue
            union = true_area[t] + predicted_area[p] - intersection - common.get((0, p), 0)
            if union == 0 or intersection / union > 1:
                raise ValueError(
                    f"true segment {t} has an area of {true_area[t]} in {len(overlaps)} frames, too small for the "
                    f"{intersection} pixels that it shares with the predicted segment {p}"
                )
            if intersection / union > 0.5:
                self.true_positives[true_classes[t]] += 1
                self.iou[true_classes[t]] += intersection / union
                matched_true.add(t)
                matched_predicted.add(p)
        for t, label in true_classes.items():
            if t not in matched_true and t not in crowds:
                self.false_negatives[label] += 1
        for p, label in predicted_classes.items():
            if p in matched_predicted:
                continue
            excused = common.get((0, p), 0)
            if label in crowd_of_class:
                excused += common.get((crowd_of_class[label], p), 0)
            if excused / predicted_area[p] <= 0.5:
                self.false_positives[label] += 1


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What a frame adds to any window; all that is kept of it.

    Attributes:
      true_ids: int64 [P]: segment in the truth, at some pixels that
      predicted_ids: int64 [P]: have this segment in the prediction.
      pixels: int64 [P]: how many.
      true_classes: of the listed true segments, in the order in which they are listed: id -> class.
      predicted_classes: of the predicted segments: id -> class.
      crowd: ids of true segments that stand for many objects.
      true_areas: id -> pixels of each true segment.
    """

    true_ids: np.ndarray
    predicted_ids: np.ndarray
    pixels: np.ndarray
    true_classes: dict[int, int]
    predicted_classes: dict[int, int]
    crowd: frozenset[int]
    true_areas: dict[int, int]


def frame_overlap(truth: Segments, prediction: Segments) -> Overlap:
    """The pixels that each pair of segments shares in a frame.

    Raises:
      ValueError: sizes that differ, or predicted pixels whose segment has no class, or predicted classes of segments
        that have no pixels.
    """
    if truth.ids.shape != prediction.ids.shape:
        raise ValueError(f"predicted segments have size {prediction.ids.shape}, the ground truth {truth.ids.shape}")
    true_ids, predicted_ids, pixels = count_pairs(truth.ids, prediction.ids)
    shown = set(predicted_ids.tolist())
    if unknown := sorted(shown - prediction.classes.keys() - {0}):
        raise ValueError(f"predicted segments {unknown[:3]} have pixels and no class")
    if absent := sorted(prediction.classes.keys() - shown):
        raise ValueError(f"predicted segments {absent[:3]} have a class and no pixels")
    areas = truth.areas
    if areas is None:
        areas = dict.fromkeys(truth.classes, 0)
        for t, n in zip(true_ids.tolist(), pixels.tolist(), strict=True):
            areas[t] = areas.get(t, 0) + n
    return Overlap(true_ids, predicted_ids, pixels, truth.classes, prediction.classes, truth.crowd, areas)


def _sum(overlaps: Sequence[Overlap]) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    """Pixels of each (true, predicted) pair, ascending, and of each predicted segment in some frames together."""
    keys = np.concatenate([o.true_ids << 32 | o.predicted_ids for o in overlaps])
    keys, index = np.unique(keys, return_inverse=True)
    pixels = np.bincount(index, np.concatenate([o.pixels for o in overlaps])).astype(np.int64)
    common, predicted = {}, {}
    for t, p, n in zip((keys >> 32).tolist(), (keys & 0xFFFFFFFF).tolist(), pixels.tolist(), strict=True):
        common[t, p] = n
        predicted[p] = predicted.get(p, 0) + n
    return common, predicted
