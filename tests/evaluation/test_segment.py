"""What a split's videos leave on the disk, and what the log says meanwhile; test_held_out.py runs videos."""

import collections
import os
import pathlib
import signal
import threading
import types

import numpy as np
import pytest

from tarvis_jax.compiled import Programs
from tarvis_jax.evaluation import segment
from tarvis_jax.evaluation.segment import (
    Progress,
    TracksFolder,
    file_name,
    fingerprint,
    fingerprint_of_videos,
    segment_videos,
)
from tarvis_jax.results.tracks import VideoResult


class _Device:
    """In place of a predictor."""

    def __init__(self):
        self.programs = Programs()


def video(name, num_frames=1):
    return types.SimpleNamespace(id=name, num_frames=num_frames)


def test_settings_decide_what_a_folder_takes(tmp_path):
    folder = TracksFolder(tmp_path / "out")
    settings = {"weights": "ab", "inference": {"clip_length": 6, "min_dim": None}}
    folder.begin(settings)
    folder.begin(settings)
    folder.write(video("a"), VideoResult("a", "DAVIS", (2, 3), 1, []))
    other = {"weights": "cd", "inference": {"clip_length": 6, "min_dim": 480, "overlap": 2}}
    with pytest.raises(ValueError) as error:
        folder.begin(other)
    for difference in ("weights ab there, cd here", "min_dim None there, 480 here", "overlap nothing there, 2 here"):
        assert difference in str(error.value)
    assert "clip_length" not in str(error.value) and folder.read(video("a")).size == (2, 3)
    folder.begin(other, replace=True)
    assert not folder.has(video("a"))
    for content, message in (("{", "not the settings of a folder"), ("[1]", r"the file \[1\] there")):
        (tmp_path / "out/settings.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            folder.begin(settings)


def test_a_video_that_is_not_written_whole_is_not_there(tmp_path):
    folder = TracksFolder(tmp_path)
    with pytest.raises(TypeError):
        folder.write(video("a"), VideoResult("a", "DAVIS", (2, 3), 1, [object()]))
    assert not folder.has(video("a")) and not list((tmp_path / "tracks").iterdir())


def test_names_of_files(tmp_path):
    names = ["a/b", "a-b", "a%2Fb", "../../x", "..", "", 7, "é"]
    files = [file_name(video(name)) for name in names]
    assert len(set(files)) == len(names)
    folder = TracksFolder(tmp_path)
    assert {folder.path_of(video(name)).resolve().parent for name in names} == {tmp_path / "tracks"}


def test_fingerprints():
    values = {"a": np.zeros((2, 3), np.float32), "b": np.float32(1)}
    assert fingerprint(values) == fingerprint(dict(reversed(values.items())))
    for other in ({**values, "b": np.float32(2)}, {"a": values["a"], "c": values["b"]}):
        assert fingerprint(values) != fingerprint(other)


def test_fingerprints_of_videos():
    def record(**changes):
        values = {"id": 1, "frame_paths": (pathlib.Path("/a/0.jpg"),), "height": 2, "width": 3, "points": None}
        return types.SimpleNamespace(**values | {"segmentations": ({2: {"size": [2, 3], "counts": "6"}},)} | changes)

    same = fingerprint_of_videos([record()])
    assert same == fingerprint_of_videos([record(frame_paths=(pathlib.Path("/b/0.jpg"),))])
    others = [
        {"id": "1"},
        {"frame_paths": (pathlib.Path("/a/1.jpg"),)},
        {"height": 4},
        {"points": ({2: (0.0, 1.0)},)},
        {"segmentations": ({2: {"size": [2, 3], "counts": "51"}},)},
    ]
    found = [fingerprint_of_videos([record(**other)]) for other in others]
    assert len({same, *found, fingerprint_of_videos([]), fingerprint_of_videos([record(), record()])}) == 8


@pytest.fixture
def three_devices(tmp_path, monkeypatch):
    """Runs videos "0" to "8" through a stand-in, `of_video(name, after_frame)`; the name of a video is its tracks.

    Each device waits in its first video until all have one.
    """
    all_work = threading.Barrier(3, timeout=60)
    folder, num_videos = TracksFolder(tmp_path), collections.Counter()

    def run(of_video):
        def segment_video(predictor, dataset, spec, config, video, after_frame, clip_batch):
            num_videos[predictor] += 1
            if num_videos[predictor] == 1:
                all_work.wait()
            of_video(video.id, after_frame)
            return VideoResult(video.id, "DAVIS", (2, 3), 1, [])

        monkeypatch.setattr(segment, "segment_video", segment_video)
        predictors = [_Device() for _ in range(3)]
        return segment_videos(predictors, "DAVIS", None, None, [video(str(n)) for n in range(9)], folder, "DAVIS")

    run.done = lambda: {path.stem for path in tmp_path.glob("tracks/*")}
    run.num_videos = num_videos
    return run


def wait_to_be_stopped(after_frame):
    while True:
        after_frame()


def test_devices_take_the_next_video_when_they_are_done(three_devices):
    assert three_devices(lambda name, after_frame: after_frame()) == 9
    assert three_devices.done() == set("012345678")
    assert len(three_devices.num_videos) == 3 and three_devices.num_videos.total() == 9


def test_an_error_names_its_video_and_ends_the_others(three_devices):
    def of_video(name, after_frame):
        if name == "1":
            raise ValueError("no picture")
        wait_to_be_stopped(after_frame)

    with pytest.raises(ValueError, match="^video 1: no picture$"):
        three_devices(of_video)
    assert not three_devices.done() and three_devices.num_videos.total() == 3

    def out_of_memory(name, after_frame):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory") as error:
        three_devices(out_of_memory)
    assert error.value.__notes__[0].startswith("DAVIS: while video ")


def test_a_signal_ends_all_devices(three_devices):
    """The main thread leaves, as for SIGTERM; a video that is whole stays."""

    class Left(BaseException):
        pass

    def leave(*_):
        raise Left

    def of_video(name, after_frame):
        if name == "3":
            os.kill(os.getpid(), signal.SIGTERM)
        if name != "0":
            wait_to_be_stopped(after_frame)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises(Left):
            three_devices(of_video)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert three_devices.done() == {"0"} and three_devices.num_videos.total() == 4


def test_progress(caplog):
    """Compiling is not counted; a line every ten seconds, and at the end."""
    caplog.set_level("INFO", logger="absl")
    now, devices = [100.0], [_Device(), _Device()]
    progress = Progress("DAVIS val", [video("a", 20), video("b", 20)], devices, now=lambda: now[0])
    devices[0].programs.compile_seconds += 6
    devices[1].programs.compile_seconds += 8
    now[0] += 7
    for frame in range(40):
        now[0] += 1
        progress.count_frame()
        if frame in (19, 39):
            progress.end_video()
    lines = [record.getMessage() for record in caplog.records]
    assert lines[1] == "DAVIS val: 0 of 2 videos, 13 of 40 frames, 1.00 frames/s, 27.0 s left"
    assert lines[-1] == "DAVIS val: 2 of 2 videos, 40 of 40 frames, 1.00 frames/s, 0.0 s left" and len(lines) == 5
