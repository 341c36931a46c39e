"""Frames to an mp4 file that browsers and players play."""

import fractions
import logging
import pathlib
from collections.abc import Iterable

import cv2
import numpy as np

try:
    import av
except ImportError:  # then OpenCV writes; see `write_video`
    av = None

_log = logging.getLogger(__name__)


def write_video(path: str | pathlib.Path, frames: Iterable[np.ndarray], *, fps: float = 10.0) -> pathlib.Path:
    """Writes frames, uint8 RGB [H, W, 3] of one size, one by one; returns the path.

    H.264 (PyAV, yuv420p) needs even sides: an odd one is extended by its last row or column. Without PyAV the video is
    MPEG-4 part 2 by OpenCV, which most browsers do not play; the log says so.

    Raises:
      ValueError: no frame, another type or size, or fps not above 0.
    """
    path = pathlib.Path(path)
    if fps <= 0:
        raise ValueError(f"{path}: fps should be above 0, found {fps}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if av is None:
        _log.warning("%s: PyAV is not installed (pip install av); writing MPEG-4 part 2 instead of H.264", path)
        return _write_opencv(path, _checked(path, frames), fps)
    return _write_av(path, _checked(path, frames), fps)


def _write_av(path: pathlib.Path, frames: Iterable[np.ndarray], fps: float) -> pathlib.Path:
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fractions.Fraction(fps).limit_denominator(1000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "18"}
        for image in _chain(first, frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _write_opencv(path: pathlib.Path, frames: Iterable[np.ndarray], fps: float) -> pathlib.Path:
    frames = iter(frames)
    first = next(frames)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (first.shape[1], first.shape[0]))
    if not writer.isOpened():
        raise OSError(f"{path}: OpenCV cannot write this file")
    for image in _chain(first, frames):
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    return path


def _chain(first: np.ndarray, rest: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield first
    yield from rest


def _checked(path: pathlib.Path, frames: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """The frames with even sides."""
    shape = None
    for index, frame in enumerate(frames):
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != shape:
            raise ValueError(
                f"{path}, frame {index}: expected uint8 [H, W, 3] of the first frame's shape {shape}, "
                f"found {frame.dtype} {frame.shape}"
            )
        padding = (0, shape[0] % 2), (0, shape[1] % 2), (0, 0)
        yield np.pad(frame, padding, mode="edge")
    if shape is None:
        raise ValueError(f"{path}: no frame to write")
