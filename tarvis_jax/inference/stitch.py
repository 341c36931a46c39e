"""From overlapping clips to whole-video tracks: numpy on stride-4 logits, nothing here knows the network.

Every stitcher has `add` (a clip's logits) and `pop` (take a frame that no later clip covers). A frame seen by several
clips gets the mean of their logits.

Differs from the reference: there, the mean over the overlap is written to a copy and lost for instances and objects,
so that one clip's logits decide: the earlier clip's for instances, the later clip's for objects. That, and what
follows from it (see ExemplarStitcher), is kept behind `reference_overlap=True`.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from tarvis_jax.results.tracks import TargetId

Layer = tuple[list[TargetId], np.ndarray]  # ids [N] and their logits [N, h, w]


def select_tracks(class_logits: np.ndarray, max_tracks: int, score_threshold: float) -> np.ndarray:
    """Indices of the queries of a clip that become tracks.

    Args:
      class_logits: float [Q, 1 + K], column 0 is the background.
      max_tracks: at most this many; the best come first if that cuts any.
      score_threshold: least softmax score of the best class; 0 keeps all.
    """
    scores = softmax(class_logits)[:, 1:].max(axis=1)
    indices = np.flatnonzero(scores >= score_threshold)
    if len(indices) > max_tracks:
        indices = indices[np.argsort(-scores[indices], kind="stable")[:max_tracks]]
    return indices


def drop_duplicates(mask_logits: np.ndarray, class_logits: np.ndarray, max_iou: float) -> np.ndarray:
    """Indices of the tracks of a clip that overlap no better one too much (greedy non-maximum suppression).

    Differs from the reference: it keeps duplicates. A network that is not trained for long still answers with several
    queries for one object.

    Args:
      mask_logits: float [N, T, h, w].
      class_logits: float [N, 1 + K], column 0 is the background.
      max_iou: a track goes if its masks (> 0) over the clip have a greater IoU than this with a kept track of a higher
        best class score; 1 keeps all.
    """
    if max_iou >= 1 or len(mask_logits) < 2:
        return np.arange(len(mask_logits))
    iou = mask_iou(mask_logits > 0, mask_logits > 0)
    kept: list[int] = []
    for index in np.argsort(-softmax(class_logits)[:, 1:].max(axis=1), kind="stable"):
        if all(iou[index, other] <= max_iou for other in kept):
            kept.append(int(index))
    return np.sort(np.array(kept, np.int64))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, float64 inside."""
    exp = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def mask_iou(masks_a: np.ndarray, masks_b: np.ndarray) -> np.ndarray:
    """(intersection + 1) / (union + 1) of bool [N, ...] and [M, ...] -> float [N, M]; two empty masks give 1."""
    a = masks_a.reshape(len(masks_a), -1).astype(np.float32)
    b = masks_b.reshape(len(masks_b), -1).astype(np.float32)
    intersection = a @ b.T
    union = a.sum(axis=1)[:, None] + b.sum(axis=1)[None, :] - intersection
    return (intersection + 1.0) / (union + 1.0)


class _Mean:
    """Running mean of logits [h, w] (or [K, h, w])."""

    def __init__(self, value: np.ndarray):
        self.total, self.count = value.astype(np.float32, copy=True), 1

    def add(self, value: np.ndarray) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> np.ndarray:
        return self.total if self.count == 1 else self.total / self.count


class InstanceStitcher:
    """Tracks of VIS and VPS: clips are associated by the overlap of their masks (paper section 3, inference).

    A track that is new in a clip shows from the first frame that no earlier clip covered (as in the reference): the
    frames of the overlap belong to the tracks of the earlier clip.
    """

    def __init__(self, association_iou: float = 0.5, reference_overlap: bool = False):
        self._association_iou = association_iou
        self._reference_overlap = reference_overlap
        self._frames: dict[int, dict[int, _Mean]] = {}  # frame -> track id -> logits
        self._first_shown: dict[int, int] = {}  # track id -> first frame it shows in
        self._class_logits: dict[int, _Mean] = {}
        self._end = 0  # frames below this were covered by some clip

    def add(self, first: int, mask_logits: np.ndarray, class_logits: np.ndarray) -> list[int]:
        """Adds the selected tracks of a clip; returns their ids.

        Args:
          first: index of the clip's first frame.
          mask_logits: float32 [N, T, h, w] at stride 4.
          class_logits: float32 [N, 1 + K].
        """
        ids = self._associate(first, mask_logits)
        for track_id, logits in zip(ids, class_logits, strict=True):
            if track_id in self._class_logits:
                self._class_logits[track_id].add(logits)
            else:
                self._class_logits[track_id] = _Mean(logits)
                self._first_shown[track_id] = max(first, self._end)
        for offset in range(mask_logits.shape[1]):
            frame = self._frames.setdefault(first + offset, {})
            for track_id, logits in zip(ids, mask_logits[:, offset], strict=True):
                if track_id not in frame:
                    frame[track_id] = _Mean(logits)
                elif not self._reference_overlap:
                    frame[track_id].add(logits)
        self._end = max(self._end, first + mask_logits.shape[1])
        return ids

    def _associate(self, first: int, mask_logits: np.ndarray) -> list[int]:
        """Ids for the tracks of a clip: those of earlier tracks where the masks agree, new ones elsewhere.

        The candidates are all tracks that have logits in the overlap: those of the previous clip and, where more
        than half a clip overlaps, also those of the clips before it.
        """
        num_tracks, num_frames = mask_logits.shape[:2]
        overlap = [t for t in range(num_frames) if first + t in self._frames]
        # In the order of the previous clip, the only one so far to cover the last of these frames: it settles ties.
        candidates = list(dict.fromkeys(i for t in reversed(overlap) for i in self._frames[first + t]))
        ids = [-1] * num_tracks
        if candidates and num_tracks:
            earlier = np.zeros((len(candidates), len(overlap), *mask_logits.shape[2:]), bool)
            for row, track_id in enumerate(candidates):
                for column, t in enumerate(overlap):
                    if track_id in self._frames[first + t]:
                        earlier[row, column] = self._frames[first + t][track_id].value > 0
            iou = mask_iou(earlier, mask_logits[:, overlap] > 0)
            for row, column in zip(*linear_sum_assignment(iou, maximize=True), strict=True):
                if iou[row, column] > self._association_iou:
                    ids[column] = candidates[row]
        next_id = len(self._class_logits) + 1
        for column in range(num_tracks):
            if ids[column] < 0:
                ids[column], next_id = next_id, next_id + 1
        return ids

    def pop(self, frame: int) -> Layer:
        """Ids and logits [N, h, w] of the tracks that show in a final frame; the frame is forgotten."""
        tracks = self._frames.pop(frame, {})
        shown = [i for i in tracks if self._first_shown[i] <= frame]
        return shown, np.stack([tracks[i].value for i in shown]) if shown else np.zeros((0, 1, 1), np.float32)

    def class_logits(self) -> dict[int, np.ndarray]:
        """Track id -> mean class logits [1 + K] over the clips the track was found in."""
        return {track_id: mean.value for track_id, mean in self._class_logits.items()}


class SemanticStitcher:
    """Semantic logits of VPS, averaged over the clips that cover a frame."""

    def __init__(self) -> None:
        self._frames: dict[int, _Mean] = {}

    def add(self, first: int, logits: np.ndarray) -> None:
        """logits: float32 [K, T, h, w] at stride 4."""
        for offset in range(logits.shape[1]):
            if first + offset in self._frames:
                self._frames[first + offset].add(logits[:, offset])
            else:
                self._frames[first + offset] = _Mean(logits[:, offset])

    def pop(self, frame: int) -> np.ndarray:
        """Mean logits [K, h, w] of a final frame; the frame is forgotten."""
        return self._frames.pop(frame).value


class ExemplarStitcher:
    """Objects of VOS and PET: ids are the caller's, so only the logits of the overlap are to be joined.

    `pop` gives a frame's layers, earliest first: within a layer every pixel goes to the object with the greatest
    logit, if above 0. There is one layer, the mean, unless `reference_overlap`: then each clip is a layer of its own,
    an object's mask of a later layer replaces the earlier one unless empty, the last clip gives only its new frames,
    and its rows carry the ids of the clip before (so a video of a single clip has no output) -- the reference forgets
    to update them there.
    """

    def __init__(self, reference_overlap: bool = False):
        self._reference_overlap = reference_overlap
        self._means: dict[int, dict[TargetId, _Mean]] = {}  # frame -> object id -> logits
        self._layers: dict[int, list[Layer]] = {}  # reference_overlap only
        self._previous_ids: list[TargetId] = []
        self._previous_end = 0

    def add(self, first: int, ids: list[TargetId], logits: np.ndarray, is_last: bool) -> None:
        """logits: float32 [N, T, h, w] at stride 4 of the objects `ids`; frames [first, first + T)."""
        end = first + logits.shape[1]
        if self._reference_overlap:
            start = max(first, self._previous_end) if is_last else first
            row_ids = self._previous_ids if is_last else ids
            for frame in range(start, end):
                self._layers.setdefault(frame, []).append((list(row_ids), logits[:, frame - first]))
        else:
            for frame in range(first, end):
                means = self._means.setdefault(frame, {})
                for object_id, object_logits in zip(ids, logits[:, frame - first], strict=True):
                    if object_id in means:
                        means[object_id].add(object_logits)
                    else:
                        means[object_id] = _Mean(object_logits)
        self._previous_ids, self._previous_end = list(ids), end

    def all_lost(self) -> None:
        """Tells that a clip had no object left to follow; a later clip may begin with new ones."""
        self._previous_ids, self._previous_end = [], 0

    def forget(self, target_id: TargetId) -> None:
        """Drops an object from all frames that were not taken yet."""
        for means in self._means.values():
            means.pop(target_id, None)
        for layers in self._layers.values():
            for index, (ids, logits) in enumerate(layers):
                rows = [row for row in range(len(logits)) if row >= len(ids) or ids[row] != target_id]
                layers[index] = [other for other in ids if other != target_id], logits[rows]
        self._previous_ids = [other for other in self._previous_ids if other != target_id]

    def pop(self, frame: int) -> list[Layer]:
        """Layers (ids, logits [N, h, w]) of a final frame; the frame is forgotten."""
        if self._reference_overlap:
            return self._layers.pop(frame, [])
        means = self._means.pop(frame, {})
        return [(list(means), np.stack([m.value for m in means.values()]))] if means else []
