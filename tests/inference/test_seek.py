"""Sessions that go back, and targets that are corrected: the same results as those of a fresh session, bit for bit."""

import cv2
import numpy as np
import pytest

from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.frames import open_frames
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.video import stream_video
from tarvis_jax.masks import rle
from tests import tiny
from tests.inference.color_network import ColorNetwork, stripe, video

NUM_FRAMES = 12
DATASETS = {"vis": "YOUTUBE_VIS", "vps": "KITTI_STEP", "vos": "DAVIS", "pet": "BURST"}
SHOWING = {"vis": (0.2, 8), "vps": (0.2, 8), "vos": (0.3, 3), "pet": (0.3, 3)}  # weights whose masks are neither empty
# nor full: standard deviation and seed


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


def _noise():
    """Blocks that move."""
    height, width = tiny.SIZE
    scene = np.random.default_rng(0).integers(0, 256, (7, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:height, :width]
    return [np.roll(scene, 3 * frame, axis=1) for frame in range(NUM_FRAMES)]


def _place(task, y, x):
    """A target of the task."""
    if task == "pet":
        return {"point_yx": (y + 5, x + 5)}
    mask = np.zeros(tiny.SIZE, bool)
    mask[y : y + 20, x : x + 20] = True
    return {"mask": mask}


def _session(model, task, schedule, corrections=()):
    settings = dict(clip_length=schedule[0], overlap=schedule[1], min_dim=None)
    if task in ("vis", "vps"):
        return model.session(task, DATASETS[task], max_tracks=5, score_threshold=0.0, association_iou=0.96, **settings)
    session = model.session(task, DATASETS[task], **settings)
    session.add_target(0, "a", **_place(task, 5, 5))
    session.add_target(3, "b", **_place(task, 25, 30))
    for frame, target_id, target in corrections:
        session.correct_target(frame, target_id, **target)
    return session


def _plain(result):
    objects = [(each.id, each.rle["counts"], each.class_id, each.score, each.is_thing) for each in result.objects]
    return objects, None if result.semantic is None else result.semantic.tobytes(), result.ended


def _run(session, frames, seen, last=NUM_FRAMES):
    """Runs up to frame `last`; `seen` has what was handed out last of each frame."""
    for result in session.run(frames):
        seen[result.frame] = _plain(result)
        if result.frame == last:
            break


def _check_going_back(model, task, schedule):
    rng = np.random.default_rng(1)
    scale, seed = SHOWING[task]
    values = np.random.default_rng(seed)
    model.predictor.set_variables(
        {
            name: value if "var" in name else values.normal(0, scale, value.shape).astype(np.float32)
            for name, value in tiny.variables().items()
        }
    )
    frames, seen, corrections = _noise(), {}, []
    session = _session(model, task, schedule)
    length, step = schedule[0], schedule[0] - schedule[1]
    _run(session, frames, seen, last=9)
    for number, back in enumerate([7, 2 * step, 2 * step, 0, length + 1, NUM_FRAMES - 1, 5]):
        back = min(back, session.next_frame - session.is_done)
        session.seek(back)
        assert session.next_frame == session.earliest_target_frame == back
        if task in ("vos", "pet") and number % 4 != 3:
            # At the frame itself, or in one that comes.
            given = (min(back + number % 3, NUM_FRAMES - 1), "ab"[number % 2], _place(task, *rng.integers(0, 30, 2)))
            session.correct_target(given[0], given[1], **given[2])
            corrections.append(given)
        _run(session, frames, seen, last=min(back + 3 * number, NUM_FRAMES))
    session.seek(session.next_frame - session.is_done)
    _run(session, frames, seen)
    fresh, expected = _session(model, task, schedule, corrections), {}
    _run(fresh, frames, expected)
    shown = sum(len(objects) for objects, *_ in expected.values())
    assert shown > (NUM_FRAMES if schedule[1] else 0)  # without overlap, given objects end with their clip
    assert seen == expected
    assert session.result() == fresh.result()


@pytest.mark.parametrize("task", DATASETS)
def test_going_back_equals_a_fresh_session(model, task):
    """Clips share more than half of their frames, and groups of new frames do not divide them."""
    _check_going_back(model, task, (5, 3))


@pytest.mark.long
@pytest.mark.parametrize("task", DATASETS)
@pytest.mark.parametrize("schedule", [(4, 0), (4, 2), (4, 3), (1, 0)])
def test_going_back_equals_a_fresh_session_with_every_schedule(model, task, schedule):
    _check_going_back(model, task, schedule)


def _exemplar(**options):
    return Session(ColorNetwork(), "DAVIS", config=InferenceConfig(clip_length=4, overlap=2), **options)


def _ids(results):
    return [sorted(result.masks) for result in results]


@pytest.mark.parametrize("frame", [2, 5, 6, 7, 11])
def test_a_correction_holds_from_its_frame_on(frame):
    """The object was one stripe; it is the other one from a frame inside a clip, or at its boundary, on."""
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.correct_target(frame, 1, mask=stripe(40, 56))
    list(session.run(list(video(12))))
    (track,) = session.result().tracks
    areas = [rle.area(encoded) for encoded in track.segmentations]
    assert areas == [8 * 64] * frame + [16 * 64] * (12 - frame)


def test_a_lost_object_is_given_anew_during_the_run():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(40, 56))
    seen = []
    for result in session.run(list(video(12, last=2))):
        seen += _ids([result])
        if result.frame == 5:
            with pytest.raises(ValueError, match=r"frame 5 is segmented already; .* from frame 6 on \(seek goes back"):
                session.correct_target(5, 1, mask=stripe(8, 16))
            session.correct_target(7, 1, mask=stripe(8, 16))
    assert seen == [[1]] * 2 + [[]] * 5 + [[1]] * 5


def test_an_object_begins_earlier_than_it_was_given():
    """Its first target is one more correction."""
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.add_target(6, 2, mask=stripe(40, 56))
    seen = _ids(session.run(list(video(10))))
    assert seen == [[1]] * 6 + [[1, 2]] * 4
    session.seek(3)
    session.correct_target(4, 2, mask=stripe(40, 56))
    assert seen[:3] + _ids(session.run(list(video(10)))) == [[1]] * 4 + [[1, 2]] * 6
    session.seek(0)
    session.remove_target(1)
    assert _ids(session.run(list(video(10)))) == [[]] * 4 + [[2]] * 6


def test_a_removed_object_does_not_come_back_with_its_id():
    """It is known to the clips that are gone back to; removed with its corrections, and given anew later."""
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.add_target(0, 2, mask=stripe(40, 56))
    session.correct_target(3, 2, mask=stripe(40, 50))
    list(session.run(list(video(12))))
    for _ in range(2):
        session.seek(7)
        session.remove_target(2)
        session.add_target(10, 2, mask=stripe(40, 56))
        assert _ids(session.run(list(video(12)))) == [[1]] * 3 + [[1, 2]] * 2
    assert [bool(each) for each in session.result().tracks[1].segmentations] == [True] * 7 + [False] * 3 + [True] * 2


def test_a_target_added_after_going_back_is_known_as_in_a_fresh_session():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    list(session.run(list(video(12))))
    session.seek(5)
    with pytest.raises(ValueError, match="frame 4 is segmented already; .* from frame 5 on"):
        session.add_target(4, 2, mask=stripe(40, 56))
    session.add_target(5, 2, mask=stripe(40, 56))
    assert _ids(session.run(list(video(12)))) == [[1, 2]] * 7


def test_going_back_in_a_loop_ends_it():
    session = _exemplar(keep_result=False)
    session.add_target(0, 1, mask=stripe(8, 16))
    frames = list(video(10))
    seen = []
    for result in session.run(frames):
        seen.append(result.frame)
        if result.frame == 4:
            session.seek(2)
    seen += [result.frame for result in session.run(frames)]
    assert seen == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 9] and session.is_done


def test_errors():
    session, frames = _exemplar(), list(video(10))
    with pytest.raises(ValueError, match="seek: frame 3: nothing was run yet"):
        session.seek(3)
    with pytest.raises(ValueError, match="target 1: there is no such target; given are: none"):
        session.correct_target(3, 1, mask=stripe(8, 16))
    session.add_target(0, 1, mask=stripe(8, 16))
    with pytest.raises(ValueError, match="its mask of frame 3 is empty"):
        session.correct_target(3, 1, mask=stripe(0, 0))
    results = session.run(frames)
    assert [next(results).frame for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="already ran"):
        session.run(frames)
    for frame in (-1, 4):
        with pytest.raises(ValueError, match=rf"expected a frame in 0\.\.3, those that were run, found {frame}"):
            session.seek(frame)
    session.seek(3)
    with pytest.raises(ValueError, match="expected one at frame 0"):
        next(stream_video(session, frames, "never written"))
    with pytest.raises(ValueError, match="frames had 10 frames, frames has 9"):
        next(session.run(frames[:9]))
    with pytest.raises(ValueError, match="found frames, which can be read only once"):
        next(session.run(iter(frames)))
    assert [result.frame for result in session.run(frames)] == list(range(3, 10))
    with pytest.raises(ValueError, match=r"expected a frame in 0\.\.9, .* found 10"):
        session.seek(10)
    with pytest.raises(ValueError, match="the run is over; seek goes back"):
        session.correct_target(9, 1, mask=stripe(8, 16))
    session.seek(9)
    with pytest.raises(ValueError, match="frames differ in size: frame 4 is 60x64, before seek, a frame is 64x64"):
        next(session.run([frame[:60] for frame in frames]))


def test_frames_and_sessions_that_do_not_go_back():
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    list(session.run(video(5)))
    with pytest.raises(ValueError, match="frames cannot be read again; expected a folder"):
        session.seek(2)
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.step(next(video(1)))
    with pytest.raises(ValueError, match="this session steps; to go back"):
        session.seek(0)
    with pytest.raises(ValueError, match="a session that steps knows no corrections; remove_target and then add"):
        session.correct_target(1, 1, mask=stripe(8, 16))
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    session.correct_target(1, 1, mask=stripe(8, 16))
    with pytest.raises(ValueError, match="a session that steps knows no corrections"):
        session.step(next(video(1)))


def test_other_frames_than_before_are_noticed(model):
    session = _session(model, "vis", (5, 3))
    model.predictor.set_variables(tiny.variables())
    list(session.run(_noise()))
    session.seek(8)
    session._pipeline._config = InferenceConfig(clip_length=5, overlap=3, max_tracks=2)  # as if fewer tracks were found
    with pytest.raises(ValueError, match="had 5 tracks and has 2: its frames are not those of the run before"):
        list(session.run(_noise()))


def test_a_stream_that_goes_back_has_no_last_line(tmp_path):
    session = _exemplar()
    session.add_target(0, 1, mask=stripe(8, 16))
    for result in stream_video(session, list(video(6)), tmp_path / "results.jsonl"):
        if result.frame == 4:
            session.seek(5)
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 1 + 5


def test_reading_from_a_frame_on(tmp_path, monkeypatch):
    frames = list(video(6))
    for index, frame in enumerate(frames):
        frame[0, 0] = index
        cv2.imwrite(str(tmp_path / f"{index}.png"), frame)
    writer = cv2.VideoWriter(str(tmp_path / "video.avi"), cv2.VideoWriter_fourcc(*"FFV1"), 5, (64, 64))
    for frame in frames:
        writer.write(frame)
    writer.release()
    read = []
    imread = cv2.imread
    monkeypatch.setattr(cv2, "imread", lambda path, *flags: read.append(path) or imread(path, *flags))
    for source in (tmp_path, tmp_path / "video.avi", frames, np.stack(frames)):
        assert [int(frame[0, 0, 0]) for frame in open_frames(source).frames_from(4)] == [4, 5]
    assert [path[-5:] for path in read] == ["4.png", "5.png"]
    with pytest.raises(ValueError, match="no frame could be read from frame 9 on"):
        list(open_frames(frames).frames_from(9))
