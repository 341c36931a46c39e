"""A clip and its targets at the static shapes of the batch contract, and in its small form (docs/architecture.md).

The targets of a clip, N masks, leave the loader as numbers of 8 bits: an *id map*, which holds the slot of each pixel's
target plus 1, or, where masks overlap, *bit planes*, of which plane p holds the masks of the slots 8 p to 8 p + 7, one
bit each. `tarvis_jax/train/transfer.py` makes masks of them on the device.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline import images as image_files
from input_pipeline.augment import Clip
from input_pipeline.id_layers import IdLayers

PAD_VALUE = 128  # of images; no padding mask reaches the network
_MOST_IDS = 255  # of an id map, which has 8 bits


def num_planes(num_slots: int) -> int:
    """How many bit planes hold the masks of so many slots."""
    return -(-num_slots // 8)


def may_be_id_map(num_slots: int) -> bool:
    """Whether so many slots are ever packed as an id map; see `pack_masks`."""
    return 8 < num_slots <= _MOST_IDS


def padded_targets(
    clip: Clip, classes: np.ndarray, bucket: tuple[int, int], max_instances: int, num_classes: int, where: str
) -> dict[str, np.ndarray]:
    """Pads a clip on the bottom and right to the bucket's size, its instances to `max_instances` slots.

    Instances without a pixel must have been removed. Of more than `max_instances` the ones with the most pixels stay.

    Differs from the reference: it has no limit of instances, as its shapes are not static.

    Args:
      clip: images [T, h, w, 3], masks of N targets, semantic [T, h, w] or None; h, w at most the
        bucket's.
      classes: int [N], 1..K (0 in exemplar datasets).
      bucket: height H and width W of the result.
      num_classes: K, 0 in exemplar datasets.
      where: dataset and video, for errors.
    Returns:
      `images` uint8 [T, H, W, 3], `id_map` uint8 [T, H, W] or `bit_planes` uint8 [P, T, H, W] (see `pack_masks`),
      `classes` int32 [N'], `valid_instances` bool [N'], and with a class map `class_map` uint8 [T, H, W] (0..K-1, 255
      where ignored and in the padding).
    Raises:
      ValueError: a class out of range, or a clip larger than the bucket.
    """
    frames, height, width = clip.images.shape[:3]
    if height > bucket[0] or width > bucket[1]:
        raise ValueError(f"{where}: clip of {height} x {width} pixels does not fit its bucket {bucket}")
    low = 1 if num_classes else 0
    if classes.size and not (low <= classes.min() and classes.max() <= num_classes):
        raise ValueError(f"{where}: classes {sorted(set(classes.tolist()))} are not all in {low}..{num_classes}")

    layers = clip.masks
    count = min(len(classes), max_instances)
    if count < len(classes):
        keep = np.sort(np.argsort(-layers.areas().sum(1), kind="stable")[:count])
        layers, classes = layers.select(keep), classes[keep]
    result = {
        "images": np.full((frames, *bucket, 3), PAD_VALUE, np.uint8),
        "classes": np.zeros(max_instances, np.int32),
        "valid_instances": np.arange(max_instances) < count,
    }
    result["images"][:, :height, :width] = clip.images
    result["classes"][:count] = classes
    for key, packed in pack_masks(layers, max_instances).items():
        result[key] = np.zeros((*packed.shape[:-2], *bucket), np.uint8)
        result[key][..., :height, :width] = packed
    if clip.semantic is not None:
        ignored = clip.semantic == image_files.VOID
        if clip.semantic[~ignored].size and clip.semantic[~ignored].max() >= num_classes:
            raise ValueError(f"{where}: class map holds {clip.semantic[~ignored].max()}, expected 0..{num_classes - 1}")
        result["class_map"] = np.full((frames, *bucket), image_files.VOID, np.uint8)
        result["class_map"][:, :height, :width] = clip.semantic
    return result


def pack_masks(layers: IdLayers, num_slots: int) -> dict[str, np.ndarray]:
    """The small form of masks: target n is in slot n of `num_slots`.

    Returns:
      `{"id_map": uint8 [T, H, W]}` (slot + 1, 0 where no target is), or `{"bit_planes": uint8 [P, T, H, W]}` where
      targets overlap, where one plane holds all slots (it is as small as an id map), and where an id has more than 8
      bits.
    """
    if len(layers.maps) == 1 and may_be_id_map(num_slots):
        return {"id_map": layers.maps[0]}
    planes = bit_planes(layers.maps[0], num_slots)
    for layer in layers.maps[1:]:
        planes |= bit_planes(layer, num_slots)
    return {"bit_planes": planes}


def unpack_masks(arrays: dict[str, np.ndarray], num_slots: int) -> np.ndarray:
    """bool [*batch, N, T, H, W]: the masks of `id_map` [*batch, T, H, W] or `bit_planes` [*batch, P, T, H, W]."""
    if "id_map" in arrays:
        slots = np.arange(1, num_slots + 1)[:, None, None, None]
        return arrays["id_map"][..., None, :, :, :] == slots
    planes = [arrays["bit_planes"][..., n // 8, :, :, :] >> (n % 8) & 1 for n in range(num_slots)]
    return np.stack(planes, -4).astype(bool)


def bit_planes(id_map: np.ndarray, num_slots: int) -> np.ndarray:
    """The bit planes uint8 [P, T, H, W] of an id map uint8 or uint16 [T, H, W]."""
    tables = np.zeros((num_planes(num_slots), np.iinfo(id_map.dtype).max + 1), np.uint8)
    slots = np.arange(min(num_slots, tables.shape[1] - 1))
    tables[slots // 8, slots + 1] = 1 << (slots % 8)
    if id_map.dtype != np.uint8:
        return np.stack([table[id_map] for table in tables])
    flat = np.ascontiguousarray(id_map).reshape(-1, id_map.shape[-1])
    return np.stack([cv2.LUT(flat, table) for table in tables]).reshape(-1, *id_map.shape)


def stack_samples(samples: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """A batch of samples: arrays [B, ...]. All masks are bit planes where those of one sample are."""
    if len({"id_map" in sample for sample in samples}) == 2:
        samples = [_with_planes(sample) for sample in samples]
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}


def _with_planes(sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "id_map" not in sample:
        return sample
    rest = {key: value for key, value in sample.items() if key != "id_map"}
    return rest | {"bit_planes": bit_planes(sample["id_map"], len(sample["classes"]))}
