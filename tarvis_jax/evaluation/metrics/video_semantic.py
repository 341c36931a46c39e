"""Video semantic segmentation (VSPW, Miao et al., CVPR 2021): mIoU and video consistency VC_n.

mIoU is the mean, over the classes that the truth has, of the IoU over all pixels of all videos.

VC_n looks at clips of n consecutive frames: of the pixels whose true label stays the same in the whole clip, the share
whose predicted label stays the same too. It does not ask whether the label is right. VC_n is the mean over the clips of
all videos.

These are the rules of the official evaluation, also where they surprise:

- classes that only the prediction has do not count in mIoU, and predictions on void pixels are free;
- the clip that ends with the last frame of a video is left out, so a video of T frames has T - n clips, and videos of
  n frames or fewer have none;
- void counts in VC as one more label of the truth;
- clips in which no true label stays the same are left out.
"""

import math
from collections.abc import Sequence

import numpy as np

from tarvis_jax.evaluation.metrics.overlap import count_pairs

NO_CLASS = 255


class VideoSemanticQuality:
    """Sums over videos: `add_frame` for each frame in order, `end_video` after each video's last.

    Args:
      num_classes: K.
      clip_lengths: the n of VC_n.
    """

    def __init__(self, num_classes: int, clip_lengths: Sequence[int]):
        self.num_classes = num_classes
        self.clip_lengths = tuple(clip_lengths)
        self.confusion = self._no_confusion()
        self.consistency: dict[int, list[float]] = {n: [] for n in self.clip_lengths}  # of each clip of all videos
        self._start_video()

    def add_frame(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """uint8 [H, W] each.

        Args:
          truth: 0..K-1; what is higher is void (if there are several such values, VC tells them apart).
          prediction: 0..K-1, or 255: no class, which is always wrong.
        Raises:
          ValueError: a size that differs from the other's or from the frame before, or a predicted class out of range.
        """
        true_classes, predicted_classes, pixels = count_pairs(truth, prediction)
        wrong = np.unique(predicted_classes[(predicted_classes >= self.num_classes) & (predicted_classes != NO_CLASS)])
        if wrong.size:
            raise ValueError(f"predicted classes {wrong.tolist()} are not in 0..{self.num_classes - 1} or {NO_CLASS}")
        if self._last is not None:
            if truth.shape != self._last[0].shape:
                raise ValueError(f"the frame has size {truth.shape}, the one before it {self._last[0].shape}")
            self._add_clips()
        valid = true_classes < self.num_classes
        column = np.where(predicted_classes == NO_CLASS, self.num_classes, predicted_classes)
        np.add.at(self._video_confusion, (true_classes[valid], column[valid]), pixels[valid])
        steady = []
        for index, current in enumerate((truth, prediction)):
            if self._last is None:
                steady.append(np.ones(truth.shape, np.uint8))
            else:
                same = current == self._last[index]
                longest = max(self.clip_lengths)
                steady.append(np.where(same, np.minimum(self._steady[index], longest - 1) + 1, 1).astype(np.uint8))
        self._last, self._steady = (truth, prediction), steady
        self._num_frames += 1

    def end_video(self) -> dict[str, float]:
        """Adds the video to the sums; its own scores as `scores` has them, and "frames"."""
        scores = _scores(self._video_confusion, self._video_consistency) | {"frames": self._num_frames}
        self.confusion += self._video_confusion
        for n, values in self._video_consistency.items():
            self.consistency[n] += values
        self._start_video()
        return scores

    def scores(self) -> dict[str, float]:
        """mIoU and VC<n> (0..1) of all videos; NaN without a labeled pixel, or without a clip of that length."""
        return _scores(self.confusion, self.consistency)

    def iou_by_class(self) -> np.ndarray:
        """IoU (0..1) of each class over all pixels of all videos, float64 [K]; -1 where the truth does not have it."""
        return _iou(self.confusion)

    def _no_confusion(self) -> np.ndarray:
        return np.zeros((self.num_classes, self.num_classes + 1), np.int64)  # truth, prediction (last column: none)

    def _start_video(self) -> None:
        self._video_confusion = self._no_confusion()
        self._video_consistency: dict[int, list[float]] = {n: [] for n in self.clip_lengths}
        self._num_frames = 0
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._steady: list[np.ndarray] = []  # truth, prediction: frames for which a pixel has had its label

    def _add_clips(self) -> None:
        """The clips that end at the frame before the current one."""
        for n in self.clip_lengths:
            if self._num_frames >= n:
                steady = self._steady[0] >= n
                total = np.count_nonzero(steady)
                if total:
                    both = np.count_nonzero(steady & (self._steady[1] >= n))
                    self._video_consistency[n].append(both / total)


def _scores(confusion: np.ndarray, consistency: dict[int, list[float]]) -> dict[str, float]:
    iou = _iou(confusion)
    means = {"mIoU": iou[iou >= 0]} | {f"VC{n}": values for n, values in consistency.items()}
    return {name: float(np.mean(values)) if len(values) else math.nan for name, values in means.items()}


def _iou(confusion: np.ndarray) -> np.ndarray:
    """float64 [K]; -1 = not in the truth."""
    hit = np.diagonal(confusion)
    true_pixels = confusion.sum(axis=1)
    union = true_pixels + confusion[:, :-1].sum(axis=0) - hit
    return np.divide(hit, union, out=np.full(len(hit), -1.0), where=true_pixels > 0)
