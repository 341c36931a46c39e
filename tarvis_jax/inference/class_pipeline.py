"""VIS and VPS: clips to final frames of tracks with classes, and the stuff between them."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tarvis_jax import datasets
from tarvis_jax.inference import stitch
from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.history import History
from tarvis_jax.inference.pixels import Pixels
from tarvis_jax.inference.predictor import ClassClip, ClipPlace, FrameMemory, Predictor
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.class_scores import best_class
from tarvis_jax.results.tracks import FrameObject, FrameResult, TargetId, TrackEnd


class ClassPipeline:
    """Finds the objects of a dataset's classes; a pipeline of one video, like `object_pipeline.ObjectPipeline`."""

    takes_targets = False

    def __init__(
        self,
        predictor: Predictor,
        dataset: str,
        spec: datasets.DatasetSpec,
        config: InferenceConfig,
        class_names: Sequence[str] = (),
        instances: stitch.InstanceStitcher | None = None,
    ):
        """Args:
          predictor: the network.
          dataset: whose semantic queries to use.
          spec: its task and classes.
          config: thresholds.
          class_names: of classes 1..K; () leaves their names None.
          instances: stitches the tracks of the clips; default `InstanceStitcher(config.association_iou)`.

        Raises:
          ValueError: a panoptic dataset without thing classes or without stuff classes.
        """
        self._predictor = predictor
        self._dataset = dataset
        self._spec = spec
        self._config = config
        self._class_names = class_names
        self._frames = FrameMemory()
        self._ids: list[int] = []  # of the tracks of the last clip
        self._known: deque[dict[str, Any]] = deque()  # bookmarks of the next clips, after `rewind`
        self._pixels = Pixels(predictor.programs, predictor.device)
        self._instances = instances or stitch.InstanceStitcher(config.association_iou)
        self._semantic = stitch.SemanticStitcher() if spec.task == datasets.PANOPTIC else None
        self._stuff_classes = np.setdiff1d(np.arange(spec.num_classes), spec.thing_classes).astype(np.uint16)
        if self._semantic is not None and not 0 < len(self._stuff_classes) < spec.num_classes:
            raise ValueError(
                f"{dataset}: panoptic inference needs thing and stuff classes, found {len(self._stuff_classes)} stuff "
                f"classes of {spec.num_classes}; give a DatasetSpec with thing_classes"
            )

    def forward(self, clip: Clip, geometry: Geometry) -> ClassClip:
        """The network on the next clip; depends on nothing that `add` does, so that it may run ahead in a thread."""
        place = ClipPlace.of(clip, geometry, self._frames)
        return self._predictor.segment_classes(np.stack(clip.frames), self._dataset, place)

    def forward_together(self, clips: Sequence[Clip], geometry: Geometry) -> list[ClassClip]:
        """`forward` of successive whole clips, all at once."""
        first = clips[0]
        frames = list(first.frames[: first.overlap])
        for clip in clips:
            frames += clip.frames[first.overlap :]
        place = ClipPlace.of(first, geometry, self._frames)
        return self._predictor.segment_clips(np.stack(frames), self._dataset, place)

    def has_room(self, clips: Sequence[Clip], geometry: Geometry) -> bool:
        """Whether the device has memory for these clips at once."""
        place = ClipPlace.of(clips[0], geometry, self._frames)
        return self._predictor.has_room(len(clips), geometry.padded, self._dataset, place)

    def bookmark(self, output: ClassClip) -> dict[str, Any]:
        """What `rewind` needs to come back to the next clip, in types that JSON has; to be called before `add`."""
        return self._known.popleft() if self._known else {"ids": self._ids, "tracks": self._instances.bookmark()}

    def add(self, clip: Clip, geometry: Geometry, output: ClassClip) -> None:
        """Joins the next clip of the video, and what the network said of it, to those before."""
        config = self._config
        chosen = stitch.select_tracks(output.class_logits, config.max_tracks, config.score_threshold)
        mask_logits, class_logits = self._predictor.take_masks(output, chosen), output.class_logits[chosen]
        kept = stitch.drop_duplicates(mask_logits, class_logits, config.duplicate_iou)
        self._ids = self._instances.add(clip.first, mask_logits[kept], class_logits[kept])
        if self._semantic is not None:
            self._semantic.add(clip.first, len(clip.frames), output.semantic_logits)

    def rewind(self, history: History, clips: range, removed: Mapping[TargetId, int]) -> None:
        """Makes a new pipeline ready for clips that one had before: the next ones must be `clips` of `history`.

        The clips before the last are there for their masks: the numbers of their tracks are known.

        Args:
          history: has their bookmarks.
          clips: numbers in it.
          removed: nothing, since the caller gives no objects.
        """
        bookmarks = [history.read(clip) for clip in clips]
        self._known.extend(bookmarks[:-1])
        self._instances.rewind([each["ids"] for each in bookmarks[1:]], bookmarks[-1]["tracks"])

    def draw(self, frames: Iterable[int], geometry: Geometry) -> Iterator[FrameResult]:
        """Results of final frames, in order; each can be taken once."""
        return self._draw(((frame, self._instances.pop(frame)) for frame in frames), geometry, final=True)

    def preview(self, frame: int, geometry: Geometry) -> FrameResult:
        """The result of a frame that later clips may change."""
        (result,) = self._draw([(frame, self._instances.peek(frame))], geometry, final=False)
        return result

    def drop(self, frames: Iterable[int]) -> None:
        """Forgets final frames that nobody asks for."""
        for frame in frames:
            self._instances.pop(frame)
            if self._semantic is not None:
                self._semantic.pop(frame)

    def start_over(self) -> None:
        """The next clip replaces all clips so far; tracks keep their ids."""
        self._instances.start_over()
        if self._semantic is not None:
            self._semantic.start_over()

    def take_ended(self) -> tuple[TrackEnd, ...]:
        """Tracks that have ended since the last call."""
        ended = self._instances.take_ended()
        return tuple(TrackEnd(i, tuple(map(float, logits)), *best_class(logits)) for i, logits in ended.items())

    def _draw(
        self, frames: Iterable[tuple[int, stitch.Layer]], geometry: Geometry, final: bool
    ) -> Iterator[FrameResult]:
        best = {track_id: best_class(logits) for track_id, logits in self._instances.class_logits().items()}
        numbers: deque[int] = deque()

        def layers() -> Iterator[stitch.Layer]:
            for frame, layer in frames:
                numbers.append(frame)
                yield layer

        for masks in self._pixels.encode_masks(layers(), geometry):
            frame = numbers.popleft()
            objects = (self._object(i, encoded, *best[i]) for i, encoded in masks.items())
            yield FrameResult(frame, tuple(objects), self._stuff_map(frame, geometry, final))

    def _stuff_map(self, frame: int, geometry: Geometry, final: bool) -> np.ndarray | None:
        """Only stuff: thing classes are drawn by the tracks."""
        if self._semantic is None:
            return None
        parts = self._semantic.pop(frame) if final else self._semantic.peek(frame)
        most = -(-self._config.clip_length // (self._config.clip_length - self._config.overlap))
        return self._stuff_classes[self._pixels.classes(parts, most, self._stuff_classes, geometry)]

    def _object(self, track_id: int, encoded: Rle, class_id: int, score: float) -> FrameObject:
        name = self._class_names[class_id - 1] if self._class_names else None
        is_thing = self._semantic is None or class_id - 1 in self._spec.thing_classes
        return FrameObject(track_id, encoded, class_id, name, score, is_thing)
