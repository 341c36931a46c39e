"""Clips made of one image: every frame is a view of it that is turned, scaled, resized and cropped (the paper's
pretraining on augmented images).

Colors change and the image is mirrored before, for all views alike. The pixels that a view has beyond the image are
black, of no class and of no object.
"""

import dataclasses

import cv2
import numpy as np
from PIL import Image

from input_pipeline import augment, images
from input_pipeline.augment import Clip
from input_pipeline.config import DatasetConfig
from input_pipeline.id_layers import IdLayers
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR, PANOPTIC
from tarvis_jax.frame_size import resized_size


@dataclasses.dataclass(frozen=True)
class ImageTargets:
    """A clip of one image.

    Attributes:
      clip: images, masks of N targets of which none is empty, and class maps of panoptic clips; h and w are at most the
        bucket's (less for very wide or high images).
      classes: int32 [N], 1..K; 0 in exemplar clips.
      instances: ids of the N targets in the record.
      reference: the frame in which all targets of an exemplar clip are seen; 0 in others.
    """

    clip: Clip
    classes: np.ndarray
    instances: tuple[int, ...]
    reference: int


def make_clip(
    video: VideoRecord,
    image: np.ndarray,
    config: DatasetConfig,
    task: str,
    clip_length: int,
    rng: np.random.Generator,
) -> ImageTargets | None:
    """A random clip for a task, or None where its views show no instance.

    An exemplar clip has at most `config.num_slots(task)` objects, random ones of those in its reference frame, which is
    any frame that shows one; they come in random order. Others have all instances that a view shows, or the largest
    `config.num_slots(task)` of them.

    Args:
      video: the record of the image.
      image: its pixels, uint8 [H, W, 3].
    """
    classes, instances = video.panoptic_map(0)
    if config.image_min_dim is not None:
        size = resized_size(image.shape[:2], config.image_min_dim, config.max_dim)
        # Pillow's filter is as wide as the shrinking needs; OpenCV's would skip pixels.
        image = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        classes = cv2.resize(classes, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        instances = cv2.resize(instances, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    slots, ids, class_of_slot = _number(instances, classes)
    image = augment.jitter_colors(
        image[None],
        rng,
        hue_saturation=config.hue_saturation,
        contrast=config.contrast,
        brightness=config.brightness,
    )[0]
    # One map of both ids; 0 means none, also beyond the image.
    maps = np.stack([slots, (classes + np.uint8(1)).astype(np.uint16)], -1)
    if rng.random() < config.flip_probability:
        image, maps = image[:, ::-1], maps[:, ::-1]
    image, maps = np.ascontiguousarray(image), np.ascontiguousarray(maps)
    corner = rng.random(2)
    views = []
    for _ in range(clip_length):
        views.append(_view(image, maps, config, corner, rng))
        corner = corner if config.same_view_crop else rng.random(2)
    frames = np.stack([view for view, _ in views])
    slots = np.stack([ids[..., 0] for _, ids in views])
    semantic = np.stack([ids[..., 1] for _, ids in views]).astype(np.uint8) - np.uint8(1) if task == PANOPTIC else None

    is_seen = np.zeros((clip_length, len(class_of_slot)), bool)  # column 0: no instance
    for t in range(clip_length):
        is_seen[t, slots[t]] = True
    is_seen[:, 0] = False
    if not is_seen.any():
        return None
    reference, most = 0, config.num_slots(task)
    if task == EXEMPLAR:
        reference = int(rng.choice(np.flatnonzero(is_seen.any(1))))
        chosen = rng.permutation(np.flatnonzero(is_seen[reference]))[:most]
    else:
        chosen = np.flatnonzero(is_seen.any(0))
        if len(chosen) > most:
            areas = np.bincount(slots.ravel(), minlength=len(class_of_slot))[chosen]
            chosen = chosen[np.sort(np.argsort(-areas, kind="stable")[:most])]
    labels = np.zeros(len(chosen), np.int32) if task == EXEMPLAR else class_of_slot[chosen]
    clip = Clip(frames, IdLayers.of_id_maps(slots, chosen.tolist()), semantic)
    return ImageTargets(clip, labels, tuple(ids[chosen - 1].tolist()), reference)


def _view(
    image: np.ndarray, maps: np.ndarray, config: DatasetConfig, corner: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One view of the image and its maps; `corner` is where it is cropped, as a share of what is left over.

    Differs from the reference: it interpolates twice, when it turns the image and when it resizes the result.
    """
    whole = image.shape[:2]
    angle = sum(rng.uniform(-largest, largest) for largest in config.view_rotations)
    matrix = cv2.getRotationMatrix2D(((whole[1] - 1) / 2, (whole[0] - 1) / 2), angle, rng.uniform(*config.view_scale))
    size = resized_size(whole, int(rng.choice(config.min_dims)), config.max_dim)
    height, width = (min(*sides) for sides in zip(size, config.buckets[0], strict=True))
    for row, axis in ((0, 1), (1, 0)):  # x, y
        factor = size[axis] / whole[axis]
        start = int(corner[axis] * (size[axis] - (height, width)[axis]))
        matrix[row] *= factor
        matrix[row, 2] += (factor - 1) / 2 - start  # centers of pixels are at whole numbers
    return tuple(
        cv2.warpAffine(array, matrix, (width, height), flags=interpolation)
        for array, interpolation in ((image, cv2.INTER_LINEAR), (maps, cv2.INTER_NEAREST))
    )


def _number(instances: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Instances numbered 1, 2, ... N: map uint16 [H, W] (0 none), ids int [N], and classes 1..K int32 [1 + N]."""
    is_used = np.zeros(images.MAX_SEGMENT_ID + 1, bool)
    is_used[instances] = True
    is_used[0] = False
    ids = np.flatnonzero(is_used)
    if len(ids) > np.iinfo(np.uint16).max:
        raise ValueError(f"panoptic map: expected at most {np.iinfo(np.uint16).max} instances, found {len(ids)}")
    number = np.zeros(images.MAX_SEGMENT_ID + 1, np.uint16)
    number[ids] = np.arange(1, len(ids) + 1)
    slots = number[instances]
    class_of_slot = np.zeros(len(ids) + 1, np.int32)
    class_of_slot[slots] = classes.astype(np.int32) + 1
    return slots, ids, class_of_slot
