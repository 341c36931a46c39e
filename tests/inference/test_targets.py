import numpy as np
import pytest

from tarvis_jax.inference.targets import ExemplarMemory, silence_before_given
from tarvis_jax.results.target import Target


def _upsample(logits):
    return np.repeat(np.repeat(logits > 0, 4, axis=2), 4, axis=3)


def _inputs(memory, first, given, frames=5):
    carried = memory.carried(first)
    return memory.inputs(carried, first, frames, (8, 8), given, lambda mask: mask, lambda point: np.float32(point) / 8)


def _mask(row):
    mask = np.zeros((8, 8), bool)
    mask[row] = True
    return mask


def _logits(*columns, frames=5):
    """One object per column of a 2x2 map; None is an object without a pixel."""
    logits = np.full((len(columns), frames, 2, 2), -1.0, np.float32)
    for row, column in enumerate(columns):
        if column is not None:
            logits[row, :, :, column] = 1.0
    return logits


def test_first_clip_has_what_was_given():
    memory = ExemplarMemory(_upsample)
    inputs = _inputs(memory, 2, [Target(2, 4, _mask(1)), Target(5, 3, point_yx=(4.0, 2.0))])
    assert inputs.ids == [4, 3] and inputs.is_point.tolist() == [False, True]
    assert inputs.masks[0, 0].sum() == 8 and inputs.masks[0, 1:].sum() == 0 and inputs.masks[1].sum() == 0
    assert inputs.point_frames.tolist() == [0, 3]
    np.testing.assert_allclose(inputs.points_yx[1], (0.5, 0.25))
    assert inputs.valid_frames.tolist() == [True, False, False, True, False]


def test_masks_of_the_overlap_start_the_next_clip_and_empty_ones_are_lost():
    memory = ExemplarMemory(_upsample)
    memory.remember(0, [4, 3, 6], _logits(0, None, 1))
    inputs = _inputs(memory, 3, [])
    assert inputs.ids == [4, 6] and inputs.valid_frames.tolist() == [True, True, False, False, False]
    assert inputs.masks[0, :2, :, :4].all() and not inputs.masks[0, :2, :, 4:].any() and not inputs.masks[0, 2:].any()
    memory.remember(3, inputs.ids, _logits(None, None))
    assert _inputs(memory, 6, []) is None  # all lost, for good
    memory.reset()
    assert _inputs(memory, 9, []) is None
    assert _inputs(memory, 9, [Target(10, 1, _mask(0))]).ids == [1]


def test_a_given_mask_replaces_the_predicted_one_in_its_frame():
    memory = ExemplarMemory(_upsample)
    memory.remember(0, [4], _logits(0))
    inputs = _inputs(memory, 3, [Target(4, 4, _mask(7)), Target(7, 5, _mask(2))])
    assert inputs.ids == [4, 5]
    np.testing.assert_array_equal(inputs.masks[0, 1], _mask(7))
    assert inputs.masks[0, 0, :, :4].all()
    assert inputs.valid_frames.tolist() == [True, True, False, False, True]


def test_point_in_the_overlap():
    memory = ExemplarMemory(_upsample)
    memory.remember(0, [4], _logits(0))
    inputs = _inputs(memory, 3, [Target(4, 4, point_yx=(1, 1))])
    assert inputs.ids == [4] and inputs.is_point.tolist() == [False]


def test_point_in_the_overlap_revives_an_object_without_mask():
    memory = ExemplarMemory(_upsample)
    memory.remember(0, [4], _logits(None))
    assert _inputs(memory, 3, [Target(4, 4, point_yx=(1, 1))]).is_point.tolist() == [True]


def test_silence_before_given():
    logits = silence_before_given(_logits(0, 0), 10, [1, 2], [Target(13, 2, _mask(0))])
    assert (logits[0] > -10).all() and (logits[1, :3] == -1e3).all() and (logits[1, 3:] > -10).all()


def test_check_size():
    Target(0, 1, point_yx=(7, 7.9)).check_size((8, 8))
    with pytest.raises(ValueError, match="outside the frame of 8x8"):
        Target(0, 1, point_yx=(8, 0)).check_size((8, 8))
    with pytest.raises(ValueError, match="mask is 8x8, the frames are 8x9"):
        Target(0, 1, _mask(0)).check_size((8, 9))
