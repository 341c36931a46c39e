"""Sessions with a stand-in for the network."""

import dataclasses
import gc
import threading
import tracemalloc

import cv2
import numpy as np
import pytest

from tarvis_jax import datasets
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.session import Session
from tarvis_jax.masks import rle
from tests.inference.color_network import ColorNetwork, stripe, video


def _exemplar(config=None):
    return Session(ColorNetwork(), "DAVIS", config=config or InferenceConfig(clip_length=4, overlap=2))


def test_instance_tracks_and_scores():
    config = InferenceConfig(clip_length=4, overlap=2, max_tracks=3, score_threshold=0.5)
    session = Session(ColorNetwork(), "YT", datasets.DatasetSpec(datasets.INSTANCE, 3), config)
    frames = list(session.run(video(9)))
    assert [f.frame for f in frames] == list(range(9))
    assert all(len(f.masks) == 2 and f.semantic is None for f in frames)
    result = session.result()
    by_class = {track.class_id: track for track in result.tracks}
    assert sorted(by_class) == [1, 3] and all(track.score > 0.99 for track in result.tracks)
    for class_id, mask in ((1, stripe(8, 16)), (3, stripe(40, 56))):
        assert all(np.array_equal(rle.decode(each), mask) for each in by_class[class_id].segmentations)


def test_clips_that_go_at_once():
    """The same results as one at a time; sources that are read only once go one at a time."""

    def run(clip_batch, source):
        config = InferenceConfig(clip_length=4, overlap=2, max_tracks=3)
        spec = datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(1,))
        session = Session(ColorNetwork(), "KS", spec, config, clip_batch=clip_batch)
        frames = list(session.run(source))
        assert [frame.frame for frame in frames] == list(range(13))
        return session.result(), session._predictor.batches

    frames = list(video(13, first=3, last=8))
    expected, batches = run(1, frames)
    assert batches == []
    for clip_batch, source, sizes in ((4, frames, [4]), (2, frames, [2, 2]), (4, iter(frames), []), (0, frames, [])):
        found, batches = run(clip_batch, source)
        assert batches == sizes
        assert found.tracks == expected.tracks and found.semantic == expected.semantic
    with pytest.raises(ValueError, match="clip_batch: expected 1 or more, or 0 for as many as fit, found -1"):
        run(-1, frames)


def test_panoptic_semantic_is_stuff_only():
    spec = datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(1,))
    session = Session(ColorNetwork(), "KS", spec, InferenceConfig(clip_length=4, overlap=1, max_tracks=3))
    frames = list(session.run(video(6)))
    assert set(np.unique(frames[0].semantic)) == {0, 2}  # class 1 is a thing, though its logits are the greatest
    np.testing.assert_array_equal(frames[5].semantic == 0, ~(stripe(8, 16) | stripe(40, 56)))
    np.testing.assert_array_equal(session.result().semantic_map(5), frames[5].semantic)


@pytest.mark.parametrize("config", [(4, 2), (4, 3), (4, 0), (20, 5)])
def test_objects_keep_ids_and_begin_where_they_are_given(config):
    """Overlaps below and above half a clip, none, and a video shorter than a clip."""
    session = _exemplar(InferenceConfig(clip_length=config[0], overlap=config[1]))
    session.add_target(2, 7, mask=stripe(8, 16))
    session.add_target(5, 3, point_yx=(10, 45))
    frames = list(session.run(video(11)))
    if config[1] == 0:  # without overlap nothing carries an object over
        assert [sorted(f.masks) for f in frames] == [[], [], [7], [7], [7], [3, 7]] + [[]] * 5
        return
    assert [sorted(f.masks) for f in frames] == [[]] * 2 + [[7]] * 3 + [[3, 7]] * 6
    result = session.result()
    assert [track.id for track in result.tracks] == [3, 7] and result.num_frames == 11
    np.testing.assert_array_equal(rle.decode(result.tracks[0].segmentations[10]), stripe(40, 56))
    np.testing.assert_array_equal(rle.decode(result.tracks[1].segmentations[10]), stripe(8, 16))


def test_an_object_that_vanishes_is_lost_for_good():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.add_target(0, 2, mask=stripe(40, 56))

    def frames():  # the second object is away in frames 2..5 and comes back in frame 6
        yield from video(2)
        yield from video(4, last=0)
        yield from video(6)

    results = list(session.run(frames()))
    assert [sorted(f.masks) for f in results] == [[1, 2]] * 2 + [[1]] * 10


def test_all_lost_then_a_new_object():
    session = _exemplar()
    session.add_target(0, 2, mask=stripe(40, 56))
    session.add_target(9, 5, mask=stripe(8, 16))
    frames = list(session.run(video(12, last=2)))
    assert [sorted(f.masks) for f in frames] == [[2]] * 2 + [[]] * 7 + [[5]] * 3


def test_frames_are_given_out_as_soon_as_they_are_final():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    read = 0

    def frames():
        nonlocal read
        for frame in video(40):
            read += 1
            yield frame

    lead = [read - result.frame for result in session.run(frames())]
    assert max(lead) <= 4 + 1  # one clip and the frame that shows it is not the last


def test_bad_targets():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    for match, arguments in (
        ("given twice", dict(frame_index=1, id=1, mask=stripe(0, 4))),
        ("is empty", dict(frame_index=0, id=2, mask=stripe(0, 0))),
        ("either a mask or a point, found neither", dict(frame_index=0, id=2)),
        ("found both", dict(frame_index=0, id=2, mask=stripe(0, 4), point_yx=(0, 0))),
        ("expected an id that is", dict(frame_index=0, id=1.5, point_yx=(0, 0))),
        ("expected an id that is", dict(frame_index=0, id=True, point_yx=(0, 0))),
        ("frame_index is -1", dict(frame_index=-1, id=2, point_yx=(0, 0))),
        (r"expected a mask \[H, W\]", dict(frame_index=0, id=2, mask=np.ones((2, 3, 4)))),
    ):
        with pytest.raises(ValueError, match=match):
            session.add_target(**arguments)
    with pytest.raises(ValueError, match="not finished"):
        session.result()
    list(session.run(video(3)))
    with pytest.raises(ValueError, match="already ran"):
        list(session.run(video(3)))


@pytest.mark.parametrize(
    "match, target",
    [
        ("mask is 5x5, the frames are 64x64", dict(frame_index=0, id=1, mask=np.ones((5, 5)))),
        ("outside the frame of 64x64", dict(frame_index=0, id=1, point_yx=(3, 64))),
        ("given in frame 8, but frames has 3", dict(frame_index=8, id=1, point_yx=(0, 0))),
    ],
)
def test_targets_that_do_not_fit_the_video(match, target):
    session = _exemplar()
    session.add_target(**target)
    with pytest.raises(ValueError, match=match):
        list(session.run(list(video(3))))


def test_a_task_that_sessions_do_not_know(monkeypatch):
    monkeypatch.setitem(datasets.TASKS, "semantic", ())
    with pytest.raises(ValueError, match="ZOO: sessions do not know its task 'semantic'"):
        Session(ColorNetwork(), "ZOO", datasets.DatasetSpec("semantic", 3), InferenceConfig())


def test_bad_sessions():
    with pytest.raises(ValueError, match="expected one of.*found 'NOPE'"):
        Session(ColorNetwork(), "NOPE")
    with pytest.raises(ValueError, match="needs thing and stuff classes"):
        Session(ColorNetwork(), "KS", datasets.DatasetSpec(datasets.PANOPTIC, 3), InferenceConfig())
    with pytest.raises(ValueError, match="no target was given"):
        list(_exemplar().run(video(3)))
    with pytest.raises(ValueError, match="takes no targets"):
        Session(ColorNetwork(), "YOUTUBE_VIS").add_target(0, 1, point_yx=(0, 0))
    with pytest.raises(ValueError, match=r"overlap: expected 0\.\.3"):
        InferenceConfig(clip_length=4, overlap=4)


@pytest.mark.parametrize("dataset", [name for name, row in datasets.DATASETS.items() if row.reader])
def test_defaults_make_a_session(dataset):
    session = Session(ColorNetwork(), dataset)
    assert session.spec == datasets.DATASETS[dataset].spec
    assert session.config.overlap * 2 == session.config.clip_length


def _run_with(session, num_frames, actions):
    """Runs a video and calls actions[frame] after that frame's result; returns the ids of every frame."""
    seen = []
    for result in session.run(video(num_frames)):
        seen.append(sorted(result.masks, key=str))
        if result.frame in actions:
            actions[result.frame]()
    return seen


def test_ids_are_the_callers():
    session = _exemplar()
    for id, target in (("cat", stripe(8, 16)), (0, stripe(40, 48)), (np.int64(-3), stripe(20, 24))):
        session.add_target(0, id, mask=target)
    frames = list(session.run(video(5)))
    assert {each.id for each in frames[0].objects} >= {"cat", 0}
    assert {(each.class_id, each.class_name, each.score) for each in frames[0].objects} == {(None, None, 1.0)}
    assert [track.id for track in session.result().tracks] == [-3, 0, "cat"]
    np.testing.assert_array_equal(next(each.mask for each in frames[4].objects if each.id == "cat"), stripe(8, 16))
    assert type(session.result().tracks[0].id) is int


def test_a_target_added_during_the_run():
    """Clips of 4 with overlap 2: after the result of frame 2, frames 0..3 are final and 4.. are open."""
    session = _exemplar()
    session.add_target(0, "a", mask=stripe(8, 16))
    assert session.earliest_target_frame == 0

    def add():
        assert session.earliest_target_frame == 4
        for frame in (0, 2, 3):
            with pytest.raises(ValueError, match=f"frame {frame} is segmented already; .* from frame 4 on"):
                session.add_target(frame, "b", mask=stripe(40, 56))
        with pytest.raises(ValueError, match="mask is 5x5, the frames are 64x64"):
            session.add_target(5, "b", mask=np.ones((5, 5)))
        with pytest.raises(ValueError, match="outside the frame"):
            session.add_target(5, "b", point_yx=(0, 64))
        session.add_target(5, "b", mask=stripe(40, 56))

    assert _run_with(session, 10, {2: add}) == [["a"]] * 5 + [["a", "b"]] * 5
    with pytest.raises(ValueError, match="add_target: the run is over"):
        session.add_target(9, "c", mask=stripe(0, 4))


def test_a_target_beyond_the_end_of_a_video_of_known_length():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    frames = session.run(list(video(6)))
    next(frames)
    with pytest.raises(ValueError, match="given in frame 6, but frames has 6"):
        session.add_target(6, 2, mask=stripe(40, 56))


def test_a_target_removed_during_the_run():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.add_target(0, 2, mask=stripe(40, 56))
    session.add_target(0, 3, mask=stripe(20, 30))
    session.remove_target(3)

    def remove():
        session.remove_target(2)
        with pytest.raises(ValueError, match="target 2: there is no such target; given are: 1"):
            session.remove_target(2)

    assert _run_with(session, 10, {4: remove}) == [[1, 2]] * 5 + [[1]] * 5
    tracks = {track.id: track for track in session.result().tracks}
    assert sorted(tracks) == [1, 2] and [bool(rle) for rle in tracks[2].segmentations] == [True] * 5 + [False] * 5


def test_an_id_is_given_again_after_removal():
    """As when a track went astray: removed after frame 4, given anew in frame 7."""
    session = _exemplar()
    session.add_target(0, "x", mask=stripe(8, 16))

    def correct():
        session.remove_target("x")
        session.add_target(7, "x", mask=stripe(40, 56))

    assert _run_with(session, 10, {4: correct}) == [["x"]] * 5 + [[]] * 2 + [["x"]] * 3
    (track,) = session.result().tracks
    np.testing.assert_array_equal(rle.decode(track.segmentations[4]), stripe(8, 16))
    np.testing.assert_array_equal(rle.decode(track.segmentations[9]), stripe(40, 56))


def test_all_targets_removed():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    assert _run_with(session, 8, {1: lambda: session.remove_target(1)}) == [[1]] * 2 + [[]] * 6


def test_a_run_that_is_stopped():
    network = ColorNetwork()
    session = Session(network, "DAVIS", config=InferenceConfig(clip_length=4, overlap=2))
    session.add_target(0, 1, mask=stripe(8, 16))
    frames = session.run(video(20))
    next(frames)
    frames.close()
    assert len(network.clips) == 1  # nothing was segmented that nobody asked for
    for call in (
        lambda: session.result(),
        lambda: list(session.run(video(3))),
        lambda: session.remove_target(1),
        lambda: session.add_target(9, 2, point_yx=(0, 0)),
    ):
        with pytest.raises(ValueError, match="not finished|already ran|the run is over"):
            call()
    again = Session(network, "DAVIS", config=InferenceConfig(clip_length=4, overlap=2))
    again.add_target(0, 1, mask=stripe(8, 16))
    assert len(list(again.run(video(3)))) == 3


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (64, 65)])
@pytest.mark.parametrize("num_frames", [1, 2])
def test_short_videos_of_odd_sizes(size, num_frames):
    session = _exemplar()
    session.add_target(0, 1, mask=np.ones(size, bool))
    frames = list(session.run(np.zeros((num_frames, *size, 3), np.uint8)))
    assert [result.frame for result in frames] == list(range(num_frames))
    assert all(each.mask.shape == size for result in frames for each in result.objects)


@pytest.mark.parametrize(
    "frames, message",
    [
        ([], "no frames"),
        (iter([]), "no frame could be read"),
        (np.zeros((2, 64, 64, 3), np.float32), "frame 0: expected a uint8 RGB frame .* found float32"),
        (np.zeros((2, 64, 64), np.uint8), r"frame 0: expected a uint8 RGB frame .* found uint8 \(64, 64\)"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 66, 3), np.uint8)], "frame 1 is 64x66, frame 0 is 64x64"),
    ],
)
def test_bad_frames(frames, message):
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    with pytest.raises(ValueError, match=message):
        list(session.run(frames))


def test_bad_points():
    session = _exemplar()
    with pytest.raises(ValueError, match=r"expected a point \(y, x\), found \(1.0, 2.0, 3.0\)"):
        session.add_target(0, 1, point_yx=(1, 2, 3))
    session.add_target(0, 1, point_yx=(float("nan"), 2))
    with pytest.raises(ValueError, match="outside the frame"):
        list(session.run(video(2)))


def test_memory_does_not_grow_with_the_stream():
    """Python's and NumPy's memory after 100 frames and after every 130 more; keeping what is handed out takes 47 kB."""
    sizes = []
    session = Session(ColorNetwork(), "DAVIS", config=InferenceConfig(clip_length=4, overlap=2), keep_result=False)
    session.add_target(0, 1, mask=stripe(8, 16))
    session._predictor.clips = _Forgetful()
    tracemalloc.start()
    try:
        for result in session.run(video(500)):
            if result.frame in (100, 230, 360, 490):
                gc.collect()
                sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # The least growth: caches of Python and of JAX fill once, at any time. 4 kB have been seen.
    assert min(np.diff(sizes)) < 20_000, sizes
    with pytest.raises(ValueError, match="keep_result=False"):
        session.result()


class _Forgetful:
    def append(self, _):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frames on disk, which are decoded ahead."""
    folder = tmp_path_factory.mktemp("frames")
    for index, frame in enumerate(video(13, first=3, last=9)):
        cv2.imwrite(str(folder / f"{index:02d}.png"), frame[..., ::-1])
    return folder


def _threads():
    return {thread.name for thread in threading.enumerate()} & {"frames", "network_0"}


def _sessions(config):
    """Of all kinds of pipelines, each with all that it takes."""
    yield Session(ColorNetwork(), "YT", datasets.DatasetSpec(datasets.INSTANCE, 3), config)
    yield Session(ColorNetwork(), "KS", datasets.DatasetSpec(datasets.PANOPTIC, 3, thing_classes=(1,)), config)
    session = Session(ColorNetwork(), "DAVIS", config=config)
    session.add_target(1, "left", mask=stripe(8, 16))
    session.add_target(4, "right", point_yx=(10, 45))
    yield session


def test_clips_that_are_begun_ahead_change_nothing(folder):
    config = InferenceConfig(clip_length=4, overlap=2, max_tracks=3, score_threshold=0.5)
    for ahead, in_turn in zip(_sessions(config), _sessions(config), strict=True):
        frames = list(ahead.run(folder))
        expected = list(in_turn.run(video(13, first=3, last=9)))
        assert [frame.masks for frame in frames] == [frame.masks for frame in expected]
        found = dataclasses.replace(ahead.result(), video="frames")
        assert found == in_turn.result()
        assert not _threads()


def test_targets_that_change_while_the_next_clip_is_begun(folder):
    """The clip that was begun with the old targets is computed again."""

    def run(frames):
        session = Session(ColorNetwork(), "DAVIS", config=InferenceConfig(clip_length=4, overlap=2))
        session.add_target(0, 1, mask=stripe(8, 16))
        seen = []
        for result in session.run(frames):
            seen.append(sorted(result.masks))
            if result.frame == 3:  # the second result of a clip: by now the next one has been begun
                assert len(session._predictor.clips) <= 3
                session.add_target(session.earliest_target_frame, 2, mask=stripe(40, 56))
            if result.frame == 7:
                session.remove_target(1)
        return seen

    assert run(folder) == run(video(13, first=3, last=9)) == [[1]] * 4 + [[1, 2]] * 4 + [[2]] + [[]] * 4


@pytest.mark.parametrize("number", [0, 5])
def test_threads_end_with_the_iterator(folder, number):
    for session in _sessions(InferenceConfig(clip_length=4, overlap=2, max_tracks=3)):
        results = session.run(folder)
        for _ in range(number + 1):
            next(results)
        assert "frames" in _threads()
        results.close()
        assert not _threads()


def test_an_error_in_the_middle_comes_after_the_results_before_it(folder, tmp_path):
    """Two clips are whole; the frame after them has another size."""
    for index, path in enumerate(sorted(folder.iterdir())):
        image = cv2.imread(str(path))
        cv2.imwrite(str(tmp_path / path.name), image if index < 8 else image[:, :60])
    for session in _sessions(InferenceConfig(clip_length=4, overlap=2, max_tracks=3)):
        seen = []
        with pytest.raises(ValueError, match=r"frames differ in size: .*08\.png is 64x60, .*00\.png is 64x64"):
            for result in session.run(tmp_path):
                seen.append(result.frame)
        # Two clips decide, of frames 0..3 and 2..5 (objects: 1..4 and 3..6); whether the third is the last is unknown.
        assert seen == list(range(5 if session.spec.task == datasets.EXEMPLAR else 4))
        with pytest.raises(ValueError, match="not finished"):
            session.result()
        assert not _threads()


@pytest.mark.parametrize("num_frames", [1, 3, 13])
def test_steps_equal_a_run_with_the_greatest_overlap(num_frames):
    config = InferenceConfig(clip_length=4, overlap=3, max_tracks=3, score_threshold=0.5)
    for steps, run in zip(_sessions(config), _sessions(config), strict=True):
        frames = list(video(num_frames, first=3, last=9))
        given = steps.spec.task == datasets.EXEMPLAR
        if given and num_frames < 5:
            continue
        results = [steps.step(frame) for frame in frames]
        assert [result.frame for result in results] == list(range(num_frames))
        list(run.run(iter(frames)))
        assert _by_mask(steps.result()) == _by_mask(run.result())
        if given:
            assert [sorted(result.masks) for result in results] == [[]] + [["left"]] * 3 + [["left", "right"]] * 5 + [
                ["left"]
            ] * 4
        assert len(steps.step_seconds) == num_frames
        with pytest.raises(ValueError, match="ended by result"):
            steps.step(frames[0])


def _by_mask(result):
    """A result without the numbers of the tracks, which may differ; the caller's ids stay."""
    tracks = [dataclasses.replace(t, id=t.id if isinstance(t.id, str) else 0) for t in result.tracks]
    tracks = sorted(tracks, key=lambda track: str([bool(each) for each in track.segmentations] + [track.class_id]))
    return dataclasses.replace(result, tracks=tracks)


def test_steps_keep_ids_while_the_first_clip_grows():
    session = next(_sessions(InferenceConfig(clip_length=4, overlap=2, max_tracks=3, score_threshold=0.5)))
    ids = [{each.class_id: each.id for each in session.step(frame).objects} for frame in video(8)]
    assert ids == [ids[0]] * 8 and set(ids[0]) == {1, 3}


def test_targets_between_steps_and_bad_steps():
    session = _exemplar()
    frames = list(video(6))
    assert session.step(frames[0]).objects == ()  # nothing is given yet
    with pytest.raises(ValueError, match="frame 0 is segmented already"):
        session.add_target(0, 1, mask=stripe(8, 16))
    session.add_target(1, 1, mask=stripe(8, 16))
    assert list(session.step(frames[1]).masks) == [1]
    with pytest.raises(ValueError, match="frame 2 is 64x60, frame 0 is 64x64"):
        session.step(frames[2][:, :60])
    session.add_target(session.earliest_target_frame, 2, mask=stripe(40, 56))
    assert list(session.step(frames[2]).masks) == [1, 2]
    session.remove_target(1)
    assert list(session.step(frames[3]).masks) == [2]
    with pytest.raises(ValueError, match="already ran"):
        list(session.run(frames))
    assert [track.id for track in session.result().tracks] == [2]  # the frames of 1 were still open
    ran = _exemplar()
    ran.add_target(0, 1, mask=stripe(8, 16))
    list(ran.run(frames))
    with pytest.raises(ValueError, match="already ran"):
        ran.step(frames[0])


def test_what_is_kept_of_tracks_does_not_grow_with_their_number():
    """Every clip has new tracks; what a session knows of them is handed out with the frame that they end with."""
    config = InferenceConfig(clip_length=4, overlap=2, max_tracks=3, association_iou=1.0)
    session = Session(ColorNetwork(), "YT", datasets.DatasetSpec(datasets.INSTANCE, 3), config, keep_result=False)
    ended, alive = [], []
    for result in session.run(video(41)):
        ended += [each.id for each in result.ended]
        alive.append(len(session._pipeline._instances.class_logits()))
    assert sorted(ended) == list(range(1, len(ended) + 1)) and len(ended) > 50
    assert max(alive) <= 6 and not session._state.ended
