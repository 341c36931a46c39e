"""From overlapping clips to whole-video tracks: stride-4 logits, and nothing here knows the network.

Every stitcher has `add` (a clip's logits) and `pop` (take a frame that no later clip covers). A frame seen by several
clips gets the mean of their logits.

Differs from the reference: there, the mean over the overlap is written to a copy and lost for instances and objects,
so that one clip's logits decide: the earlier clip's for instances, the later clip's for objects
(tests/parity/reference_defects.py does the same, to compare with its results).
"""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment

from tarvis_jax.inference.history import pack, unpack
from tarvis_jax.results.class_scores import softmax
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


def mask_iou(masks_a: np.ndarray, masks_b: np.ndarray) -> np.ndarray:
    """(intersection + 1) / (union + 1) of bool [N, ...] and [M, ...] -> float [N, M]; two empty masks give 1."""
    a, b = _packed(masks_a), _packed(masks_b)
    intersection = np.array([np.bitwise_count(row & b).sum(axis=1) for row in a], np.float32).reshape(len(a), len(b))
    areas = [np.bitwise_count(each).sum(axis=1).astype(np.float32) for each in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - intersection
    return (intersection + 1.0) / (union + 1.0)


def _packed(masks: np.ndarray) -> np.ndarray:
    """bool [N, ...] -> uint64 [N, words], a bit for each pixel: what counts them reads an eighth of the bytes."""
    bits = np.packbits(masks.reshape(len(masks), math.prod(masks.shape[1:])), axis=1)
    return np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8))).view(np.uint64)


class Means(dict[Hashable, "Mean"]):
    """Running means by key, in the order in which the keys came."""

    def add(self, key: Hashable, value: np.ndarray) -> None:
        if key in self:
            self[key].add(value)
        else:
            self[key] = Mean(value)


class Mean:
    """Running mean of arrays of one shape; the first one is not copied."""

    def __init__(self, total: np.ndarray, count: int = 1):
        self.total, self.count = total.astype(np.float32, copy=False), count

    def add(self, value: np.ndarray) -> None:
        self.total = self.total + value
        self.count += 1

    @property
    def value(self) -> np.ndarray:
        return self.total if self.count == 1 else self.total / self.count


class InstanceStitcher:
    """Tracks of VIS and VPS: clips are associated by the overlap of their masks (paper section 3, inference).

    A track that is new in a clip shows from the first frame that no earlier clip covered (as in the reference): the
    frames of the overlap belong to the tracks of the earlier clip.

    A track without logits in any frame to come can get none any more: it has ended, and `take_ended` gives it away. So
    what is kept does not grow with the tracks of a video.
    """

    new_frame: type[Means] = Means  # joins the logits that several clips have for a frame, by track id

    def __init__(self, association_iou: float = 0.5):
        self._association_iou = association_iou
        self._frames: dict[int, Means] = {}  # frame -> track id -> logits
        self._first_shown: dict[int, int] = {}  # track id -> first frame it shows in
        self._class_logits = Means()  # by track id
        self._next_id = 1
        self._end = 0  # frames below this were covered by some clip
        self._starts_over = False
        self._known_ids: deque[list[int]] = deque()  # of the next clips, after `rewind`

    def add(self, first: int, mask_logits: np.ndarray, class_logits: np.ndarray) -> list[int]:
        """Adds the selected tracks of a clip; returns their ids.

        Args:
          first: index of the clip's first frame.
          mask_logits: float32 [N, T, h, w] at stride 4.
          class_logits: float32 [N, 1 + K].

        Raises:
          ValueError: after `rewind`, a clip has another number of tracks than before.
        """
        if self._known_ids:
            ids = self._known_ids.popleft()
            if len(ids) != len(mask_logits):
                raise ValueError(
                    f"the clip that begins at frame {first} had {len(ids)} tracks and has {len(mask_logits)}: "
                    "its frames are not those of the run before"
                )
            self._add_masks(first, ids, mask_logits)
            return ids
        ids = self._associate(first, mask_logits)
        if self._starts_over:
            self._frames, self._first_shown, self._class_logits = {}, {}, Means()
            self._end, self._starts_over = 0, False
        for track_id, logits in zip(ids, class_logits, strict=True):
            self._class_logits.add(track_id, logits)
            self._first_shown.setdefault(track_id, max(first, self._end))
        self._add_masks(first, ids, mask_logits)
        self._end = max(self._end, first + mask_logits.shape[1])
        return ids

    def _add_masks(self, first: int, ids: list[int], mask_logits: np.ndarray) -> None:
        for offset in range(mask_logits.shape[1]):
            frame = self._frames.setdefault(first + offset, self.new_frame())
            for track_id, logits in zip(ids, mask_logits[:, offset], strict=True):
                frame.add(track_id, logits)

    def bookmark(self) -> dict[str, Any]:
        """What is known of the tracks besides their masks, in types that JSON has; exact."""
        return {
            "next_id": self._next_id,
            "end": self._end,
            "tracks": [[i, self._first_shown[i], mean.count] for i, mean in self._class_logits.items()],
            "class_logits": pack(np.array([mean.total for mean in self._class_logits.values()], np.float32)),
        }

    def rewind(self, known_ids: Iterable[list[int]], bookmark: Mapping[str, Any]) -> None:
        """Makes a new stitcher what one was before.

        Args:
          known_ids: of the tracks of the next clips, which are added for their masks alone.
          bookmark: of the stitcher when it had these clips.
        """
        self._known_ids.extend(known_ids)
        self._next_id, self._end = bookmark["next_id"], bookmark["end"]
        for (track_id, first_shown, count), total in zip(
            bookmark["tracks"], unpack(bookmark["class_logits"]), strict=True
        ):
            self._first_shown[track_id] = first_shown
            self._class_logits[track_id] = Mean(total, count)

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
        for column in range(num_tracks):
            if ids[column] < 0:
                ids[column], self._next_id = self._next_id, self._next_id + 1
        return ids

    def start_over(self) -> None:
        """The next clip replaces all clips so far; its tracks get the ids of those that they agree with."""
        self._starts_over = True

    def peek(self, frame: int) -> Layer:
        """As `pop`, of a frame that may still change; it is kept."""
        tracks = self._frames.get(frame, {})
        return _layer({i: mean for i, mean in tracks.items() if self._first_shown[i] <= frame})

    def pop(self, frame: int) -> Layer:
        """Ids and logits [N, h, w] of the tracks that show in a final frame; the frame is forgotten."""
        layer = self.peek(frame)
        self._frames.pop(frame, None)
        return layer

    def class_logits(self) -> dict[int, np.ndarray]:
        """Track id -> mean class logits [1 + K] over the clips the track was found in, of all that are not taken."""
        return {track_id: mean.value for track_id, mean in self._class_logits.items()}

    def take_ended(self) -> dict[int, np.ndarray]:
        """`class_logits` of the tracks that have ended; they are forgotten."""
        if self._known_ids:
            return {}  # masks of the clips to come may be all that keeps a track alive
        alive = {track_id for frame in self._frames.values() for track_id in frame}
        ended = [track_id for track_id in self._class_logits if track_id not in alive]
        for track_id in ended:
            del self._first_shown[track_id]
        return {track_id: self._class_logits.pop(track_id).value for track_id in ended}


class SemanticStitcher:
    """Which clips cover a frame of VPS: their logits stay on the device until the frame is final."""

    def __init__(self) -> None:
        self._frames: dict[int, list[tuple[jax.Array, int]]] = {}

    def add(self, first: int, num_frames: int, logits: jax.Array) -> None:
        """logits: [K, T, h, w] of frames [first, first + num_frames); T may be greater."""
        for offset in range(num_frames):
            self._frames.setdefault(first + offset, []).append((logits, offset))

    def start_over(self) -> None:
        """The next clip replaces all clips so far."""
        self._frames.clear()

    def peek(self, frame: int) -> list[tuple[jax.Array, int]]:
        """Logits of the clips that cover a frame, and which of their frames it is."""
        return self._frames[frame]

    def pop(self, frame: int) -> list[tuple[jax.Array, int]]:
        """As `peek`, of a final frame, which is forgotten."""
        return self._frames.pop(frame)


class ExemplarStitcher:
    """Objects of VOS and PET: ids are the caller's, so only the logits of the overlap are to be joined."""

    def __init__(self) -> None:
        self._frames: dict[int, Means] = {}  # frame -> object id -> logits

    def add(self, first: int, ids: list[TargetId], logits: np.ndarray) -> None:
        """logits: float32 [N, T, h, w] at stride 4 of the objects `ids`; frames [first, first + T)."""
        for offset in range(logits.shape[1]):
            frame = self._frames.setdefault(first + offset, Means())
            for object_id, object_logits in zip(ids, logits[:, offset], strict=True):
                frame.add(object_id, object_logits)

    def forget(self, target_id: TargetId) -> None:
        """Drops an object from all frames that were not taken yet."""
        for frame in self._frames.values():
            frame.pop(target_id, None)

    def start_over(self) -> None:
        """The next clip replaces all clips so far."""
        self._frames.clear()

    def peek(self, frame: int) -> Layer:
        """Ids and logits [N, h, w] of the objects of a frame that may still change."""
        return _layer(self._frames.get(frame, {}))

    def pop(self, frame: int) -> Layer:
        """As `peek`, of a final frame, which is forgotten."""
        return _layer(self._frames.pop(frame, {}))


def _layer(means: Mapping[TargetId, Mean]) -> Layer:
    logits = [mean.value for mean in means.values()]
    return list(means), np.stack(logits) if logits else np.zeros((0, 1, 1), np.float32)
