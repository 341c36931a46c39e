"""Which frames and which targets a training clip has."""

import dataclasses
import functools
import types
from collections.abc import Mapping

import numpy as np

from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle


@dataclasses.dataclass(frozen=True)
class ClipChoice:
    """Frames (indices into the video, T of them) and instance ids of a clip; `reference` is an index into `frames`."""

    frames: tuple[int, ...]
    instances: tuple[int, ...]
    reference: int


def choose_clip(
    video: VideoRecord, clip_length: int, frame_sampling_factor: float, consecutive: bool, rng: np.random.Generator
) -> ClipChoice:
    """A clip for instance or panoptic training: a frame with objects, and others close to it, in order.

    The other frames lie at most `round(frame_sampling_factor * clip_length)` away, on either side; with `consecutive`
    all frames follow each other (and may show no object). All instances of these frames are targets. A video with too
    few frames repeats some of them.

    Differs from the reference: there a video shorter than the clip is an error.
    """
    total = video.num_frames
    if consecutive and total >= clip_length:
        start = int(rng.integers(total - clip_length + 1))
        frames = list(range(start, start + clip_length))
        reference = 0
    else:
        with_objects = [t for t in range(total) if video.segmentations[t]]
        if not with_objects:
            raise ValueError(f"{video.where}: no frame has an object")
        center = int(rng.choice(with_objects))
        reach = round(frame_sampling_factor * clip_length)
        others = [t for t in range(max(0, center - reach), min(total, center + reach + 1)) if t != center]
        chosen = _draw(others or [center], clip_length - 1, rng)
        frames = sorted([center, *chosen])
        reference = frames.index(center)
    instances = sorted({instance for t in frames for instance in video.segmentations[t]})
    return ClipChoice(tuple(frames), tuple(instances), reference)


def choose_objects(video: VideoRecord, reference_frame: int, num_objects: int, rng: np.random.Generator) -> list[int]:
    """Ids of `num_objects` random ones of the objects in a frame, ascending; a ValueError if it has fewer."""
    visible = video.visible_ids(reference_frame)
    if len(visible) < num_objects:
        raise ValueError(
            f"{video.where}: frame {reference_frame} has {len(visible)} objects, {num_objects} were asked for"
        )
    return sorted(rng.choice(visible, num_objects, replace=False).tolist())


def choose_exemplar_clip(
    video: VideoRecord,
    reference_frame: int,
    instances: list[int],
    clip_length: int,
    frame_sampling_factor: float,
    rng: np.random.Generator,
) -> ClipChoice:
    """A clip for exemplar training: the reference frame first, then later frames in order.

    The other frames lie less than `round(frame_sampling_factor * clip_length)` after the reference frame; the targets
    are `instances`, ids of objects in it.
    """
    reach = round(frame_sampling_factor * clip_length)
    later = list(range(reference_frame + 1, min(video.num_frames, reference_frame + reach)))
    if len(later) < clip_length - 1:
        raise ValueError(
            f"{video.where}: {len(later)} frames after frame {reference_frame}, clips need {clip_length - 1}"
        )
    return ClipChoice((reference_frame, *sorted(_draw(later, clip_length - 1, rng))), tuple(instances), 0)


def exemplar_references(video: VideoRecord, clip_length: int) -> list[tuple[int, int]]:
    """(frame, number of objects in it) for all frames that can be the first of an exemplar clip.

    Differs from the reference: the last such frame, which it leaves out, counts too.
    """
    last = video.num_frames - clip_length
    return [(t, len(video.segmentations[t])) for t in range(last + 1) if video.segmentations[t]]


@functools.lru_cache(maxsize=2**15)  # objects that are pixels of a map take a whole PNG, and frames come again
def object_boxes(video: VideoRecord, frame: int) -> Mapping[int, np.ndarray]:
    """Instance id -> int [4] (top, left, bottom, right; the last two exclusive) of every object in a frame."""
    if video.boxes is not None:
        known = {instance: np.asarray(box, np.int64) for instance, box in video.boxes[frame].items()}
        return types.MappingProxyType(known)
    segments = video.segmentations[frame]
    boxes = {instance: rle.box(segment) for instance, segment in segments.items() if segment is not None}
    in_map = [instance for instance in segments if instance not in boxes]
    for instance, mask in zip(in_map, video.frame_masks(frame, in_map) if in_map else (), strict=True):
        boxes[instance] = rle.box(rle.encode(mask))
    return types.MappingProxyType(boxes)


def is_inside(boxes: np.ndarray, window: tuple[int, int]) -> np.ndarray:
    """Whether the box around all of some objects is smaller than a window, so that a crop can keep them.

    Args:
      boxes: int [..., N, 4] of (top, left, bottom, right).
      window: its height and width.
    Returns:
      bool [...].
    """
    return (boxes[..., 2:].max(-2) - boxes[..., :2].min(-2) < window).all(-1)


def share_inside(
    boxes: list[np.ndarray], num_objects: int, window: tuple[int, int], draws: int, rng: np.random.Generator
) -> float:
    """How often `num_objects` random objects of a random frame are inside a window, estimated from `draws` per frame.

    Args:
      boxes: for each frame int [N, 4], N >= num_objects; see `is_inside`.
    """
    counts = np.array([len(frame) for frame in boxes])
    padded = np.zeros((len(boxes), counts.max(), 4), np.int64)
    for row, frame in zip(padded, boxes, strict=True):
        row[: len(frame)] = frame
    frames = np.repeat(np.arange(len(boxes)), draws)
    keys = rng.random((len(frames), counts.max())) + (np.arange(counts.max()) >= counts[frames, None])
    chosen = np.argsort(keys, 1)[:, :num_objects]
    return float(is_inside(padded[frames[:, None], chosen], window).mean())


def _draw(frames: list[int], count: int, rng: np.random.Generator) -> list[int]:
    return rng.choice(frames, count, replace=len(frames) < count).tolist()
