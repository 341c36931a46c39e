"""`VideoRecord`: everything the files say about one video, checked, with pixels still encoded."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from input_pipeline import frame_limits, images
from tarvis_jax.masks import rle

MAX_ID = 2**31 - 1  # of an instance: maps of ids are int32


@dataclasses.dataclass(frozen=True, eq=False)
class VideoRecord:
    """One video and its annotations.

    Attributes:
      dataset: its name (`tarvis_jax.datasets`).
      id: the official id: a number (YouTube-VIS, OVIS) or a name.
      source: the file the annotations came from; named in errors.
      frame_paths: absolute paths of the T frames, in order.
      height, width: of every frame, in pixels.
      instances: instance id (>= 1) -> class (1..K; 0 in datasets without classes).
      segmentations: one dict per frame: instance id -> RLE, or None where its pixels are in `panoptic_maps`. An
        instance that is absent, or has no pixel, has no entry.
      annotated_frames: indices of the frames that were annotated; in the others the absence of an instance tells
        nothing.
      semantics: one dict per frame: class (0..K-1, 255 = ignore) -> RLE; None where the dataset has none.
      panoptic_maps: one PNG per frame, from which classes and instances are read (KITTI-STEP ground truth, VIPSeg);
        else None.
      read_panoptic: reads one of them: (path, height, width) -> classes uint8 [H, W], instances int32 [H, W].
      points: one dict per frame: instance id -> (y, x), in pixels (BURST's first-frame points); else None.
      crowd: ids of instances that mark groups.
      boxes: one dict per frame: instance id -> (top, left, bottom, right), the last two exclusive, of its pixels; None:
        they follow from the masks.
    Raises:
      ValueError: no frame, lengths that disagree, ids or classes out of range.
    """

    dataset: str
    id: int | str
    source: str
    frame_paths: tuple[pathlib.Path, ...]
    height: int
    width: int
    instances: dict[int, int]
    segmentations: tuple[dict[int, rle.Rle | None], ...]
    annotated_frames: tuple[int, ...]
    semantics: tuple[dict[int, rle.Rle], ...] | None = None
    panoptic_maps: tuple[pathlib.Path, ...] | None = None
    read_panoptic: Callable[[pathlib.Path, int, int], tuple[np.ndarray, np.ndarray]] = images.read_step_map
    points: tuple[dict[int, tuple[float, float]], ...] | None = None
    crowd: frozenset[int] = frozenset()
    boxes: tuple[dict[int, tuple[int, int, int, int]], ...] | None = None

    def __post_init__(self):
        if not self.frame_paths:
            raise ValueError(f"{self.where}: the video has no frames")
        frame_limits.check_size(self.height, self.width, self.where)
        for name in ("segmentations", "semantics", "panoptic_maps", "points", "boxes"):
            per_frame = getattr(self, name)
            if per_frame is not None and len(per_frame) != self.num_frames:
                raise ValueError(f"{self.where}: {len(per_frame)} {name} for {self.num_frames} frames")
        for t, segments in enumerate(self.segmentations):
            unknown = sorted(set(segments) - set(self.instances))
            if unknown:
                raise ValueError(
                    f"{self.where}, frame {t}: instance ids {unknown} have a mask but no class; "
                    f"known are {sorted(self.instances)}"
                )
        for instance, label in self.instances.items():
            if not 1 <= instance <= MAX_ID or label < 0:
                raise ValueError(
                    f"{self.where}: instance id {instance} should be in 1..{MAX_ID} and its class {label} >= 0"
                )

    @property
    def where(self) -> str:
        return f"{self.source}, dataset {self.dataset}, video {self.id!r}"

    @property
    def num_frames(self) -> int:
        return len(self.frame_paths)

    @property
    def frame_names(self) -> tuple[str, ...]:
        """File names without folder and suffix ("00005")."""
        return tuple(path.stem for path in self.frame_paths)

    def annotated_only(self) -> "VideoRecord":
        """The video as if it had the annotated frames alone: in the others, the absence of a mask tells nothing."""
        per_frame = {
            name: tuple(getattr(self, name)[t] for t in self.annotated_frames)
            for name in ("frame_paths", "segmentations", "semantics", "panoptic_maps", "points", "boxes")
            if getattr(self, name) is not None
        }
        return dataclasses.replace(self, annotated_frames=tuple(range(len(self.annotated_frames))), **per_frame)

    def load_frame(self, frame: int) -> np.ndarray:
        """uint8 RGB [H, W, 3]."""
        return images.read_frame(self.frame_paths[frame], self.height, self.width)

    def visible_ids(self, frame: int) -> tuple[int, ...]:
        """Instances with at least one pixel in the frame, ascending (`panoptic_maps` must be decoded to know them)."""
        return tuple(sorted(self.segmentations[frame]))

    def first_frames(self) -> dict[int, int]:
        """Instance id -> the first frame in which it has pixels."""
        first: dict[int, int] = {}
        for t, segments in enumerate(self.segmentations):
            for instance in segments:
                first.setdefault(instance, t)
        return first

    def frame_masks(self, frame: int, instances: Sequence[int]) -> np.ndarray:
        """bool [N, H, W]; all false where an instance is absent; a ValueError for ids the video does not have."""
        unknown = sorted(set(instances) - set(self.instances))
        if unknown:
            raise ValueError(f"{self.where}: no instances {unknown}; known are {sorted(self.instances)}")
        masks = np.zeros((len(instances), self.height, self.width), bool)
        segments = self.segmentations[frame]
        present = [(n, instance) for n, instance in enumerate(instances) if instance in segments]
        in_map = self.panoptic_map(frame)[1] if any(segments[i] is None for _, i in present) else None
        for n, instance in present:
            masks[n] = in_map == instance if segments[instance] is None else rle.decode(segments[instance])
        return masks

    def instance_mask(self, frame: int, instance: int) -> np.ndarray:
        """bool [H, W]; see `frame_masks`."""
        return self.frame_masks(frame, (instance,))[0]

    def id_map(self, frame: int) -> np.ndarray:
        """int32 [H, W]: instance ids, 0 = background; where masks overlap the higher id is on top."""
        if self.panoptic_maps is not None:
            return self.panoptic_map(frame)[1]
        result = np.zeros((self.height, self.width), np.int32)
        for instance in self.visible_ids(frame):
            result[rle.decode(self.segmentations[frame][instance])] = instance
        return result

    def semantic_map(self, frame: int) -> np.ndarray:
        """uint8 [H, W]: class 0..K-1; 255 where ignored or not labeled.

        Differs from the reference: there a pixel that no class covers becomes class 0; here it is ignored.
        """
        if self.panoptic_maps is not None:
            return self.panoptic_map(frame)[0]
        if self.semantics is None:
            raise ValueError(f"{self.where}: has no semantic annotation")
        result = np.full((self.width, self.height), images.VOID, np.uint8)  # by columns
        for label in sorted(self.semantics[frame]):
            rle.paint(result.reshape(-1), self.semantics[frame][label], label)
        return result.T

    def panoptic_map(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes uint8 [H, W] (0..K-1, 255 = void) and instance ids int32 [H, W] (0 = none)."""
        if self.panoptic_maps is not None:
            return self.read_panoptic(self.panoptic_maps[frame], self.height, self.width)
        return self.semantic_map(frame), self.id_map(frame)
