"""Video files play."""

import logging

import cv2
import numpy as np
import pytest

from tarvis_jax.visualize import video
from tarvis_jax.visualize.video import write_video


def frames(height: int, width: int):
    for t in range(6):
        image = np.full((height, width, 3), 40, np.uint8)
        image[:, 8 * t : 8 * t + 8] = (250, 20, 20)
        yield image


@pytest.mark.parametrize("size, written", [((64, 96), (64, 96)), ((45, 71), (46, 72))])
def test_mp4_plays(tmp_path, size, written):
    av = pytest.importorskip("av", reason="needs PyAV (pip install av), which writes H.264")
    path = write_video(tmp_path / "a" / "clip.mp4", frames(*size), fps=12.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 6 and decoded[0].shape == (*written, 3)
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened() and reader.read()[1].shape == (*written, 3)
    for t, image in enumerate(decoded):
        red = image[10, :, 0].astype(int) - image[10, :, 2]
        assert abs(np.nonzero(red > 100)[0].mean() - (8 * t + 3.5)) < 1.5


def test_without_pyav_opencv_writes_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video, "av", None)
    with caplog.at_level(logging.WARNING):
        path = write_video(tmp_path / "clip.mp4", frames(45, 71))
    assert "PyAV is not installed" in caplog.text
    reader = cv2.VideoCapture(str(path))
    shapes = []
    while (image := reader.read())[0]:
        shapes.append(image[1].shape)
    assert shapes == [(46, 72, 3)] * 6


def test_video_errors(tmp_path):
    with pytest.raises(ValueError, match="no frame to write"):
        write_video(tmp_path / "clip.mp4", [])
    with pytest.raises(ValueError, match="frame 1: expected uint8"):
        write_video(tmp_path / "clip.mp4", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)])
    with pytest.raises(ValueError, match="fps should be above 0"):
        write_video(tmp_path / "clip.mp4", frames(8, 8), fps=0)
