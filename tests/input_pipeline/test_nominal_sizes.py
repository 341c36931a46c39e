"""Usual sizes of frames give a size of clips for every dataset of the configs."""

import dataclasses

import pytest

from configs import finetune
from input_pipeline.config import DataConfig, dataset_config
from input_pipeline.nominal_sizes import with_nominal_buckets


def test_buckets_of_all_datasets():
    config = DataConfig(datasets=tuple(dataset_config(name) for name in finetune.DATASETS))
    found = {each.name: each.buckets for each in with_nominal_buckets(config).datasets}
    assert set(found) == set(finetune.DATASETS)
    for buckets in found.values():
        assert buckets and all(side % config.size_divisor == 0 for bucket in buckets for side in bucket)
    # 1024x2048 is cropped to 768x1536 and resized to a smaller side of 448.
    assert found["CITYSCAPES_VPS"] == ((448, 896),)
    # Whole clips of 480x854 are resized to 512x911, cropped ones are three quarters of this: 384x683.
    assert (384, 704) in found["DAVIS"] and max(found["DAVIS"])[0] == 512


def test_unknown_dataset():
    dataset = dataclasses.replace(dataset_config("DAVIS"), name="MINE")
    with pytest.raises(ValueError, match="dataset MINE: neither its videos nor their usual size are known"):
        with_nominal_buckets(DataConfig(datasets=(dataset,)))
    given = DataConfig(datasets=(dataclasses.replace(dataset, buckets=((64, 64),)),))
    assert with_nominal_buckets(given) == given
