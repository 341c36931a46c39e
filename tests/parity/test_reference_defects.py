"""The reference's handling of overlaps differs from ours where it should."""

import numpy as np

from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.results.target import Target
from tests.inference.color_network import ColorNetwork, stripe, video
from tests.parity.reference_defects import (
    ReferenceInstanceStitcher,
    ReferenceMemory,
    ReferenceObjectStitcher,
    ReferenceSession,
)


def test_instances_keep_the_logits_of_the_earlier_clip():
    stitcher = ReferenceInstanceStitcher()
    for first, level in ((0, 1.0), (2, 3.0)):
        stitcher.add(first, np.full((1, 4, 4, 8), level, np.float32), np.zeros((1, 2), np.float32))
    assert [stitcher.pop(frame)[1].max() for frame in range(6)] == [1, 1, 1, 1, 3, 3]


def test_objects_keep_layers_and_stale_ids():
    stitcher = ReferenceObjectStitcher()
    stitcher.add(0, [7, 9], np.zeros((2, 4, 4, 8), np.float32), is_last=False)
    stitcher.add(2, [9], np.ones((1, 4, 4, 8), np.float32), is_last=False)
    stitcher.add(4, [9, 11], np.ones((2, 4, 4, 8), np.float32), is_last=True)
    layers = {frame: [ids for ids, _ in stitcher.pop(frame)] for frame in range(8)}
    assert layers[0] == [[7, 9]] and layers[2] == [[7, 9], [9]] and layers[4] == [[9]]
    assert layers[6] == [[9]]  # rows of [9, 11] with the ids of the clip before


def test_all_objects_lost():
    stitcher = ReferenceObjectStitcher()
    stitcher.add(0, [7], np.ones((1, 4, 4, 8), np.float32), is_last=False)
    stitcher.all_lost()
    stitcher.add(4, [8], np.ones((1, 4, 4, 8), np.float32), is_last=False)
    assert [stitcher.pop(frame)[0][0] for frame in range(8)] == [[7]] * 4 + [[8]] * 4


def test_a_point_in_the_overlap_is_a_second_object():
    memory = ReferenceMemory(lambda logits: np.repeat(np.repeat(logits > 0, 4, axis=2), 4, axis=3))
    memory.remember(0, [4], np.ones((1, 5, 2, 2), np.float32))
    given = [Target(4, 4, point_yx=(1, 1))]
    inputs = memory.inputs(memory.carried(3), 3, 5, (8, 8), given, None, lambda point: np.float32(point) / 8)
    assert inputs.ids == [4, 4] and inputs.is_point.tolist() == [False, True]


def test_the_last_clip_gives_only_its_new_frames_and_a_single_clip_nothing():
    """An object given in the last clip takes the first row of the clip before, if there is one."""
    config = InferenceConfig(clip_length=4, overlap=2)
    frames = {}
    for num_frames in (4, 6):
        session = ReferenceSession(ColorNetwork(), "DAVIS", config=config)
        session.add_target(0, 1, mask=stripe(8, 16))
        frames[num_frames] = [sorted(frame.masks) for frame in session.run(video(num_frames))]
    assert frames == {4: [[]] * 4, 6: [[1]] * 6}
