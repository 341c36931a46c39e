"""One video of each task goes through a tiny model: frames of their real size, the dataset's own clips."""

import pytest

from input_pipeline import readers
from input_pipeline.config import dataset_config
from tarvis_jax.evaluation.segment import frames_of, targets_of
from tarvis_jax.inference.config import default_inference
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.model.config import ModelConfig
from tests import tiny
from tests.rehearsal.recipes import NETWORK


@pytest.fixture(scope="module")
def predictor():
    model = ModelConfig(**{**NETWORK, "num_instance_queries": 4})
    return Predictor(model, tiny.variables(model))


# The shortest video that has more than one clip, or objects that come later.
@pytest.mark.parametrize(
    ("name", "video"),
    [("YOUTUBE_VIS", 2), ("KITTI_STEP", "0002"), ("DAVIS", "bmx-trees"), ("BURST", "AVA/val_CMCPhm2L400_scene")],
)
def test_a_video_of_each_task(name, video, workspace, predictor):
    config = dataset_config(name)
    (record,) = (each for each in readers.evaluation_videos(config, "val", workspace) if each.id == video)
    session = Session(predictor, name, config.spec, default_inference(name))
    targets = targets_of(record, config.spec)
    for target in targets:
        session.add_target(target.frame, target.id, target.mask, target.point_yx)
    frames = list(session.run(frames_of(record)))
    result = session.result()
    assert len(frames) == record.num_frames
    if config.task == "exemplar":
        assert {track.id for track in result.tracks} <= {target.id for target in targets} and targets
    if config.task == "panoptic":
        assert all(frame.semantic.shape == (record.height, record.width) for frame in frames)
