"""What a clip's object queries are made from: the targets given in it, and the masks of the clip before."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

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

    def inputs(
        self,
        first: int,
        num_frames: int,
        padded_size: tuple[int, int],
        targets: list[Target],
        prepare_mask: Callable[[np.ndarray], np.ndarray],
        normalize_point: Callable[[tuple[float, float]], np.ndarray],
    ) -> ExemplarInputs | None:
        """Objects of the clip [first, first + num_frames), or None if there is none left.

        Args:
          padded_size: (height, width) of the network's input.
          targets: those given in frames of this clip.
          prepare_mask, normalize_point: to the network's input (see clips.Geometry).
        """
        overlap = max(0, self._end - first) if self._logits is not None else 0
        masks: dict[TargetId, np.ndarray] = {}
        if overlap:
            for object_id, mask in zip(self._ids, self._upsample(self._logits[:, -overlap:]), strict=True):
                if mask.any():
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
