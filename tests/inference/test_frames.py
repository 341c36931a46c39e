import weakref

import cv2
import numpy as np
import pytest

from tarvis_jax.inference.clips import iterate_clips
from tarvis_jax.inference.frames import open_frames


def _write_images(folder, sizes):
    for index, (height, width) in enumerate(sizes):
        image = np.full((height, width, 3), (0, 0, 10 * index), np.uint8)  # BGR: red grows
        cv2.imwrite(str(folder / f"{index:05d}.png"), image)


def test_folder_is_read_sorted_and_rgb(tmp_path):
    _write_images(tmp_path, [(4, 6)] * 3)
    source = open_frames(tmp_path)
    frames = list(source)
    assert source.num_frames == 3 and source.frame_names == ("00000", "00001", "00002")
    assert [f[0, 0].tolist() for f in frames] == [[0, 0, 0], [10, 0, 0], [20, 0, 0]]
    assert len(list(source)) == 3  # a second pass


def test_sizes_that_differ_are_both_named(tmp_path):
    _write_images(tmp_path, [(4, 6), (4, 6), (5, 6)])
    with pytest.raises(ValueError, match=r"00002\.png is 5x6.*00000\.png is 4x6"):
        list(open_frames(tmp_path))


def test_corrupt_file_is_named(tmp_path):
    _write_images(tmp_path, [(4, 6)])
    (tmp_path / "00001.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"00001\.png: not a readable image"):
        list(open_frames(tmp_path))


def test_bad_sources(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        open_frames(tmp_path / "absent")
    with pytest.raises(ValueError, match="no image"):
        open_frames(tmp_path)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"broken\.mp4: not a readable video"):
        open_frames(tmp_path / "broken.mp4")
    (tmp_path / "notes.txt").write_text("no video")
    with pytest.raises(ValueError, match="expected a folder of images or a video"):
        open_frames(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="empty sequence"):
        open_frames([])
    with pytest.raises(ValueError, match=r"uint8 RGB frame.*float64"):
        list(open_frames([np.zeros((4, 4, 3))]))
    with pytest.raises(ValueError, match="no frame could be read"):
        list(open_frames(iter([])))


def test_video_file(tmp_path):
    path = str(tmp_path / "video.mp4")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"mp4v"), 5, (64, 32))
    for level in (0, 100, 200):
        writer.write(np.full((32, 64, 3), (0, 0, level), np.uint8))
    writer.release()
    source = open_frames(path)
    frames = list(source)
    assert len(frames) == 3 and frames[0].shape == (32, 64, 3)
    assert source.frames_per_second == pytest.approx(5)
    reds = [int(f[..., 0].mean()) for f in frames]
    assert reds[0] < 30 < 70 < reds[1] < 130 < 170 < reds[2]


class Camera:
    """Stands in for cv2.VideoCapture: some frames, then none."""

    opened = []

    def __init__(self, number):
        self.number, self.left, self.is_released = number, 3, False
        Camera.opened.append(self)

    def isOpened(self):
        return self.number == 0

    def read(self):
        self.left -= 1
        return self.left >= 0, np.full((4, 6, 3), (0, 0, 10 * self.left), np.uint8)

    def get(self, _):
        return -1.0

    def release(self):
        self.is_released = True


def test_camera(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    source = open_frames(0)
    assert source.name == "camera 0" and not source.is_replayable and source.num_frames is None
    frames = iter(source)
    assert [next(frames)[0, 0].tolist() for _ in range(3)] == [[20, 0, 0], [10, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError, match="camera 0: stopped after 3 frames"):
        next(frames)
    with pytest.raises(ValueError, match="camera 7: cannot be opened"):
        list(open_frames(7))
    assert all(camera.is_released for camera in Camera.opened)
    mine = Camera(0)
    with pytest.raises(ValueError, match="door: stopped after 3 frames"):
        list(open_frames(mine, "door"))
    assert not mine.is_released


def test_only_a_window_of_frames_is_alive():
    alive = weakref.WeakSet()
    most = 0

    class Frame(np.ndarray):  # a plain ndarray cannot be put in a WeakSet by value
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def frames():
        nonlocal most
        for _ in range(60):
            frame = np.zeros((4, 4, 3), np.uint8).view(Frame)
            alive.add(frame)
            most = max(most, len(alive))
            yield frame

    # What a session does with frames: the network's input is a new array, the frame is dropped.
    prepared = (np.array(frame) for frame in iter(open_frames(frames())))
    assert sum(1 for _ in iterate_clips(prepared, 6, 3)) == 19
    assert most <= 3
    alive.clear()
    most = 0
    assert sum(1 for _ in iterate_clips(iter(open_frames(frames())), 6, 3)) == 19
    assert most <= 6 + 6 + 3  # the window, the clip in the consumer's hands, the frame in flight
