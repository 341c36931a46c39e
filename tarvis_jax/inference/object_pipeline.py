"""VOS and PET: clips to final frames of the objects that the caller gave."""

from collections.abc import Iterator, Mapping

import numpy as np

from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory, Predictor
from tarvis_jax.inference.stitch import ExemplarStitcher, Layer
from tarvis_jax.inference.targets import ExemplarMemory, silence_before_given
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import FrameObject, FrameResult, TargetId


class ObjectPipeline:
    """Follows given objects; a pipeline of one video, like `class_pipeline.ClassPipeline`."""

    def __init__(
        self,
        predictor: Predictor,
        targets: Mapping[TargetId, Target],
        stitcher: ExemplarStitcher | None = None,
        memory: ExemplarMemory | None = None,
    ):
        """Args:
        predictor: the network.
        targets: what is given, by id; looked up at every clip.
        stitcher: joins the logits of the clips; default `ExemplarStitcher`.
        memory: carries the objects from clip to clip; default `ExemplarMemory`.
        """
        self._predictor = predictor
        self._targets = targets
        self._stitcher = stitcher or ExemplarStitcher()
        self._frames = FrameMemory()
        self._extent: tuple[int, int] | None = None  # of the video's geometry
        self._memory = memory or ExemplarMemory(lambda logits: predictor.upsample_masks(logits, self._extent))

    def segment(self, clip: Clip, geometry: Geometry) -> Iterator[FrameResult]:
        """Runs the network on the next clip of the video and yields the frames that are final with it.

        Between two frames targets may be added to those given at the start, or be forgotten.
        """
        self._extent = geometry.extent
        self._add(clip, geometry)
        for frame in clip.final:
            masks = self._masks(frame, geometry)
            yield FrameResult(frame, tuple(FrameObject(target_id, encoded) for target_id, encoded in masks.items()))

    def forget(self, target_id: TargetId) -> None:
        """Drops an object from the frames and clips to come."""
        self._memory.forget(target_id)
        self._stitcher.forget(target_id)

    def class_logits(self) -> dict[int, np.ndarray]:
        """None: objects have no classes."""
        return {}

    def _add(self, clip: Clip, geometry: Geometry) -> None:
        given = [target for target in self._targets.values() if clip.first <= target.frame < clip.end]
        inputs = self._memory.inputs(
            clip.first, len(clip.frames), geometry.padded, given, geometry.prepare_mask, geometry.normalize_point
        )
        if inputs is None:
            self._all_lost()
            return
        place = ClipPlace.of(clip, geometry, self._frames)
        logits = self._predictor.segment_objects(np.stack(clip.frames), inputs, place)
        logits = silence_before_given(logits, clip.first, inputs.ids, given)
        self._memory.remember(clip.first, inputs.ids, logits)
        self._join(clip, inputs.ids, logits)

    def _all_lost(self) -> None:
        """A clip has no object left to follow; a later clip may begin with new ones."""
        self._memory.reset()

    def _join(self, clip: Clip, ids: list[TargetId], logits: np.ndarray) -> None:
        self._stitcher.add(clip.first, ids, logits)

    def _masks(self, frame: int, geometry: Geometry) -> dict[TargetId, Rle]:
        """Target id -> RLE of a final frame, for those with a pixel."""
        return self._draw(self._stitcher.pop(frame), geometry)

    def _draw(self, layer: Layer, geometry: Geometry) -> dict[TargetId, Rle]:
        """Every pixel goes to the object with the greatest logit, if above 0."""
        ids, logits = layer
        if not len(logits):
            return {}
        owner = self._predictor.pixel_objects(logits, geometry)
        masks = ((target_id, owner == row) for row, target_id in enumerate(ids, start=1))
        return {target_id: rle.encode(mask) for target_id, mask in masks if mask.any()}
