"""STQ: segmentation and tracking quality (Weber et al., NeurIPS 2021), the metric of KITTI-STEP.

SQ is the mean IoU of the classes over all pixels of all videos. AQ asks how well each true tube of a thing is covered
by predicted tubes, whatever their class. STQ is their geometric mean.
"""

import math
from collections.abc import Sequence

import numpy as np

VOID_CLASS = 255
_INSTANCES = 1 << 20


class SegmentationTrackingQuality:
    """Sums over videos: `add_frame` for each frame in order, `end_video` after each video's last."""

    def __init__(self, num_classes: int, thing_classes: Sequence[int]):
        self.num_classes = num_classes
        self.thing_classes = tuple(thing_classes)
        self.confusion = np.zeros((num_classes, num_classes + 1), np.int64)  # truth, prediction (last column: void)
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
        """int [H, W] each: classes 0..K-1 or 255 = void, instance ids (of things; 0 in the truth = crowd).

        Raises:
          ValueError: sizes that differ, or a class that is neither 0..K-1 nor void.
        """
        maps = [np.asarray(m, np.int64) for m in (true_classes, true_instances, predicted_classes, predicted_instances)]
        if len({m.shape for m in maps}) > 1:
            raise ValueError(f"maps of one frame should have one size, found {[m.shape for m in maps]}")
        truth, true_ids, prediction, predicted_ids = (m.ravel() for m in maps)
        for name, classes in (("true", truth), ("predicted", prediction)):
            wrong = np.unique(classes[((classes < 0) | (classes >= self.num_classes)) & (classes != VOID_CLASS)])
            if wrong.size:
                raise ValueError(
                    f"{name} classes {wrong.tolist()} are not in 0..{self.num_classes - 1} or {VOID_CLASS}"
                )
        valid = truth != VOID_CLASS
        column = np.where(prediction == VOID_CLASS, self.num_classes, prediction)
        width = self.num_classes + 1
        self.confusion += np.bincount(truth[valid] * width + column[valid], minlength=self.confusion.size).reshape(
            self.confusion.shape
        )
        is_thing = np.isin(truth, self.thing_classes)
        is_tube = is_thing & (true_ids > 0)
        is_crowd = is_thing & (true_ids == 0)
        is_predicted = np.isin(prediction, self.thing_classes)
        true_tube = truth * _INSTANCES + true_ids
        predicted_tube = prediction * _INSTANCES + predicted_ids
        _count(self._true_sizes, true_tube[is_tube])
        _count(self._predicted_sizes, predicted_tube[is_predicted & ~is_crowd])
        both = is_tube & is_predicted
        pairs, pixels = np.unique(np.stack([true_tube[both], predicted_tube[both]]), axis=1, return_counts=True)
        for t, p, n in zip(*pairs.tolist(), pixels.tolist(), strict=True):
            self._common[t, p] = self._common.get((t, p), 0) + n

    def end_video(self) -> None:
        for (t, p), pixels in self._common.items():
            union = self._true_sizes[t] + self._predicted_sizes[p] - pixels
            self.association += pixels / self._true_sizes[t] * pixels / union
        self.num_tubes += len(self._true_sizes)
        self._start_video()

    def scores(self) -> dict[str, float]:
        """STQ, AQ, SQ (0..1). AQ is 0 without any true tube; classes in neither truth nor prediction do not count.

        Predicted void on labeled pixels counts as one more class, of IoU 0 (the official rule).
        """
        iou = self._iou()
        sq = float(np.mean(iou[iou >= 0])) if (iou >= 0).any() else 0.0
        aq = self.association / self.num_tubes if self.num_tubes else 0.0
        return {"STQ": math.sqrt(aq * sq), "AQ": aq, "SQ": sq}

    def iou_by_class(self) -> np.ndarray:
        """IoU (0..1) of each class over all pixels of all videos, float64 [K]; -1 where it is in neither."""
        return self._iou()[:-1]

    def _iou(self) -> np.ndarray:
        """float64 [K + 1], the last one that of predicted void."""
        hit = np.append(np.diagonal(self.confusion), 0)
        union = np.append(self.confusion.sum(axis=1), 0) + self.confusion.sum(axis=0) - hit
        return np.divide(hit, union, out=np.full(len(hit), -1.0), where=union > 0)

    def _start_video(self) -> None:
        self._true_sizes: dict[int, int] = {}
        self._predicted_sizes: dict[int, int] = {}
        self._common: dict[tuple[int, int], int] = {}


def _count(sizes: dict[int, int], tubes: np.ndarray) -> None:
    for tube, pixels in zip(*(a.tolist() for a in np.unique(tubes, return_counts=True)), strict=True):
        sizes[tube] = sizes.get(tube, 0) + pixels
