"""The videos of a split through a model; the tracks of each are on the disk as soon as it is done.

A run that was killed goes on with the next video. The devices of a process share its videos, and several machines may
share those of one folder.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import statistics
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
from absl import logging

from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR, POINT, DatasetSpec
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.frames import FrameSource
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import VideoResult, read_tracks, write_tracks
from tarvis_jax.visualize.run_report import duration

SETTINGS_FILE = "settings.json"
TRACKS_FOLDER = "tracks"

_SECONDS_BETWEEN_LINES = 10.0  # of the log
_NO_VALUE = "nothing"  # in place of a setting that one of two lists of settings lacks


@dataclasses.dataclass(frozen=True)
class TracksFolder:
    """What a split's videos leave: `settings.json`, and `tracks/<video>.json` for each video that is done."""

    folder: pathlib.Path

    def begin(self, settings: Mapping[str, Any], *, replace: bool = False) -> None:
        """Notes the settings that the tracks are made with, or finds the same ones there.

        Args:
          settings: everything that the tracks depend on, as JSON knows it.
          replace: tracks of other settings are removed instead of being an error.

        Raises:
          ValueError: the folder has tracks of other settings; the message lists what differs.
        """
        file = self.folder / SETTINGS_FILE
        settings = json.loads(json.dumps(settings))
        try:
            found = json.loads(file.read_text()) if file.is_file() else settings
        except ValueError as error:
            raise ValueError(f"{file}: not the settings of a folder of results ({error})") from error
        if found != settings and replace:
            logging.info("%s: removing the results of %s", self.folder, _differences(found, settings))
            for path in (self.folder / TRACKS_FOLDER).glob("*.json"):
                path.unlink()
        elif found != settings:
            raise ValueError(
                f"{self.folder}: has results of {_differences(found, settings)}; give another folder, or remove this "
                "one to start again"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_whole(file, lambda path: path.write_text(json.dumps(settings, indent=1) + "\n"))

    def path_of(self, video: VideoRecord) -> pathlib.Path:
        """The file of a video's tracks."""
        return self.folder / TRACKS_FOLDER / f"{file_name(video)}.json"

    def has(self, video: VideoRecord) -> bool:
        """Whether the video is done."""
        return self.path_of(video).is_file()

    def read(self, video: VideoRecord) -> VideoResult:
        """The tracks of a video that is done."""
        return read_tracks(self.path_of(video))

    def write(self, video: VideoRecord, result: VideoResult) -> None:
        """Writes the tracks of a video; the file appears when it is whole."""
        path = self.path_of(video)
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(path, lambda part: write_tracks(part, result))


class StoredResults(Mapping[str, VideoResult]):
    """Results by `str(video.id)`, each read from its file when it is asked for, and not kept."""

    def __init__(self, folder: TracksFolder, videos: Sequence[VideoRecord]):
        self._folder, self._videos = folder, {str(video.id): video for video in videos}

    def __getitem__(self, name: str) -> VideoResult:
        return self._folder.read(self._videos[name])

    def __iter__(self):
        return iter(self._videos)

    def __len__(self) -> int:
        return len(self._videos)


class _Stopped(Exception):
    """Leaves a video in the middle, since the others end, too."""


def segment_videos(
    predictors: Sequence[Predictor],
    dataset: str,
    spec: DatasetSpec,
    config: InferenceConfig,
    videos: Sequence[VideoRecord],
    folder: TracksFolder,
    label: str,
    draw: Callable[[VideoRecord, VideoResult], None] = lambda video, result: None,
    clip_batch: int = 0,
) -> int:
    """Writes the tracks of the videos that have none yet, and says how far it is and how long it will take.

    Each predictor takes the next video when it is done with one, in a thread of its own. When a video fails, or this
    is left for another reason, the others end after the frame at hand; the tracks of whole videos stay.

    Args:
      predictors: the same network, once on each device that is to work.
      dataset, spec, config: see `Session`.
      videos: with the targets that are given.
      folder: where the tracks are written.
      label: what the log calls the videos.
      draw: is called with each video before its tracks are written, by the thread that has segmented it.
      clip_batch: see `Session`.

    Returns:
      The number of frames that were segmented.

    Raises:
      ValueError: a frame that cannot be read, or a target that is not there; the message names the video.
    """
    missing = [video for video in videos if not folder.has(video)]
    if len(missing) < len(videos):
        logging.info("%s: %d of %d videos were segmented before", label, len(videos) - len(missing), len(videos))
    predictors = predictors[: max(len(missing), 1)]
    progress = Progress(label, missing, predictors)
    waiting, one_at_a_time, is_stopped = iter(missing), threading.Lock(), threading.Event()

    def next_video() -> VideoRecord | None:
        with one_at_a_time:
            return None if is_stopped.is_set() else next(waiting, None)

    def after_frame() -> None:
        if is_stopped.is_set():
            raise _Stopped
        progress.count_frame()

    def work(predictor: Predictor) -> None:
        while (video := next_video()) is not None:
            try:
                result = segment_video(predictor, dataset, spec, config, video, after_frame, clip_batch)
                draw(video, result)
            except _Stopped:
                return
            except ValueError as error:
                raise ValueError(f"video {video.id}: {error}") from error
            except Exception as error:
                error.add_note(f"{label}: while video {video.id} was segmented")
                raise
            folder.write(video, result)
            progress.end_video()

    if len(predictors) == 1:
        work(predictors[0])
        return progress.total_frames
    with ThreadPoolExecutor(len(predictors), thread_name_prefix="videos") as pool:
        try:
            running = [pool.submit(work, each) for each in predictors]
            wait(running, return_when=FIRST_EXCEPTION)
        finally:  # SIGTERM leaves this, too
            is_stopped.set()
    for each in running:
        each.result()
    return progress.total_frames


def compile_seconds(predictors: Sequence[Predictor]) -> float:
    """Wall time of compiling so far, the mean over devices: each has its programs, and they compile side by side."""
    return statistics.fmean(each.programs.compile_seconds for each in predictors)


def segment_video(
    predictor: Predictor,
    dataset: str,
    spec: DatasetSpec,
    config: InferenceConfig,
    video: VideoRecord,
    after_frame: Callable[[], None],
    clip_batch: int = 0,
) -> VideoResult:
    """The tracks of a video; none where the targets are to be given and no target is."""
    targets = targets_of(video, spec)
    if spec.task == EXEMPLAR and not targets:
        return VideoResult(str(video.id), dataset, (video.height, video.width), video.num_frames, [])
    session = Session(predictor, dataset, spec, config, clip_batch=clip_batch)
    for target in targets:
        session.add_target(target.frame, target.id, target.mask, target.point_yx)
    for _ in session.run(frames_of(video)):
        after_frame()
    return session.result()


def targets_of(video: VideoRecord, spec: DatasetSpec) -> list[Target]:
    """The objects that are given, each in its first frame; none for datasets with classes.

    Raises:
      ValueError: the objects are to be given by points, and the video has masks alone.
    """
    if spec.task != EXEMPLAR or not video.instances:
        return []
    if spec.exemplar == POINT:
        if video.points is None:
            raise ValueError(f"{video.where}: expected a point of each object, found masks alone")
        return [
            Target(frame, instance, point_yx=point)
            for frame, points in enumerate(video.points)
            for instance, point in points.items()
        ]
    return [
        Target(frame, instance, mask=video.instance_mask(frame, instance))
        for instance, frame in sorted(video.first_frames().items())
    ]


def frames_of(video: VideoRecord) -> FrameSource:
    """The video's frames, read when they are needed."""

    def read(start: int):
        for frame, path in enumerate(video.frame_paths[start:], start):
            yield str(path), video.load_frame(frame)

    return FrameSource(str(video.id), video.num_frames, video.frame_names, read, is_decoded=True)


def file_name(video: VideoRecord) -> str:
    """What files about a video are called: every id has its own name, which leaves no folder whatever the id is."""
    return urllib.parse.quote(str(video.id), safe="")


def fingerprint(variables: Mapping[str, Any]) -> str:
    """A short text that other weights of a model do not have."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(variables):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(variables[name]).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint_of_videos(videos: Sequence[VideoRecord]) -> str:
    """A short text that other videos do not have: other names of videos or frames, sizes, or targets that are given.

    Where they lie does not matter, since machines that share a split may see it at different places. Pixels are not
    read: pictures that are replaced by others of the same name are taken for the same.
    """
    digest = hashlib.blake2b(digest_size=8)
    for video in videos:
        masks, points = (
            [sorted(frame.items()) for frame in per_frame or ()] for per_frame in (video.segmentations, video.points)
        )
        about = (video.id, [path.name for path in video.frame_paths], video.height, video.width, masks, points)
        digest.update(repr(about).encode())
    return digest.hexdigest()


class Progress:
    """Lines of the log about the videos that are done and the time that is left; threads may share one."""

    def __init__(
        self,
        label: str,
        videos: Sequence[VideoRecord],
        predictors: Sequence[Predictor],
        now: Callable[[], float] = time.monotonic,
    ):
        """`videos`: that are to be segmented; `predictors`: by which; the time that they compile is not counted."""
        self._label, self._num_videos, self._predictors, self._now = label, len(videos), predictors, now
        self.total_frames = sum(video.num_frames for video in videos)
        self._videos = self._frames = 0
        self._start = self._last_line = now()
        self._compiled = compile_seconds(predictors)
        self._lock = threading.Lock()

    def count_frame(self) -> None:
        """One more frame is done."""
        with self._lock:
            self._frames += 1
            if self._now() - self._last_line >= _SECONDS_BETWEEN_LINES:
                self._write_line()

    def end_video(self) -> None:
        """One more video is done."""
        with self._lock:
            self._videos += 1
            if self._videos == self._num_videos:
                self._write_line()

    def _write_line(self) -> None:
        self._last_line = self._now()
        busy = max(self._last_line - self._start - (compile_seconds(self._predictors) - self._compiled), 1e-9)
        rate = self._frames / busy
        left = duration((self.total_frames - self._frames) / rate) if self._frames else "unknown"
        logging.info(
            "%s: %d of %d videos, %d of %d frames, %.2f frames/s, %s left",
            *(self._label, self._videos, self._num_videos, self._frames, self.total_frames, rate, left),
        )


def _write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _differences(found: Any, settings: Any) -> str:
    """Settings that differ, as text; whatever the file of `found` holds."""
    theirs, ours = _flat(found), _flat(settings)
    different = [name for name in {**theirs, **ours} if theirs.get(name, _NO_VALUE) != ours.get(name, _NO_VALUE)]
    return "other settings: " + "; ".join(
        f"{name or 'the file'} {theirs.get(name, _NO_VALUE)!s:.200} there, {ours.get(name, _NO_VALUE)} here"
        for name in different
    )


def _flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}.{name}" if prefix else name)
    return flat
