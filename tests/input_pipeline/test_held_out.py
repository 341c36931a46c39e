"""Part of the training videos as a split of one's own (`held_out_every`)."""

import zlib

import pytest

from input_pipeline import readers
from input_pipeline.config import dataset_config
from input_pipeline.synthetic import write_synthetic_workspace

OVERRIDES = {"YOUTUBE_VIS": {"num_classes": 4}, "DAVIS": {}}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "workspace"
    return str(write_synthetic_workspace(folder, num_train=12, num_val=1, num_frames=2, height=32, width=32))


@pytest.mark.parametrize("name", OVERRIDES)
def test_training_and_evaluation_share_the_training_videos(root, name):
    whole = dataset_config(name, **OVERRIDES[name])
    config = dataset_config(name, held_out_every=3, **OVERRIDES[name])
    everything = {str(video.id) for video in readers.training_videos(whole, root)}
    training = {str(video.id) for video in readers.training_videos(config, root)}
    evaluated = readers.evaluation_videos(config, "val", root)
    names = {str(video.id) for video in evaluated}
    assert names == {video for video in everything if zlib.crc32(video.encode()) % 3 == 0}
    assert training | names == everything and not training & names and training and names
    truth = readers.ground_truth_videos(config, "val", root)
    assert [video.id for video in truth] == [video.id for video in evaluated]
    assert all(any(frame.values()) for video in truth for frame in video.segmentations[:1])


def test_wrong_settings(root):
    for overrides in ({"held_out_every": 1}, {"held_out_every": 3, "held_out": ("1",)}):
        with pytest.raises(ValueError, match="held_out_every: expected 0, or at least 2 and no held_out"):
            dataset_config("DAVIS", **overrides)
    with pytest.raises(ValueError, match="dataset DAVIS, held_out_every: expected some of its 12 videos, found none"):
        readers.evaluation_videos(dataset_config("DAVIS", held_out_every=997), "val", root)
