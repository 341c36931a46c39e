"""What a split's videos leave on the disk, and what the log says meanwhile; test_held_out.py runs videos."""

import types

import numpy as np
import pytest

from tarvis_jax.compiled import Programs
from tarvis_jax.evaluation.segment import Progress, TracksFolder, file_name, fingerprint
from tarvis_jax.results.tracks import VideoResult


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


def test_progress(caplog):
    """Compiling is not counted; a line every ten seconds, and at the end."""
    caplog.set_level("INFO", logger="absl")
    now, devices = [100.0], [types.SimpleNamespace(programs=Programs()) for _ in range(2)]
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
