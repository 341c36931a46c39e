"""Objects that are followed frame by frame through values: the numbers of a session."""

import numpy as np
import pytest

from tarvis_jax.masks import rle
from tarvis_jax.serve.tracker import ObjectState, Tracker
from tests import tiny

FRAMES = tiny.noise_video(6)
MASKS = np.zeros((3, *tiny.SIZE), bool)
MASKS[0, 5:25, 5:30] = MASKS[1, 30:45, 20:50] = MASKS[2, 2:12, 40:60] = True
SETTINGS = {"clip_length": 3, "min_dim": None}


@pytest.fixture(scope="module")
def model():
    return tiny.make_model(seed=11)


def follow(tracker, frames, masks):
    """Masks of each object in each frame after the first, bool [frames, N, H, W], and the last states."""
    first = tracker.prepare(frames[0])
    states, found = [tracker.start(first, mask) for mask in masks], []
    for frame in frames[1:]:
        results = tracker.track(tracker.prepare(frame), states)
        states = [state for _, state in results]
        found.append([np.zeros(tiny.SIZE, bool) if mask is None else mask for mask, _ in results])
    return np.array(found), states


def stepped(model, frames, masks):
    """The same by a session that steps."""
    session = model.session("vos", "DAVIS", **SETTINGS, overlap=2)
    for number, mask in enumerate(masks):
        session.add_target(0, number, mask)
    found = np.zeros((len(frames), len(masks), *tiny.SIZE), bool)
    for number, frame in enumerate(frames):
        for each in session.step(frame).objects:
            found[number, each.id] = each.mask
    return found[1:]


def test_numbers_are_those_of_a_session(model):
    expected = stepped(model, FRAMES, MASKS)
    tracker = Tracker(model, "DAVIS", **SETTINGS)
    found, states = follow(tracker, FRAMES, MASKS)
    assert expected[:, 0].any((1, 2)).all() and expected[0, 1].any() and expected[:3, 2].any()  # something to follow
    np.testing.assert_array_equal(found, expected)
    assert [len(state.frames) for state in states] == [2, 2, 2]  # nothing grows with the video


def test_two_videos_in_turn_are_two_videos(model):
    """What the network remembers of the last clip is not taken for that of another video."""
    videos = FRAMES[:5], tiny.noise_video(5, seed=1)
    tracker = Tracker(model, "DAVIS", **SETTINGS)
    expected = [follow(tracker, frames, MASKS)[0] for frames in videos]
    states = [[tracker.start(tracker.prepare(frames[0]), mask) for mask in MASKS] for frames in videos]
    found = np.zeros_like(expected)
    for number in range(4):
        for video, frames in enumerate(videos):
            results = tracker.track(tracker.prepare(frames[number + 1]), states[video])
            states[video] = [state for _, state in results]
            for row, (mask, _) in enumerate(results):
                found[video, number, row] = False if mask is None else mask
    # Features are computed again that were kept there, which may round a pixel differently.
    assert (found != expected).mean() < 0.01
    assert (expected[0] != expected[1]).mean() > 0.02  # which tells the videos apart


def test_objects_given_in_different_frames(model, monkeypatch):
    """One joins later; from the frame on in which both have whole clips, they go through the network together."""
    calls = []

    def segment_objects(images, inputs, place):
        calls.append((len(images), len(inputs.ids), inputs.valid_frames.tolist()))
        return np.ones((len(inputs.ids), len(images), *(side // 4 for side in images.shape[1:3])), np.float32)

    monkeypatch.setattr(model.predictor, "segment_objects", segment_objects)
    tracker = Tracker(model, "DAVIS", **SETTINGS)
    states = [tracker.start(tracker.prepare(FRAMES[0]), MASKS[0])]
    for number in range(1, 6):
        frame = tracker.prepare(FRAMES[number])
        states = [state for _, state in tracker.track(frame, states)]
        if number == 2:
            states.append(tracker.start(frame, MASKS[1]))
    first, second, whole = (2, 1, [True, False]), (3, 1, [True, False, False]), [True, True, False]
    assert calls == [first, second, (3, 1, whole), first, (3, 1, whole), second, (3, 2, whole)]


def test_lost(model):
    tracker = Tracker(model, "DAVIS", **SETTINGS)
    state = tracker.start(tracker.prepare(FRAMES[0]), MASKS[0])
    empty = ObjectState(state.frames, (rle.encode(np.zeros(state.masks[0]["size"], bool)),))
    assert not state.is_lost and empty.is_lost
    assert tracker.track(tracker.prepare(FRAMES[1]), [empty]) == [(None, empty)]


def test_wrong(model):
    tracker = Tracker(model, "DAVIS", **SETTINGS)
    frame = tracker.prepare(FRAMES[0])
    with pytest.raises(ValueError, match=r"mask: expected the size of its image, \(50, 61\), found \(61, 50\)"):
        tracker.start(frame, MASKS[0].T)
    with pytest.raises(ValueError, match="at least one pixel"):
        tracker.start(frame, np.zeros(tiny.SIZE, bool))
    with pytest.raises(ValueError, match="expected 50x61 pixels .* found 30x40"):
        tracker.track(tracker.prepare(np.zeros((30, 40, 3), np.uint8)), [tracker.start(frame, MASKS[0])])
    with pytest.raises(ValueError, match="uint8 RGB"):
        tracker.prepare(np.zeros((30, 40), np.uint8))
    with pytest.raises(ValueError, match="clip_length: expected at least 2"):
        Tracker(model, "DAVIS", clip_length=1, overlap=0)
    with pytest.raises(ValueError, match="dataset: expected one of task vos"):
        Tracker(model, "OVIS")
