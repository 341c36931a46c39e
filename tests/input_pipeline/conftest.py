"""Fixtures of the input pipeline's tests."""

import pytest

from input_pipeline.config import DataConfig, DatasetConfig, dataset_config
from tests.input_pipeline import official_files


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    """A workspace with a small dataset per format; tests must not change it."""
    return official_files.workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def own_workspace(tmp_path):
    """The same, for tests that damage it."""
    return official_files.workspace(tmp_path)


def small(name: str, **overrides) -> DatasetConfig:
    """A dataset of the table at the sizes of the test files."""
    values = {"min_dims": (48, 64), "buckets": ((64, 96), (64, 128)), "max_instances": 4, "frame_sampling_factor": 2.0}
    if name == "YOUTUBE_VIS":
        values["num_classes"] = 3
    return dataset_config(name, **{**values, **overrides})


@pytest.fixture(scope="session")
def make_dataset():
    return small


@pytest.fixture(scope="session")
def make_config(workspace):
    """A mixture of four datasets over three tasks."""

    def make(**overrides) -> DataConfig:
        values = {
            "datasets": tuple(small(name, weight=1.0) for name in ("YOUTUBE_VIS", "KITTI_STEP", "DAVIS", "BURST")),
            "workspace": str(workspace),
            "batch_size": 4,
            "chunk_steps": 2,
            "num_parallel": 0,
        }
        return DataConfig(**{**values, **overrides})

    return make
