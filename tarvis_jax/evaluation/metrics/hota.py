"""HOTA (Luiten et al., IJCV 2020): detection and association of tracks, with equal weight, over 19 IoU thresholds.

In each frame, true and predicted objects are paired once, for all thresholds, so that the sum of (alignment of their
tracks over the whole video) x IoU is largest. A pair counts at a threshold (alpha) if its IoU reaches it. Videos are
combined by adding up their counts.
"""

import itertools
import math

import numpy as np

ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPSILON = np.finfo(float).eps
_MOST_ASSIGNMENTS = 2000


class Hota:
    """Scores of one class over any number of videos.

    Attributes:
      true_positives, false_negatives, false_positives: objects in frames, int64 [19], by alpha.
    """

    def __init__(self):
        self.true_positives, self.false_negatives, self.false_positives = np.zeros((3, len(ALPHAS)), np.int64)
        # Sums over true positives: of the scores of the pair of tracks they belong to, and of their own IoU.
        self._accuracy, self._recall, self._precision, self._iou = np.zeros((4, len(ALPHAS)))

    def add_video(self, true_shown: np.ndarray, found_shown: np.ndarray, iou: np.ndarray) -> None:
        """Adds one video of T evaluated frames, G true and P predicted tracks.

        Args:
          true_shown, found_shown: bool [T, G] and [T, P]: the tracks that have an object in a frame.
          iou: float64 [T, G, P] of the objects; 0 where one of them is not there.
        """
        num_true, num_found = np.count_nonzero(true_shown), np.count_nonzero(found_shown)
        self.false_negatives += num_true
        self.false_positives += num_found
        if num_true == 0 or num_found == 0:
            return
        times_true, times_found = true_shown.sum(axis=0)[:, None], found_shown.sum(axis=0)[None, :]
        total = iou.sum(axis=1)[:, None, :] + iou.sum(axis=2)[:, :, None] - iou
        potential = np.divide(iou, total, out=np.zeros_like(iou), where=total > _EPSILON).sum(axis=0)
        together = times_true + times_found - potential
        alignment = np.divide(potential, together, out=np.zeros_like(potential), where=together > 0)
        frames, rows, columns = _assign(alignment * iou, true_shown, found_shown)
        similarity = iou[frames, rows, columns]
        is_matched = similarity >= ALPHAS[:, None] - _EPSILON  # [19, pairs]
        num_matched = is_matched.sum(axis=1)
        self.true_positives += num_matched
        self.false_negatives -= num_matched
        self.false_positives -= num_matched
        self._iou += is_matched @ similarity
        # How often each pair of tracks is matched, [19, G, P].
        place = (np.arange(len(ALPHAS))[:, None] * times_true.size + rows) * times_found.size + columns
        shape = len(ALPHAS), times_true.size, times_found.size
        matches = np.bincount(place.ravel(), is_matched.ravel(), np.prod(shape)).reshape(shape)
        either = times_true + times_found - matches
        for sums, counts in (
            (self._accuracy, either),
            (self._recall, times_true),
            (self._precision, times_found),
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


def _assign(
    scores: np.ndarray, true_shown: np.ndarray, found_shown: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frames, rows and columns of the pairs whose sum of scores [T, G, P] is largest in each frame.

    Pairs with score 0 may be left out.
    """
    chosen = np.zeros(scores.shape, bool)
    is_open = np.ones(len(scores), bool)
    for axis in (2, 1):
        best = (scores == scores.max(axis=axis, keepdims=True)) & (scores > 0)
        # Where every row has one best column, and each another one, nothing can be better. The same for columns.
        is_clear = is_open & (best.sum(axis=1).max(axis=1) <= 1) & (best.sum(axis=2).max(axis=1) <= 1)
        chosen[is_clear] = best[is_clear]
        is_open &= ~is_clear
    for frame in np.flatnonzero(is_open):
        present = np.ix_(np.flatnonzero(true_shown[frame]), np.flatnonzero(found_shown[frame]))
        table = scores[frame][present]
        pairs = _assign_few(table)
        if pairs is None:
            from scipy.optimize import linear_sum_assignment  # takes longer to import than small files to score

            pairs = linear_sum_assignment(-table)
        chosen[frame, present[0][pairs[0], 0], present[1][0, pairs[1]]] = True
    return np.nonzero(chosen)


def _assign_few(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and columns of the best pairs with a score, from all assignments; None if these are too many or it is a tie.

    Which of several best ones is taken must be left to the official code's own algorithm.
    """
    rows, columns = np.flatnonzero(scores.any(axis=1)), np.flatnonzero(scores.any(axis=0))
    is_turned = len(rows) > len(columns)
    few, many = (columns, rows) if is_turned else (rows, columns)
    if math.perm(len(many), len(few)) > _MOST_ASSIGNMENTS:
        return None
    table = scores[np.ix_(rows, columns)]
    table = table.T if is_turned else table
    ways = np.asarray(list(itertools.permutations(range(len(many)), len(few))))
    values = table[np.arange(len(few)), ways]
    totals = values.sum(axis=1)
    is_best = totals >= totals.max() * (1 - 1e-9)
    pairs = np.where(values[is_best] > 0, ways[is_best], -1)
    if (pairs != pairs[0]).any():
        return None
    chosen = np.flatnonzero(pairs[0] >= 0)
    chosen = few[chosen], many[pairs[0][chosen]]
    return chosen[::-1] if is_turned else chosen
