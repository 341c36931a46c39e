"""The few sizes that clips are padded to, found from the sizes that the clips of a dataset take.

Shapes are static and every padded size costs a compiled program, so clips of similar sizes share a padded size. All
sizes follow from the records and the config; no pixel is read.
"""

import collections
from collections.abc import Iterable

import numpy as np

from input_pipeline import augment
from input_pipeline.config import DatasetConfig
from tarvis_jax.frame_size import resized_size

Size = tuple[int, int]  # height, width


def clip_size(size: Size, config: DatasetConfig, min_dim: int | None, cropped: bool) -> Size:
    """Height and width of a clip before padding.

    Args:
      size: height and width of the video's frames.
      config: of the dataset; exemplar clips are resized and then cropped, all others are cropped and then resized.
      min_dim: length of the smaller side after resizing, in pixels; None: no resizing.
      cropped: whether the clip is a crop.
    """
    if config.task == "exemplar":
        size = resized_size(size, min_dim, config.max_dim)
        return augment.crop_size(size, config.crop) if cropped else size
    return resized_size(augment.crop_size(size, config.crop) if cropped else size, min_dim, config.max_dim)


def smallest_bucket(size: Size, buckets: Iterable[Size]) -> Size:
    """The bucket of least area that holds `size`; if none does, the one that has it shrunk the least."""
    fitting = [bucket for bucket in buckets if size[0] <= bucket[0] and size[1] <= bucket[1]]
    if fitting:
        return min(fitting, key=lambda bucket: bucket[0] * bucket[1])
    return max(buckets, key=lambda bucket: min(bucket[0] / size[0], bucket[1] / size[1]))


def find_buckets(sizes: dict[Size, float], multiple: int, max_padding: float) -> tuple[Size, ...]:
    """As few buckets as possible for clips of these sizes.

    Every size is rounded up, and then the two buckets whose union costs the least are merged for as long as the mean
    share of the picture in its bucket stays within `max_padding` of what rounding alone gives. No bucket becomes larger
    than the largest of the beginning, so that merging never costs memory.

    Args:
      sizes: height and width of clips before padding -> how often they come (any positive scale).
      multiple: sides of buckets are multiples of this.
      max_padding: share of a clip's pixels that merging may add as padding, on average.
    Returns:
      (height, width) of each bucket, by area.
    """
    total = sum(sizes.values())
    pixels: collections.Counter[Size] = collections.Counter()  # expected pixels of picture per bucket
    for (height, width), weight in sizes.items():
        bucket = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
        pixels[bucket] += weight / total * height * width
    buckets = np.array(sorted(pixels), np.int64)
    picture = np.array([pixels[tuple(bucket)] for bucket in buckets.tolist()])
    largest, spent = buckets.prod(1).max(), 0.0
    while len(buckets) > 1:
        filled = picture / buckets.prod(1)
        union = np.maximum(buckets[:, None], buckets[None])
        area = union.prod(-1)
        loss = filled[:, None] + filled[None] - (picture[:, None] + picture[None]) / area
        loss[(area > largest) | np.tri(len(buckets), dtype=bool)] = np.inf
        first, second = np.unravel_index(loss.argmin(), loss.shape)
        if spent + loss[first, second] > max_padding:
            break
        spent += loss[first, second]
        buckets[first], picture[first] = union[first, second], picture[first] + picture[second]
        buckets, picture = np.delete(buckets, second, 0), np.delete(picture, second)
    return tuple(sorted(map(tuple, buckets.tolist()), key=lambda bucket: (bucket[0] * bucket[1], bucket)))
