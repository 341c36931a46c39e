"""What a clip's object queries are made from: the targets given in it, and the masks of the clip before."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from tarvis_jax.inference.history import pack, unpack
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import TargetId

BEFORE_FIRST_FRAME = -1e3  # mask logit of an object in frames before it is given


@dataclasses.dataclass(frozen=True)
class ExemplarInputs:
    """What `Predictor.segment_objects` needs of the objects of a clip; rows are objects, padded pixels.

    Attributes:
      ids: the caller's id per row.
      masks: bool [N, T, H, W]; all false for point rows.
      points_yx: float32 [N, 2] normalized to the padded image; 0 for mask rows.
      point_frames: int32 [N] frame within the clip; 0 for mask rows.
      is_point: bool [N].
      valid_frames: bool [T] frames that objects and background are encoded from.
    """

    ids: list[TargetId]
    masks: np.ndarray
    points_yx: np.ndarray
    point_frames: np.ndarray
    is_point: np.ndarray
    valid_frames: np.ndarray


class Targets:
    """All that the caller gave: for each object a target, and corrections, which are targets under the same id.

    A clip begins at the frame of a correction (`cuts`). It knows nothing of the object but the new target, and all
    clips before know nothing of that.
    """

    def __init__(self) -> None:
        self._first: dict[TargetId, Target] = {}
        self._corrections: dict[TargetId, dict[int, Target]] = {}  # id -> frame -> the one given there last

    def __contains__(self, target_id: TargetId) -> bool:
        return target_id in self._first

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[Target]:
        """All targets and corrections."""
        for target_id, target in self._first.items():
            yield target
            yield from self._corrections[target_id].values()

    @property
    def ids(self) -> list[TargetId]:
        """In the order in which the objects were added."""
        return list(self._first)

    def __getitem__(self, target_id: TargetId) -> Target:
        """What the object was added with."""
        return self._first[target_id]

    def add(self, target: Target) -> None:
        self._first[target.id], self._corrections[target.id] = target, {}

    def correct(self, target: Target) -> None:
        """Gives a known object anew; replaces a correction of the same frame."""
        self._corrections[target.id][target.frame] = target

    def remove(self, target_id: TargetId) -> None:
        del self._first[target_id], self._corrections[target_id]

    def cuts(self) -> set[int]:
        """Frames at which a clip begins, since an object is given anew there."""
        return set().union(*(self._anew(target_id) for target_id in self._first))

    def begin_anew(self, first: int) -> list[TargetId]:
        """Objects of which a clip that begins at `first` knows the target of that frame and nothing else."""
        return [target_id for target_id in self._first if first in self._anew(target_id)]

    def given(self, first: int, end: int) -> list[Target]:
        """What a clip of frames [first, end) is given, at most one target for each object."""
        known = (self._known(target_id, first) for target_id in self._first)
        return [target for target in known if target is not None and first <= target.frame < end]

    def _anew(self, target_id: TargetId) -> dict[int, Target]:
        """Targets that replace what was known of an object, by frame: corrections, and what follows one."""
        target, corrections = self._first[target_id], self._corrections[target_id]
        is_late = any(frame < target.frame for frame in corrections)
        return ({target.frame: target} if is_late else {}) | corrections

    def _known(self, target_id: TargetId, first: int) -> Target | None:
        """What a clip that begins at `first` takes an object from; None where that is given by a later clip."""
        target, anew = self._first[target_id], self._anew(target_id)
        begun = [frame for frame in anew if frame <= first]
        if begun:
            return anew[max(begun)]
        return target if target.frame <= min(anew, default=target.frame) else None


@dataclasses.dataclass(frozen=True)
class Carried:
    """What a clip takes over from the one before.

    Attributes:
      num_frames: frames that the two share.
      masks: by object id, bool [num_frames, H, W], padded pixels; those of objects without a pixel are left out.
    """

    num_frames: int
    masks: dict[TargetId, np.ndarray]

    def without(self, ids: Collection[TargetId]) -> "Carried":
        """The same without some objects."""
        return Carried(self.num_frames, {i: mask for i, mask in self.masks.items() if i not in ids})

    def bookmark(self) -> dict[str, Any]:
        """In types that JSON has; exact."""
        masks = np.array(list(self.masks.values()), bool)
        return {"num_frames": self.num_frames, "ids": list(self.masks), "masks": pack(masks)}

    @classmethod
    def of(cls, bookmark: Mapping[str, Any]) -> "Carried":
        """The inverse of `bookmark`."""
        return cls(bookmark["num_frames"], dict(zip(bookmark["ids"], unpack(bookmark["masks"]), strict=True)))


class ExemplarMemory:
    """Carries objects from clip to clip: the masks of one clip re-initialize the queries of the next (paper 3.3).

    An object whose mask is empty in all frames of the overlap is lost for good, unless it is given in this clip. A
    given mask replaces the predicted one in its frame. A point given in the overlap is used only if the object has
    no predicted mask there.

    Differs from the reference: there, a point in the overlap makes a second object of the same id, and the two
    compete for the pixels.
    """

    def __init__(self, upsample: Callable[[np.ndarray], np.ndarray]):
        """upsample: stride-4 logits [N, T, h, w] -> bool masks [N, T, H, W] (bilinear x4, > 0)."""
        self._upsample = upsample
        self.reset()

    def reset(self) -> None:
        self._ids: list[TargetId] = []
        self._logits: np.ndarray | None = None
        self._end = 0

    def remember(self, first: int, ids: list[TargetId], logits: np.ndarray) -> None:
        """Keeps a clip's logits [N, T, h, w] (stride 4) for the next clip."""
        self._ids, self._logits, self._end = list(ids), logits, first + logits.shape[1]

    def forget(self, target_id: TargetId) -> None:
        """Drops an object: the next clip is not told of it."""
        if target_id in self._ids:
            rows = [row for row, other in enumerate(self._ids) if other != target_id]
            self._ids, self._logits = [self._ids[row] for row in rows], self._logits[rows]

    def carried(self, first: int) -> Carried:
        """What the clip that begins at frame `first` takes over."""
        overlap = max(0, self._end - first) if self._logits is not None else 0
        if not overlap:
            return Carried(0, {})
        masks = self._upsample(self._logits[:, -overlap:])
        return Carried(overlap, {i: mask for i, mask in zip(self._ids, masks, strict=True) if mask.any()})

    def inputs(
        self,
        carried: Carried,
        first: int,
        num_frames: int,
        padded_size: tuple[int, int],
        targets: list[Target],
        prepare_mask: Callable[[np.ndarray], np.ndarray],
        normalize_point: Callable[[tuple[float, float]], np.ndarray],
    ) -> ExemplarInputs | None:
        """Objects of the clip [first, first + num_frames), or None if there is none left.

        Args:
          carried: from the clip before.
          padded_size: (height, width) of the network's input.
          targets: those given in frames of this clip.
          prepare_mask, normalize_point: to the network's input (see clips.Geometry).
        """
        overlap = carried.num_frames
        masks: dict[TargetId, np.ndarray] = {}
        for object_id, mask in carried.masks.items():
            masks[object_id] = np.zeros((num_frames, *padded_size), bool)
            masks[object_id][:overlap] = mask
        valid_frames = np.zeros(num_frames, bool)
        valid_frames[:overlap] = True
        points = []
        for target in targets:
            frame = target.frame - first
            valid_frames[frame] = True
            if target.mask is not None:
                masks.setdefault(target.id, np.zeros((num_frames, *padded_size), bool))
                masks[target.id][frame] = prepare_mask(target.mask)
            elif self._uses_point(target, masks):
                points.append((target.id, frame, normalize_point(target.point_yx)))
        ids = list(masks) + [object_id for object_id, _, _ in points]
        if not ids:
            return None
        num_masks, num_objects = len(masks), len(ids)
        inputs = ExemplarInputs(
            ids=ids,
            masks=np.zeros((num_objects, num_frames, *padded_size), bool),
            points_yx=np.zeros((num_objects, 2), np.float32),
            point_frames=np.zeros(num_objects, np.int32),
            is_point=np.arange(num_objects) >= num_masks,
            valid_frames=valid_frames,
        )
        for row, mask in enumerate(masks.values()):
            inputs.masks[row] = mask
        for row, (_, frame, point) in enumerate(points, start=num_masks):
            inputs.points_yx[row], inputs.point_frames[row] = point, frame
        return inputs

    def _uses_point(self, target: Target, masks: Mapping[TargetId, np.ndarray]) -> bool:
        """Whether a point makes queries, given the masks that objects of the clip have."""
        return target.id not in masks


def silence_before_given(logits: np.ndarray, first: int, ids: list[TargetId], targets: list[Target]) -> np.ndarray:
    """Copy of logits [N, T, h, w] with objects set to BEFORE_FIRST_FRAME in frames before they are given."""
    given = {target.id: target.frame - first for target in targets}
    logits = np.array(logits)
    for row, object_id in enumerate(ids):
        logits[row, : max(0, given.get(object_id, 0))] = BEFORE_FIRST_FRAME
    return logits
