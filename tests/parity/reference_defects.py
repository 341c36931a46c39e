"""What the reference does in overlapping frames, defects included, to compare with its results.

There, the mean over the clips that cover a frame is written to a copy and lost for instances and objects:

- Of an instance, the earlier clip's logits stay.
- Of an object, the later clip's mask replaces the earlier one unless it is empty. The last clip gives only its new
  frames, and its rows carry the ids of the clip before, which the reference forgets to update: a video of a single clip
  has no output.
- A point given in the overlap makes a second object of the same id, and the two compete for the pixels.
"""

from collections.abc import Mapping

import numpy as np

from tarvis_jax import datasets
from tarvis_jax.inference.class_pipeline import ClassPipeline
from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.object_pipeline import ObjectPipeline
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.stitch import InstanceStitcher, Layer, Means
from tarvis_jax.inference.targets import ExemplarMemory
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import TargetId


class ReferenceSession(Session):
    """A session whose clips are joined as the reference joins them."""

    def make_pipeline(self, predictor, targets):
        if self.spec.task == datasets.EXEMPLAR:
            return ReferenceObjectPipeline(predictor, targets)
        instances = ReferenceInstanceStitcher(self.config.association_iou)
        return ClassPipeline(predictor, self.dataset, self.spec, self.config, self.class_names, instances)


class FirstStays(Means):
    """Not the mean of what several clips say of a frame: what the first of them says."""

    def add(self, key, value):
        if key not in self:
            super().add(key, value)


class ReferenceInstanceStitcher(InstanceStitcher):
    new_frame = FirstStays


class ReferenceObjectStitcher:
    """Each clip is a layer of its own; ids and rows of a layer may differ in number."""

    def __init__(self) -> None:
        self._layers: dict[int, list[Layer]] = {}  # frame -> layers, the earliest clip's first
        self._previous_ids: list[TargetId] = []
        self._previous_end = 0

    def add(self, first: int, ids: list[TargetId], logits: np.ndarray, is_last: bool) -> None:
        """logits: float32 [N, T, h, w] at stride 4 of the objects `ids`; frames [first, first + T)."""
        end = first + logits.shape[1]
        row_ids = self._previous_ids if is_last else ids
        for frame in range(max(first, self._previous_end) if is_last else first, end):
            self._layers.setdefault(frame, []).append((list(row_ids), logits[:, frame - first]))
        self._previous_ids, self._previous_end = list(ids), end

    def all_lost(self) -> None:
        """Tells that a clip had no object left to follow; a later clip may begin with new ones."""
        self._previous_ids, self._previous_end = [], 0

    def pop(self, frame: int) -> list[Layer]:
        """Layers (ids, logits [N, h, w]) of a final frame; the frame is forgotten."""
        return self._layers.pop(frame, [])


class ReferenceMemory(ExemplarMemory):
    def _uses_point(self, target: Target, masks: Mapping[TargetId, np.ndarray]) -> bool:
        return True


class ReferenceObjectPipeline(ObjectPipeline):
    def __init__(self, predictor, targets):
        super().__init__(predictor, targets, ReferenceObjectStitcher(), ReferenceMemory(predictor.upsample_masks))

    def _join(self, clip: Clip, ids: list[TargetId], logits: np.ndarray) -> None:
        self._stitcher.add(clip.first, ids, logits, clip.is_last)

    def _all_lost(self) -> None:
        super()._all_lost()
        self._stitcher.all_lost()

    def _masks(self, frame: int, geometry: Geometry) -> dict[TargetId, Rle]:
        masks: dict[TargetId, Rle] = {}
        for layer in self._stitcher.pop(frame):
            masks.update(self._draw(layer, geometry))
        return masks
