"""STQ: segmentation and tracking quality (Weber et al., NeurIPS 2021), the metric of KITTI-STEP.

SQ is the mean IoU of the classes over all pixels of all videos. AQ asks how well each true tube of a thing is covered
by predicted tubes, whatever their class. STQ is their geometric mean.

These are the rules of the official evaluation, also where they surprise:

- void pixels of the truth do not count in SQ, but they do count in the size of predicted tubes;
- predicted void on labeled pixels is one more class of IoU 0 as soon as there is one such pixel;
- a true thing without number (id 0) is a crowd: no tube, and its pixels belong to no predicted tube; a predicted thing
  without number is an ordinary tube;
- AQ divides by the true tubes of all videos together, and predicted tubes that meet none cost nothing in AQ.
"""

import math
from collections.abc import Sequence

import numpy as np

from tarvis_jax.evaluation.metrics.overlap import count_pairs

VOID_CLASS = 255
_INSTANCES = 1 << 20


class SegmentationTrackingQuality:
    """Sums over videos: `add_frame` or `add_pixels` for each frame, `end_video` after each video's last."""

    def __init__(self, num_classes: int, thing_classes: Sequence[int]):
        self.num_classes = num_classes
        self.thing_classes = frozenset(thing_classes)
        self.confusion = self._no_confusion()
        self.num_tubes = 0
        self.association = 0.0
        self._start_video()

    def add_frame(
        self,
        true_classes: np.ndarray,
        true_instances: np.ndarray,
        predicted_classes: np.ndarray,
        predicted_instances: np.ndarray,
    ) -> None:
        """int [H, W] each: classes 0..K-1 or 255 = void, instance ids 0..2^20-1 (of things; 0 in the truth = crowd).

        Raises:
          ValueError: sizes that differ, or a class or an instance out of range.
        """
        maps = [np.asarray(m, np.int64) for m in (true_classes, true_instances, predicted_classes, predicted_instances)]
        if len({m.shape for m in maps}) > 1:
            raise ValueError(f"maps of one frame should have one size, found {[m.shape for m in maps]}")
        for instances in maps[1::2]:
            if instances.min() < 0 or instances.max() >= _INSTANCES:
                raise ValueError(f"expected instance ids in 0..{_INSTANCES - 1}, found up to {instances.max()}")
        truth, prediction, pixels = count_pairs(maps[0] * _INSTANCES + maps[1], maps[2] * _INSTANCES + maps[3])
        self.add_pixels(
            truth // _INSTANCES, truth % _INSTANCES, prediction // _INSTANCES, prediction % _INSTANCES, pixels
        )

    def add_pixels(
        self,
        true_classes: np.ndarray,
        true_instances: np.ndarray,
        predicted_classes: np.ndarray,
        predicted_instances: np.ndarray,
        pixels: np.ndarray,
    ) -> None:
        """A frame as a table: in row i, `pixels[i]` pixels have the classes and instances [i]; int [P] each.

        Raises:
          ValueError: a class that is neither 0..K-1 nor void.
        """
        for name, classes in (("true", true_classes), ("predicted", predicted_classes)):
            wrong = np.unique(classes[((classes < 0) | (classes >= self.num_classes)) & (classes != VOID_CLASS)])
            if wrong.size:
                raise ValueError(
                    f"{name} classes {wrong.tolist()} are not in 0..{self.num_classes - 1} or {VOID_CLASS}"
                )
        valid = true_classes != VOID_CLASS
        column = np.where(predicted_classes == VOID_CLASS, self.num_classes, predicted_classes)
        np.add.at(self._video_confusion, (true_classes[valid], column[valid]), pixels[valid])
        rows = (true_classes, true_instances, predicted_classes, predicted_instances, pixels)
        for true_class, true_id, predicted_class, predicted_id, n in zip(*(r.tolist() for r in rows), strict=True):
            is_thing = true_class in self.thing_classes
            truth, prediction = (true_class, true_id), (predicted_class, predicted_id)
            if is_thing and true_id > 0:
                self._true_sizes[truth] = self._true_sizes.get(truth, 0) + n
            if predicted_class in self.thing_classes and not (is_thing and true_id == 0):
                self._predicted_sizes[prediction] = self._predicted_sizes.get(prediction, 0) + n
                if is_thing:
                    self._common[truth, prediction] = self._common.get((truth, prediction), 0) + n
        self._num_frames += 1

    def end_video(self) -> dict[str, float]:
        """Adds the video to the sums; its own scores as `scores` has them, "frames" and "num_gt_tubes"."""
        association = 0.0
        for (truth, prediction), pixels in self._common.items():
            union = self._true_sizes[truth] + self._predicted_sizes[prediction] - pixels
            association += pixels / self._true_sizes[truth] * pixels / union
        num_tubes = len(self._true_sizes)
        counts = {"frames": self._num_frames, "num_gt_tubes": num_tubes}
        scores = _scores(self._video_confusion, association, num_tubes) | counts
        self.confusion += self._video_confusion
        self.association += association
        self.num_tubes += num_tubes
        self._start_video()
        return scores

    def scores(self) -> dict[str, float]:
        """STQ, AQ, SQ (0..1) of all videos.

        AQ is 0 without any true tube. SQ and STQ are NaN without any labeled pixel. Classes in neither truth nor
        prediction do not count.
        """
        return _scores(self.confusion, self.association, self.num_tubes)

    def iou_by_class(self) -> np.ndarray:
        """IoU (0..1) of each class over all pixels of all videos, float64 [K]; -1 where it is in neither."""
        return _iou(self.confusion)[:-1]

    def _no_confusion(self) -> np.ndarray:
        return np.zeros((self.num_classes, self.num_classes + 1), np.int64)  # truth, prediction (last column: void)

    def _start_video(self) -> None:
        self._video_confusion = self._no_confusion()
        self._num_frames = 0
        self._true_sizes: dict[tuple[int, int], int] = {}  # (class, id) -> pixels
        self._predicted_sizes: dict[tuple[int, int], int] = {}
        self._common: dict[tuple[tuple[int, int], tuple[int, int]], int] = {}  # (truth, prediction) -> pixels


def _scores(confusion: np.ndarray, association: float, num_tubes: int) -> dict[str, float]:
    iou = _iou(confusion)
    sq = float(np.mean(iou[iou >= 0])) if (iou >= 0).any() else math.nan
    aq = association / num_tubes if num_tubes else 0.0
    return {"STQ": math.sqrt(aq * sq), "AQ": aq, "SQ": sq}


def _iou(confusion: np.ndarray) -> np.ndarray:
    """float64 [K + 1], the last one that of predicted void; -1 = in neither truth nor prediction."""
    hit = np.append(np.diagonal(confusion), 0)
    union = np.append(confusion.sum(axis=1), 0) + confusion.sum(axis=0) - hit
    return np.divide(hit, union, out=np.full(len(hit), -1.0), where=union > 0)
