"""VIS and VPS: clips to final frames of tracks with classes, and the stuff between them."""

from collections.abc import Iterator, Sequence

import numpy as np

from tarvis_jax import datasets
from tarvis_jax.inference import stitch
from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory, Predictor
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.class_scores import best_class
from tarvis_jax.results.tracks import FrameObject, FrameResult


class ClassPipeline:
    """Finds the objects of a dataset's classes; a pipeline of one video, like `object_pipeline.ObjectPipeline`."""

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
        self._instances = instances or stitch.InstanceStitcher(config.association_iou)
        self._semantic = stitch.SemanticStitcher() if spec.task == datasets.PANOPTIC else None
        self._stuff_classes = np.setdiff1d(np.arange(spec.num_classes), spec.thing_classes)
        if self._semantic is not None and not 0 < len(self._stuff_classes) < spec.num_classes:
            raise ValueError(
                f"{dataset}: panoptic inference needs thing and stuff classes, found {len(self._stuff_classes)} stuff "
                f"classes of {spec.num_classes}; give a DatasetSpec with thing_classes"
            )

    def segment(self, clip: Clip, geometry: Geometry) -> Iterator[FrameResult]:
        """Runs the network on the next clip of the video and yields the frames that are final with it."""
        self._add(clip, geometry)
        best = {track_id: best_class(logits) for track_id, logits in self.class_logits().items()}
        for frame in clip.final:
            ids, logits = self._instances.pop(frame)
            masks = zip(ids, self._predictor.pixel_masks(logits, geometry), strict=True)
            objects = [self._object(i, rle.encode(mask), *best[i]) for i, mask in masks if mask.any()]
            yield FrameResult(frame, tuple(objects), self._stuff_map(frame, geometry))

    def class_logits(self) -> dict[int, np.ndarray]:
        """Track id -> mean class logits [1 + K] over the clips so far."""
        return self._instances.class_logits()

    def _add(self, clip: Clip, geometry: Geometry) -> None:
        config, predictor = self._config, self._predictor
        place = ClipPlace.of(clip, geometry, self._frames)
        output = predictor.segment_classes(np.stack(clip.frames), self._dataset, place)
        chosen = stitch.select_tracks(output.class_logits, config.max_tracks, config.score_threshold)
        mask_logits, class_logits = predictor.take_masks(output, chosen), output.class_logits[chosen]
        kept = stitch.drop_duplicates(mask_logits, class_logits, config.duplicate_iou)
        self._instances.add(clip.first, mask_logits[kept], class_logits[kept])
        if self._semantic is not None:
            # Only stuff: thing classes are drawn by the tracks.
            self._semantic.add(clip.first, predictor.semantic_logits(output)[self._stuff_classes])

    def _stuff_map(self, frame: int, geometry: Geometry) -> np.ndarray | None:
        if self._semantic is None:
            return None
        indices = self._predictor.pixel_classes(self._semantic.pop(frame), geometry)
        return self._stuff_classes[indices].astype(np.uint16)

    def _object(self, track_id: int, encoded: Rle, class_id: int, score: float) -> FrameObject:
        name = self._class_names[class_id - 1] if self._class_names else None
        is_thing = self._semantic is None or class_id - 1 in self._spec.thing_classes
        return FrameObject(track_id, encoded, class_id, name, score, is_thing)
