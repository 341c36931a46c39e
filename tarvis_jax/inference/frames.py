"""Frame sources: a folder of images, a video file, a camera, or arrays, read lazily as uint8 RGB.

Nothing here keeps a frame after handing it out: what is in memory is what the caller holds.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator

import cv2
import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")


@dataclasses.dataclass(frozen=True)
class FrameSource:
    """A video that is read front to back.

    Attributes:
      name: what to call it in messages and in result files.
      num_frames: number of frames, or None where only reading to the end can tell (video files, generators).
      frame_names: file stem per frame for a folder of images, else None.
      reader: starts one pass over the frames, from a given one on: pairs of a name for messages and the frame.
      is_replayable: whether a second pass is possible (false for generators and cameras).
      frames_per_second: of a video file, else None.
      is_decoded: whether reading means work or waiting that a thread can do ahead (files and cameras). Arrays are
        taken in the caller's thread, and only when they are needed: a generator may depend on what the caller does.
    """

    name: str
    num_frames: int | None
    frame_names: tuple[str, ...] | None
    reader: Callable[[int], Iterator[tuple[str, np.ndarray]]]
    is_replayable: bool = True
    frames_per_second: float | None = None
    is_decoded: bool = False

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields uint8 RGB frames [H, W, 3], all of the same size; raises ValueError at the first that is not."""
        return self.frames_from(0)

    def frames_from(self, start: int) -> Iterator[np.ndarray]:
        """As iterating, from frame `start` on.

        The frames before are not read of a folder. Those of a video file are decoded and dropped: its own index of
        frames is not exact with every codec.
        """
        first: tuple[str, tuple[int, int]] | None = None
        for label, frame in self.reader(start):
            first = first or (label, frame.shape[:2])
            check_frame(self.name, label, frame, *first)
            yield frame
        if first is None:
            raise ValueError(f"{self.name}: no frame could be read" + (f" from frame {start} on" if start else ""))


def check_frame(video: str, label: str, frame: np.ndarray, first: str, size: tuple[int, int]) -> None:
    """Raises ValueError for a frame that is not uint8 RGB or not of the `size` (height, width) of the `first` one."""
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"{label}: expected a uint8 RGB frame [H, W, 3], found {frame.dtype} {frame.shape}")
    height, width = frame.shape[:2]
    if (height, width) != tuple(size):
        raise ValueError(
            f"{video}: frames differ in size: {label} is {height}x{width}, "
            f"{first} is {size[0]}x{size[1]} (height x width)"
        )


def open_frames(
    source: "FrameSource | str | pathlib.Path | int | cv2.VideoCapture | Iterable[np.ndarray]", name: str = "frames"
) -> FrameSource:
    """Makes a FrameSource of a folder of jpg/png images (sorted by name), a video file, a camera, or uint8 RGB arrays.

    Args:
      source: path, number of a camera, an open cv2.VideoCapture (which stays open), FrameSource (returned as it is),
        sequence of arrays, or a generator of arrays (one pass only).
      name: name of a source that is not a file.

    Raises:
      ValueError: the path does not exist, the folder holds no image, or the file is of no known kind. A file that
        cannot be decoded is named when it is reached, and so is a camera that cannot be opened or stops.
    """
    if isinstance(source, FrameSource):
        return source
    if isinstance(source, str | pathlib.Path):
        path = pathlib.Path(source)
        if path.is_dir():
            return _image_folder(path)
        if path.is_file():
            return _video_file(path)
        raise ValueError(f"{path}: no such file or folder")
    if isinstance(source, int | np.integer) and not isinstance(source, bool):
        return _camera(int(source))
    if isinstance(source, cv2.VideoCapture):
        return FrameSource(name, None, None, lambda _: _captured(source, name), is_replayable=False, is_decoded=True)
    if isinstance(source, np.ndarray) or hasattr(source, "__len__"):
        if len(source) == 0:
            raise ValueError(f"{name}: no frames (an empty sequence)")
        return FrameSource(name, len(source), None, lambda start: _labeled(source, start))
    return FrameSource(name, None, None, lambda _: _labeled(source, 0), is_replayable=False)


def _labeled(frames: Iterable[np.ndarray], start: int) -> Iterator[tuple[str, np.ndarray]]:
    for index, frame in enumerate(itertools.islice(frames, start, None), start):
        yield f"frame {index}", np.asarray(frame)


def _image_folder(folder: pathlib.Path) -> FrameSource:
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder}: no image ({', '.join(IMAGE_SUFFIXES)}) in this folder")

    def read(start: int) -> Iterator[tuple[str, np.ndarray]]:
        for path in paths[start:]:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f"{path}: not a readable image (missing, truncated or corrupt)")
            yield str(path), cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    return FrameSource(folder.name, len(paths), tuple(p.stem for p in paths), read, is_decoded=True)


def _camera(number: int) -> FrameSource:
    name = f"camera {number}"

    def read(_: int) -> Iterator[tuple[str, np.ndarray]]:
        capture = cv2.VideoCapture(number)
        try:
            if not capture.isOpened():
                raise ValueError(f"{name}: cannot be opened (no such camera, no permission, or in use)")
            yield from _captured(capture, name)
        finally:
            capture.release()

    return FrameSource(name, None, None, read, is_replayable=False, is_decoded=True)


def _captured(capture: cv2.VideoCapture, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """Frames of an open capture. That of a file ends; a camera has no end, so one that gives no frame is broken."""
    index = 0
    while True:
        is_read, image = capture.read()
        if not is_read:
            if capture.get(cv2.CAP_PROP_FRAME_COUNT) > 0:
                return
            raise ValueError(f"{name}: stopped after {index} frames (unplugged, or taken by another program)")
        yield f"{name} frame {index}", cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        index += 1


def _video_file(path: pathlib.Path) -> FrameSource:
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{path}: expected a folder of images or a video file ({', '.join(VIDEO_SUFFIXES)})")
    probe = cv2.VideoCapture(str(path))
    readable, frames_per_second = probe.isOpened(), probe.get(cv2.CAP_PROP_FPS)
    probe.release()
    if not readable:
        raise ValueError(f"{path}: not a readable video (truncated, corrupt or an unknown codec)")

    def read(start: int) -> Iterator[tuple[str, np.ndarray]]:
        capture = cv2.VideoCapture(str(path))
        try:
            for _ in range(start):
                capture.grab()
            index = start
            while True:
                is_read, image = capture.read()
                if not is_read:
                    return
                yield f"{path} frame {index}", cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                index += 1
        finally:
            capture.release()

    return FrameSource(path.stem, None, None, read, frames_per_second=frames_per_second or None, is_decoded=True)
