"""Sizes of the frames that the datasets are known for, to plan a training on a machine that has none of their files."""

import collections
import dataclasses

from input_pipeline.buckets import Size, clip_size, find_buckets
from input_pipeline.config import DataConfig, DatasetConfig

# Height and width of the frames that most videos of a dataset have, by its paper or its site. A dataset also has videos
# of other sizes, portrait ones among them; what their clips are padded to has about the same area.
FRAME_SIZES: dict[str, tuple[Size, ...]] = {
    "YOUTUBE_VIS": ((720, 1280), (1280, 720), (1080, 1920)),
    "OVIS": ((1080, 1920), (720, 1280)),
    "KITTI_STEP": ((375, 1242), (370, 1224)),
    "CITYSCAPES_VPS": ((1024, 2048),),
    "VIPSEG": ((720, 1280), (720, 960)),
    "BURST": ((720, 1280), (1080, 1920), (480, 640)),
    "DAVIS": ((480, 854), (480, 910)),
}


def with_nominal_buckets(config: DataConfig) -> DataConfig:
    """`config` with buckets for the datasets that leave them open, as `with_buckets` finds them from videos.

    Raises:
      ValueError: a dataset with weight has no buckets and no sizes in `FRAME_SIZES`.
    """
    return dataclasses.replace(config, datasets=tuple(_with_buckets(each, config) for each in config.datasets))


def _with_buckets(dataset: DatasetConfig, config: DataConfig) -> DatasetConfig:
    if dataset.buckets or not dataset.weight:
        return dataset
    if dataset.name not in FRAME_SIZES:
        raise ValueError(
            f"dataset {dataset.name}: neither its videos nor their usual size are known here; give its sizes as buckets"
        )
    has_crop = dataset.crop != (1.0, 1.0)
    crops = {has_crop} | (
        {False} if dataset.task == "exemplar" else set()
    )  # a clip whose objects it would cut is whole
    sizes: collections.Counter[Size] = collections.Counter()
    for size in FRAME_SIZES[dataset.name]:
        for min_dim in dataset.min_dims or (None,):
            for cropped in crops:
                sizes[clip_size(size, dataset, min_dim, cropped)] += 1
    return dataclasses.replace(dataset, buckets=find_buckets(sizes, config.size_divisor, dataset.max_padding))
