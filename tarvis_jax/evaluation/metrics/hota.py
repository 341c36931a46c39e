"""HOTA (Luiten et al., IJCV 2020): detection and association of tracks, with equal weight, over 19 IoU thresholds.

In each frame, true and predicted objects are paired once, for all thresholds, so that the sum of (alignment of their
tracks over the whole video) x IoU is largest. A pair counts at a threshold (alpha) if its IoU reaches it. Videos are
combined by adding up their counts.
"""

from collections.abc import Sequence

import numpy as np

ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPSILON = np.finfo(float).eps


class Hota:
    """Scores of one class over any number of videos.

    Attributes:
      true_positives, false_negatives, false_positives: objects in frames, int64 [19], by alpha.
    """

    def __init__(self):
        self.true_positives, self.false_negatives, self.false_positives = np.zeros((3, len(ALPHAS)), np.int64)
        # Sums over true positives: of the scores of the pair of tracks they belong to, and of their own IoU.
        self._accuracy, self._recall, self._precision, self._iou = np.zeros((4, len(ALPHAS)))

    def add_video(self, frames: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> None:
        """Adds one video.

        Args:
          frames: per frame the numbers (from 0) of the true tracks [G] and of the predicted tracks [P], each at most
            once, and the IoU [G, P] of their masks.
        """
        num_truths = max((int(truths.max()) + 1 for truths, _, _ in frames if len(truths)), default=0)
        num_predictions = max((int(found.max()) + 1 for _, found, _ in frames if len(found)), default=0)
        if num_truths == 0 or num_predictions == 0:
            self.false_negatives += sum(len(truths) for truths, _, _ in frames)
            self.false_positives += sum(len(found) for _, found, _ in frames)
            return
        truth_counts, found_counts = np.zeros((num_truths, 1)), np.zeros((1, num_predictions))
        potential = np.zeros((num_truths, num_predictions))
        for truths, found, iou in frames:
            truth_counts[truths] += 1
            found_counts[0, found] += 1
            if iou.size:
                total = iou.sum(axis=0)[None, :] + iou.sum(axis=1)[:, None] - iou
                potential[np.ix_(truths, found)] += np.divide(
                    iou, total, out=np.zeros_like(iou), where=total > _EPSILON
                )
        together = truth_counts + found_counts - potential
        alignment = np.divide(potential, together, out=np.zeros_like(potential), where=together > 0)
        matches = np.zeros((len(ALPHAS), num_truths, num_predictions))
        for truths, found, iou in frames:
            num_matches = np.zeros(len(ALPHAS), np.int64)
            if iou.size:
                rows, columns = _assign(alignment[np.ix_(truths, found)] * iou)
                similarity = iou[rows, columns]
                is_matched = similarity >= ALPHAS[:, None] - _EPSILON  # [19, pairs]
                matches[:, truths[rows], found[columns]] += is_matched
                num_matches = is_matched.sum(axis=1)
                self._iou += is_matched @ similarity
            self.true_positives += num_matches
            self.false_negatives += len(truths) - num_matches
            self.false_positives += len(found) - num_matches
        either = truth_counts + found_counts - matches
        for sums, counts in (
            (self._accuracy, either),
            (self._recall, truth_counts),
            (self._precision, found_counts),
        ):
            sums += (matches * matches / np.maximum(1, counts)).sum(axis=(1, 2))

    def scores(self) -> dict[str, np.ndarray]:
        """HOTA, DetA, AssA, DetRe, DetPr, AssRe, AssPr, LocA: fractions [19] by alpha; LocA is 1 without any pair."""
        found, missed, wrong = self.true_positives, self.false_negatives, self.false_positives
        detection, association = found / np.maximum(1, found + missed + wrong), self._accuracy / np.maximum(1, found)
        return {
            "HOTA": np.sqrt(detection * association),
            "DetA": detection,
            "AssA": association,
            "DetRe": found / np.maximum(1, found + missed),
            "DetPr": found / np.maximum(1, found + wrong),
            "AssRe": self._recall / np.maximum(1, found),
            "AssPr": self._precision / np.maximum(1, found),
            "LocA": np.maximum(1e-10, self._iou) / np.maximum(1e-10, found),
        }


def _assign(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs whose sum of scores [G, P] is largest; pairs with score 0 may be left out."""
    for table, is_turned in ((scores, False), (scores.T, True)):
        best = table.max(axis=1)
        rows, columns = np.nonzero((table == best[:, None]) & (table > 0))
        # Where every row has one best column, and each another one, nothing can be better.
        if len(np.unique(rows)) == len(rows) and len(np.unique(columns)) == len(columns):
            return (columns, rows) if is_turned else (rows, columns)
    from scipy.optimize import linear_sum_assignment  # half a second, and seldom needed

    return linear_sum_assignment(-scores)
