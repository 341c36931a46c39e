"""A visitor's work without a page: against sessions of their own, which a workbench must equal exactly."""

import dataclasses
import threading
import time

import cv2
import numpy as np
import pytest

from tarvis_jax.demo.turns import PredictorInTurns, Turns
from tarvis_jax.demo.uploads import Clip
from tarvis_jax.demo.workbench import MAX_STROKE_POINTS, MAX_TARGETS, Workbench
from tarvis_jax.masks import rle
from tarvis_jax.visualize.overlay import color
from tests.demo import color_model
from tests.demo.color_model import SIZE, TURNS_YELLOW, ColorModel, clip_frame, clip_masks, iou

NUM_FRAMES = 18
RED, GREEN, BLUE = (36, 24), (35, 155), (98, 35)  # (y, x) on the objects in frame 0


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    for frame in range(NUM_FRAMES):
        cv2.imwrite(str(folder / f"{frame:06d}.jpg"), clip_frame(frame)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    return Clip("three objects", folder, NUM_FRAMES, SIZE, 10.0)


def make(clip, task="vos", seconds=0.0, points=()):
    model = ColorModel()
    model.predictor.seconds = seconds
    bench = Workbench(model, clip.folder)
    bench.load(clip)
    bench.choose(task)
    for frame, id, point in points:
        if id not in bench.target_ids:
            assert bench.add_target() == id
        bench.point(frame, id, point)
    return bench


def finish(bench):
    bench.run()
    revision = 0
    while bench.progress().is_running:
        revision = bench.wait(revision)
    assert not bench.progress().error
    return bench


def stopped_after(bench, num_frames):
    """Runs and stops when at least so many frames are done."""
    bench.run()
    while bench.progress().done < num_frames:
        bench.wait(-1)
    bench.stop()
    assert not bench.is_running
    return bench


def same(result, other):
    return dataclasses.replace(result, video="") == dataclasses.replace(other, video="")


@pytest.mark.parametrize("task", ["vis", "vps", "vos", "pet"])
def test_results_are_those_of_a_session(clip, task):
    points = [(0, 1, RED), (3, 2, GREEN)] if task in ("vos", "pet") else []
    bench = finish(make(clip, task, points=points))
    session = ColorModel().session(task, bench.dataset, size_table=True)
    for frame, id, point in points:
        session.add_target(frame, id, point_yx=point)
    assert len(list(session.run(clip.folder))) == NUM_FRAMES
    expected = session.result()
    assert same(bench.results(), expected) and len(expected.tracks) >= 2
    assert bench.progress().done == bench.progress().next_frame == bench.progress().total == NUM_FRAMES
    assert bench.progress().frames_per_second > 0
    listed = {each.id: each for each in bench.tracks()}
    for track in expected.tracks:
        seen = [frame for frame, each in enumerate(track.segmentations) if each]
        assert listed[track.id].frames == (seen[0], seen[-1])
        assert listed[track.id].score == (track.score if task in ("vis", "vps") else None)


def test_a_run_stops_and_goes_on(clip):
    points = [(0, 1, RED), (2, 2, BLUE)]
    whole = finish(make(clip, points=points)).results()
    bench = stopped_after(make(clip, points=points, seconds=0.05), 5)
    done = bench.progress().done
    assert 5 <= done < NUM_FRAMES and bench.progress().next_frame == done
    assert bench.results().num_frames == done
    assert bench.results().tracks[0].segmentations == whole.tracks[0].segmentations[:done]
    assert same(finish(bench).results(), whole)
    with pytest.raises(ValueError, match="All frames are done"):
        bench.run()


@pytest.mark.parametrize("task", ["vis", "vps"])
def test_a_run_that_finds_objects_goes_on(clip, task):
    whole = finish(make(clip, task)).results()
    assert same(finish(stopped_after(make(clip, task, seconds=0.05), 7)).results(), whole)


def test_a_lost_object_is_corrected(clip):
    bench = finish(make(clip, points=[(0, 1, RED), (0, 2, BLUE)]))
    truth = clip_masks(TURNS_YELLOW + 3)["blue"]
    assert not bench.mask(TURNS_YELLOW + 3, 2).any()
    correction = (98, 35 + 2 * TURNS_YELLOW)
    bench.point(TURNS_YELLOW, 2, correction)
    assert bench.progress().next_frame == TURNS_YELLOW and bench.progress().done == NUM_FRAMES
    finish(bench)
    assert iou(bench.mask(TURNS_YELLOW + 3, 2), truth) > 0.8
    fresh = finish(make(clip, points=[(0, 1, RED), (0, 2, BLUE), (TURNS_YELLOW, 2, correction)]))
    assert same(bench.results(), fresh.results())
    assert bench.tracks()[1].given == (0, TURNS_YELLOW)


def test_several_changes_between_two_runs(clip):
    """A correction, a new target that is given before it and again after it, and a target that is removed."""
    bench = stopped_after(make(clip, points=[(0, 1, RED), (0, 2, BLUE)], seconds=0.05), 10)
    bench.point(8, 1, (36, 24 + 6 * 8))
    assert bench.add_target() == 3
    bench.point(9, 3, (35 + 3 * 9, 155))
    bench.point(6, 3, (35 + 3 * 6, 155))
    bench.remove_target(2)
    assert bench.progress().next_frame == 6
    assert [each.id for each in bench.tracks()] == [1, 3]
    result = finish(bench).results()
    assert [track.id for track in result.tracks] == [1, 3] and result.num_frames == NUM_FRAMES
    for frame, each in enumerate(result.tracks[1].segmentations):
        assert (each is not None) == (frame >= 6)
        assert each is None or iou(rle.decode(each), clip_masks(frame)["green"]) > 0.8


def test_what_was_given_is_taken_back(clip):
    bench = make(clip, points=[(0, 1, RED), (5, 1, GREEN)])
    bench.clear(5, 1)
    expected = finish(make(clip, points=[(0, 1, RED)])).results()
    assert same(finish(bench).results(), expected)
    bench.point(7, 1, (35 + 3 * 7, 155))
    assert bench.progress().next_frame == 7
    bench.clear(7, 1)  # no run has used it
    assert bench.progress().next_frame == NUM_FRAMES
    bench.point(7, 1, (35 + 3 * 7, 155))
    finish(bench)
    bench.clear(7, 1)
    assert bench.progress().next_frame == 0
    assert same(finish(bench).results(), expected)


def test_strokes(clip):
    bench = make(clip)
    target = bench.add_target()
    start, end, width = np.array((30.0, 40.0)), np.array((90.0, 120.0)), 13
    bench.stroke(4, target, [start, end], width)
    grid = np.stack(np.mgrid[: SIZE[0], : SIZE[1]], axis=-1)
    along = np.clip((grid - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
    distance = np.linalg.norm(grid - start - along[..., None] * (end - start), axis=-1)
    painted = bench.mask(4, target)
    assert painted[distance < width / 2 - 1].all() and not painted[distance > width / 2 + 1.5].any()
    bench.stroke(4, target, [end], 30, erase=True)
    erased = bench.mask(4, target)
    near = np.linalg.norm(grid - end, axis=-1)
    assert not erased[near < 13].any() and np.array_equal(erased[near > 17], painted[near > 17])
    bench.stroke(4, target, [(0, 0), (-1e9, 1e9)], 1)  # leaves the frame
    with pytest.raises(ValueError, match="an empty mask gives nothing"):
        bench.stroke(4, target, [(64, 96)], 1e9, erase=True)


def test_a_stroke_corrects_the_mask_of_the_results(clip):
    bench = finish(make(clip, points=[(0, 1, RED)]))
    before = bench.mask(10, 1)
    bench.stroke(10, 1, [(36, 24 + 60)], 9, erase=True)
    after = bench.mask(10, 1)
    assert iou(before, clip_masks(10)["red"]) > 0.8
    assert not after[36, 84] and (after & ~before).sum() == 0 and 40 < (before & ~after).sum() < 120


def test_a_change_stops_a_run_and_keeps_its_results(clip):
    bench = make(clip, points=[(0, 1, RED)], seconds=0.05)
    bench.run()
    while bench.progress().done < 3:
        bench.wait(-1)
    bench.point(0, bench.add_target(), GREEN)
    assert not bench.is_running and 3 <= bench.progress().done < NUM_FRAMES
    assert bench.progress().next_frame == 0
    bench.run()
    bench.choose("vis")
    assert not bench.is_running and bench.progress().done == 0 and bench.target_ids == [1, 2]
    assert bench.tracks() == []


def test_pictures(clip):
    bench = make(clip, points=[(0, 1, RED), (0, 2, GREEN)])
    bench.stroke(0, 2, [GREEN], 21)
    plain = bench.draw(3)
    assert plain.dtype == np.uint8 and plain.shape == (4 * SIZE[0], 4 * SIZE[1], 3)
    given = bench.draw(0)
    expected = np.mean([color(2), color_model.COLORS["green"]], axis=0)
    np.testing.assert_allclose(given[4 * GREEN[0], 4 * GREEN[1]], expected, atol=8)
    finish(bench)
    assert not np.array_equal(bench.draw(3), plain)
    bench.choose("vps")
    finish(bench).draw(NUM_FRAMES - 1)
    with pytest.raises(ValueError, match=f"frames 0 to {NUM_FRAMES - 1}, and no frame {NUM_FRAMES}"):
        bench.draw(NUM_FRAMES)


def test_mistakes_of_visitors(clip):
    bench = Workbench(ColorModel(), clip.folder)
    for call in (bench.run, lambda: bench.draw(0)):
        with pytest.raises(ValueError, match="There is no clip yet"):
            call()
    bench.load(clip)
    bench.choose("vos")
    mistakes = {
        "No target is given": bench.run,
        "There is no target yet": lambda: bench.point(0, 1, RED),
        "There are no results yet": bench.results,
        "There is no task 'fly'": lambda: bench.choose("fly"),
        "no dataset 'COLORS' of the task VOS": lambda: bench.choose("vos", "COLORS"),
    }
    bench.choose("vis")
    mistakes_of_vis = {"VIS finds objects by itself": bench.add_target}
    for message, call in mistakes_of_vis.items():
        with pytest.raises(ValueError, match=message):
            call()
    bench.choose("vos")
    for message, call in mistakes.items():
        with pytest.raises(ValueError, match=message):
            call()
    target = bench.add_target()
    mistakes = {
        "Nothing is given of target 1": bench.run,
        "Nothing is given of target 1 in frame 0": lambda: bench.clear(0, target),
        "There is no target 7": lambda: bench.remove_target(7),
        "lies outside of the frame: y goes from 0 to 127": lambda: bench.point(0, target, (128, 0)),
        "no frame 18": lambda: bench.point(NUM_FRAMES, target, RED),
        "no frame -1": lambda: bench.stroke(-1, target, [RED], 3),
        "finite numbers": lambda: bench.point(0, target, (float("nan"), 0)),
        "pairs of numbers": lambda: bench.point(0, target, "ab"),
        "1 to 10000 points; this one has 10001": lambda: bench.stroke(0, target, [RED] * (MAX_STROKE_POINTS + 1), 3),
        "this one has 0": lambda: bench.stroke(0, target, [], 3),
    }
    for message, call in mistakes.items():
        with pytest.raises(ValueError, match=message):
            call()
    while len(bench.target_ids) < MAX_TARGETS:
        bench.add_target()
    with pytest.raises(ValueError, match="100 targets already"):
        bench.add_target()


def test_a_run_that_fails_says_so_and_the_next_one_begins_anew(clip, tmp_path):
    for path in clip.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bench = make(dataclasses.replace(clip, folder=tmp_path), points=[(0, 1, RED)])
    broken = tmp_path / "000009.jpg"
    content = broken.read_bytes()
    broken.write_bytes(b"no image")
    bench.run()
    while bench.progress().is_running:
        bench.wait(-1)
    assert "000009.jpg" in bench.progress().error and bench.progress().done < NUM_FRAMES
    broken.write_bytes(content)
    assert finish(bench).progress().done == NUM_FRAMES


def test_visitors_take_turns():
    turns, order, threads = Turns(), [], []

    def visit(number):
        with turns.turn():
            order.append(number)

    with turns.turn():
        for number in range(8):
            threads.append(threading.Thread(target=visit, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) < number + 2:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(5)
    assert order == list(range(8))


def test_two_visitors_at_once_get_what_each_alone_gets(clip):
    model = ColorModel()
    model.predictor.seconds = 0.01
    busy = threading.Lock()
    segment = model.predictor.segment_objects

    def alone(*args, **kwargs):
        assert busy.acquire(blocking=False), "two clips in the network at once"
        try:
            return segment(*args, **kwargs)
        finally:
            busy.release()

    model.predictor.segment_objects = alone
    model.predictor = PredictorInTurns(model.predictor)
    benches = [Workbench(model, clip.folder) for _ in range(2)]
    for bench, point in zip(benches, (RED, GREEN), strict=True):
        bench.load(clip)
        bench.choose("vos")
        bench.point(0, bench.add_target(), point)
        bench.run()
    for bench, point in zip(benches, (RED, GREEN), strict=True):
        while bench.progress().is_running:
            bench.wait(-1)
        assert same(bench.results(), finish(make(clip, points=[(0, 1, point)])).results())
