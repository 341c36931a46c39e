"""A clip and its targets at the static shapes of the batch contract (docs/architecture.md)."""

import numpy as np

from input_pipeline import images as image_files
from input_pipeline.augment import Clip

PAD_VALUE = 128  # of images; no padding mask reaches the network


def padded_targets(
    clip: Clip, classes: np.ndarray, bucket: tuple[int, int], max_instances: int, num_classes: int, where: str
) -> dict[str, np.ndarray]:
    """Pads a clip on the bottom and right to the bucket's size, its instances to `max_instances` slots.

    Instances without a pixel must have been removed. Of more than `max_instances` the ones with the most pixels stay.

    Differs from the reference: it has no limit of instances, as its shapes are not static.

    Args:
      clip: images [T, h, w, 3], masks [N, T, h, w], semantic [T, h, w] or None; h, w at most the bucket's.
      classes: int [N], 1..K (0 in exemplar datasets).
      bucket: height H and width W of the result.
      num_classes: K, 0 in exemplar datasets.
      where: dataset and video, for errors.
    Returns:
      `images` uint8 [T, H, W, 3], `masks` bool [N', T, H, W], `classes` int32 [N'], `valid_instances` bool [N'], and
      with a class map `semantic_map` int32 [T, H, W] (0 where ignored), `ignore_mask` bool [T, H, W] (true in the
      padding).
    Raises:
      ValueError: a class out of range, or a clip larger than the bucket.
    """
    frames, height, width = clip.images.shape[:3]
    if height > bucket[0] or width > bucket[1]:
        raise ValueError(f"{where}: clip of {height} x {width} pixels does not fit its bucket {bucket}")
    low = 1 if num_classes else 0
    if classes.size and not (low <= classes.min() and classes.max() <= num_classes):
        raise ValueError(f"{where}: classes {sorted(set(classes.tolist()))} are not all in {low}..{num_classes}")

    keep = np.arange(len(classes))
    if len(keep) > max_instances:
        areas = clip.masks.sum((1, 2, 3))
        keep = np.sort(np.argsort(-areas, kind="stable")[:max_instances])
    count = len(keep)
    result = {
        "images": np.full((frames, *bucket, 3), PAD_VALUE, np.uint8),
        "masks": np.zeros((max_instances, frames, *bucket), bool),
        "classes": np.zeros(max_instances, np.int32),
        "valid_instances": np.arange(max_instances) < count,
    }
    result["images"][:, :height, :width] = clip.images
    result["masks"][:count, :, :height, :width] = clip.masks[keep]
    result["classes"][:count] = classes[keep]
    if clip.semantic is not None:
        ignored = clip.semantic == image_files.VOID
        if clip.semantic[~ignored].size and clip.semantic[~ignored].max() >= num_classes:
            raise ValueError(f"{where}: class map holds {clip.semantic[~ignored].max()}, expected 0..{num_classes - 1}")
        result["semantic_map"] = np.zeros((frames, *bucket), np.int32)
        result["semantic_map"][:, :height, :width] = np.where(ignored, 0, clip.semantic)
        result["ignore_mask"] = np.ones((frames, *bucket), bool)
        result["ignore_mask"][:, :height, :width] = ignored
    return result
