"""VOS and PET: clips to final frames of the objects that the caller gave."""

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.history import History
from tarvis_jax.inference.pixels import Pixels
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory, Predictor
from tarvis_jax.inference.stitch import ExemplarStitcher, Layer
from tarvis_jax.inference.targets import Carried, ExemplarInputs, ExemplarMemory, Targets, silence_before_given
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import FrameObject, FrameResult, TargetId, TrackEnd


@dataclasses.dataclass(frozen=True)
class ObjectClip:
    """What the network says of a clip.

    Attributes:
      given: targets given in its frames.
      carried: what it takes over from the clip before.
      inputs: the objects, or None where there is none left to follow.
      logits: float32 [N, T, h, w], None where there is none.
      frames: features for the clip after.
    """

    given: list[Target]
    carried: Carried
    inputs: ExemplarInputs | None
    logits: np.ndarray | None
    frames: FrameMemory


class ObjectPipeline:
    """Follows given objects; a pipeline of one video, like `class_pipeline.ClassPipeline`."""

    takes_targets = True  # between two frames they may be added to those given at the start, or be forgotten

    def __init__(
        self,
        predictor: Predictor,
        targets: Targets,
        stitcher: ExemplarStitcher | None = None,
        memory: ExemplarMemory | None = None,
    ):
        """Args:
        predictor: the network.
        targets: what is given; looked up at every clip.
        stitcher: joins the logits of the clips; default `ExemplarStitcher`.
        memory: carries the objects from clip to clip; default `ExemplarMemory`.
        """
        self._predictor = predictor
        self._targets = targets
        self._stitcher = stitcher or ExemplarStitcher()
        self._frames = FrameMemory()
        self._known: dict[int, Carried] = {}  # by first frame of the next clips, after `rewind`
        self._extent: tuple[int, int] | None = None  # of the video's geometry
        self._memory = memory or ExemplarMemory(lambda logits: predictor.upsample_masks(logits, self._extent))
        self._pixels = Pixels(predictor.programs, predictor.device)

    def forward(self, clip: Clip, geometry: Geometry) -> ObjectClip:
        """The network on the next clip, once the one before was added; `draw` may run at the same time.

        It may be called again for the same clip, when the targets have changed.
        """
        self._extent = geometry.extent
        given = self._targets.given(clip.first, clip.end)
        carried = self._known.get(clip.first) or self._memory.carried(clip.first)
        carried = carried.without(self._targets.begin_anew(clip.first))
        inputs = self._memory.inputs(
            carried,
            clip.first,
            len(clip.frames),
            geometry.padded,
            given,
            geometry.prepare_mask,
            geometry.normalize_point,
        )
        frames = copy.copy(self._frames)  # where the clip is computed again, it finds the same
        if inputs is None:
            return ObjectClip(given, carried, None, None, frames)
        place = ClipPlace.of(clip, geometry, frames)
        logits = self._predictor.segment_objects(np.stack(clip.frames), inputs, place)
        return ObjectClip(given, carried, inputs, logits, frames)

    def bookmark(self, output: ObjectClip) -> dict[str, Any]:
        """What `rewind` needs to come back to the next clip, in types that JSON has; to be called before `add`."""
        return output.carried.bookmark()

    def add(self, clip: Clip, geometry: Geometry, output: ObjectClip) -> None:
        """Joins the next clip of the video, and what the network said of it, to those before."""
        self._frames = output.frames
        if output.inputs is None:
            self._all_lost()
            return
        for target_id in self._targets.begin_anew(clip.first):
            self._stitcher.forget(target_id)
        logits = silence_before_given(output.logits, clip.first, output.inputs.ids, output.given)
        self._memory.remember(clip.first, output.inputs.ids, logits)
        self._join(clip, output.inputs.ids, logits)

    def rewind(self, history: History, clips: range, removed: Mapping[TargetId, int]) -> None:
        """Makes a new pipeline ready for clips that one had before: the next ones must be `clips` of `history`.

        What the first of them take over is taken from their bookmarks, up to the first that shares frames with the
        last; the others find it in those before them.

        Args:
          history: has their bookmarks.
          clips: numbers in it.
          removed: objects that clips which begin before a frame know, and the caller removed since.
        """
        for clip in clips:
            first = history.first[clip]
            gone = [target_id for target_id, frame in removed.items() if first < frame]
            self._known[first] = Carried.of(history.read(clip)).without(gone)
            if history.end[clip] > history.first[clips[-1]]:
                break

    def draw(self, frames: Iterable[int], geometry: Geometry) -> Iterator[FrameResult]:
        """Results of final frames, in order; each can be taken once."""
        for frame in frames:
            yield _result(frame, self._masks(frame, geometry))

    def preview(self, frame: int, geometry: Geometry) -> FrameResult:
        """The result of a frame that later clips may change."""
        return _result(frame, self._draw(self._stitcher.peek(frame), geometry))

    def drop(self, frames: Iterable[int]) -> None:
        """Forgets final frames that nobody asks for."""
        for frame in frames:
            self._stitcher.pop(frame)

    def start_over(self) -> None:
        """The next clip replaces all clips so far."""
        self._memory.reset()
        self._stitcher.start_over()

    def forget(self, target_id: TargetId) -> None:
        """Drops an object from the frames and clips to come."""
        self._memory.forget(target_id)
        self._stitcher.forget(target_id)
        self._known = {first: carried.without([target_id]) for first, carried in self._known.items()}

    def take_ended(self) -> tuple[TrackEnd, ...]:
        """None: objects have no classes, so there is nothing to say of them in the end."""
        return ()

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
        masks = rle.encode_labels(self._pixels.owners(logits, geometry))
        return {target_id: masks[row] for row, target_id in enumerate(ids, start=1) if row in masks}


def _result(frame: int, masks: Mapping[TargetId, Rle]) -> FrameResult:
    return FrameResult(frame, tuple(FrameObject(target_id, encoded) for target_id, encoded in masks.items()))
