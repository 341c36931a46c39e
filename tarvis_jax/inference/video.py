"""A video file or folder in, result files and an overlay video out."""

import contextlib
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping

import cv2
import numpy as np

from tarvis_jax import datasets
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.frames import FrameSource, open_frames
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.results.formats import Options, davis, kitti_step, youtube_vis
from tarvis_jax.results.panoptic import thing_tracks
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import (
    FrameResult,
    TargetId,
    VideoResult,
    frame_line,
    stream_end,
    stream_start,
    write_tracks,
)
from tarvis_jax.visualize.overlay import draw_result
from tarvis_jax.visualize.video import write_video

MIN_OVERLAY_SIDE = 240  # pixels; overlays of smaller frames are enlarged so that their labels can be read


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a run took; times are wall seconds, and compilations are in `compile_seconds` only.

    `latency_seconds` is the median time from a frame to its result in the last 1000 frames of an online run.
    """

    video: str
    num_frames: int
    num_tracks: int
    model_seconds: float
    segment_seconds: float
    compile_seconds: float
    num_compilations: int
    latency_seconds: float | None = None

    def __str__(self) -> str:
        latency = "" if self.latency_seconds is None else f"results {1e3 * self.latency_seconds:.0f} ms after frames, "
        return (
            f"{self.video}: {self.num_frames} frames, {self.num_tracks} tracks; {latency}"
            f"network {self.num_frames / self.model_seconds:.2f} frames/s, "
            f"with reading and stitching {self.num_frames / self.segment_seconds:.2f} frames/s "
            f"(not counted: {self.compile_seconds:.1f} s for {self.num_compilations} compilations)"
        )


def segment_video(
    predictor: Predictor,
    dataset: str,
    source: FrameSource | str | pathlib.Path | Iterable[np.ndarray],
    out_dir: str | pathlib.Path,
    targets: Iterable[Target] = (),
    spec: datasets.DatasetSpec | None = None,
    config: InferenceConfig | None = None,
    class_names: Mapping[int, str] | None = None,
    min_score: float = 0.3,
    overlays: bool = True,
    online: bool = False,
    clip_batch: int = 1,
) -> tuple[VideoResult, Summary]:
    """Segments a video and writes to `out_dir`:

    - `tracks.json` (see results.tracks) and the format of the task's benchmarks: `youtube_vis.json`, or `panoptic/`
      (KITTI-STEP's PNGs), or `masks/` (DAVIS's palette PNGs, where all ids are
      numbers 1..254);
    - `overlays/*.png` and `overlay.mp4`, if the source can be read a second time. Frames are read again for them, so
      that they need not stay in memory.

    Args:
      predictor, dataset, spec, config: see Session.
      source: anything `open_frames` takes.
      targets: what to follow (VOS, PET). Of several with one id, the first frame's begins the object, and the others
        correct it (`Session.correct_target`).
      class_names: class id 1..K -> name, for the overlays' labels.
      min_score: VIS: tracks below are not drawn (the files have them all).
      overlays: False leaves them out.
      online: gives the frames to `Session.step` one by one, and reports how long a result takes.
      clip_batch: see Session.

    Returns:
      The result, and a summary whose text is one line.

    Raises:
      ValueError: see Session; overlays of a source that can be read only once; two targets of one id and frame.
    """
    frames = open_frames(source)
    if overlays and not frames.is_replayable:
        raise ValueError(f"{frames.name}: overlays need a source that can be read twice, found a generator")
    out_dir = pathlib.Path(out_dir)
    targets = list(targets)
    session = Session(predictor, dataset, spec, config, clip_batch=clip_batch)
    _give_targets(session, targets)
    before = _counters(predictor)
    start = time.perf_counter()
    for _ in map(session.step, frames) if online else session.run(frames):
        pass
    seconds = time.perf_counter() - start
    result = session.result()
    num_compilations, compile_seconds, model_seconds = (
        after - b for after, b in zip(_counters(predictor), before, strict=True)
    )
    write_results(out_dir, result, session.spec, session.config, frames.frame_names)
    if overlays:
        write_overlays(out_dir, _shown(result, session), frames, targets, class_names, min_score)
    summary = Summary(
        video=result.video,
        num_frames=result.num_frames,
        num_tracks=len(result.tracks),
        model_seconds=model_seconds,
        segment_seconds=seconds - compile_seconds,
        compile_seconds=compile_seconds,
        num_compilations=num_compilations,
        latency_seconds=statistics.median(session.step_seconds) if online else None,
    )
    return result, summary


def stream_video(
    session: Session, source: FrameSource | str | pathlib.Path | int | Iterable[np.ndarray], path: str | pathlib.Path
) -> Iterator[FrameResult]:
    """`session.run(source)` that also writes each result to a file as it comes, a line of JSON each.

    With a session of keep_result=False, memory does not grow with the video; `results.tracks.read_stream` reads the
    file. If the caller stops early or goes back (`Session.seek`), the file holds the frames so far and its last line is
    missing.

    Raises:
      ValueError: see Session.run; a session that goes on after `seek`, since the file would lack the frames before.
    """
    if session.next_frame:
        raise ValueError(f"stream_video: the session is at frame {session.next_frame}; expected one at frame 0")
    source = open_frames(source)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    num_frames = 0
    with open(path, "w") as file, contextlib.closing(session.run(source)) as results:
        for result in results:
            if not num_frames:
                file.write(stream_start(source.name, session.dataset, session.size) + "\n")
            file.write(frame_line(result) + "\n")
            num_frames += 1
            yield result
        if session.is_done:
            file.write(stream_end(num_frames) + "\n")


def write_results(
    out_dir: pathlib.Path,
    result: VideoResult,
    spec: datasets.DatasetSpec,
    config: InferenceConfig,
    frame_names: tuple[str, ...] | None = None,
) -> None:
    """Writes tracks.json and the files of the task's benchmarks; see `segment_video`."""
    write_tracks(out_dir / "tracks.json", result)
    digits = 6 if spec.task == datasets.PANOPTIC else 5
    names = frame_names or tuple(f"{frame:0{digits}d}" for frame in range(result.num_frames))
    if spec.task == datasets.INSTANCE:
        youtube_vis.write_file(out_dir / "youtube_vis.json", [(1, result)], config.max_predictions)
    elif spec.task == datasets.PANOPTIC:
        options = Options(thing_classes=spec.thing_classes, score_threshold=config.score_threshold)
        kitti_step.write_frames(out_dir / "panoptic", result, names, options, max_id=2**16 - 1)
    elif all(isinstance(track.id, int) and 1 <= track.id <= davis.MAX_ID for track in result.tracks):
        davis.write_frames(out_dir / "masks", result, names)


def write_overlays(
    out_dir: pathlib.Path,
    result: VideoResult,
    frames: FrameSource,
    targets: Iterable[Target] = (),
    class_names: Mapping[int, str] | None = None,
    min_score: float = 0.0,
) -> None:
    """Reads the frames again and writes `overlays/<frame>.png` and `overlay.mp4`; small frames are enlarged."""
    scale = -(-MIN_OVERLAY_SIDE // min(result.size))
    folder = out_dir / "overlays"
    folder.mkdir(parents=True, exist_ok=True)
    targets = list(targets)

    def drawn() -> Iterator[np.ndarray]:
        for index, frame in enumerate(frames):
            image = draw_result(
                frame, result, index, class_names=class_names, min_score=min_score, targets=targets, scale=scale
            )
            name = frames.frame_names[index] if frames.frame_names else f"{index:05d}"
            if not cv2.imwrite(str(folder / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
                raise OSError(f"{folder / name}.png: could not be written")
            yield image

    write_video(out_dir / "overlay.mp4", drawn(), fps=frames.frames_per_second or 10.0)


def _give_targets(session: Session, targets: Iterable[Target]) -> None:
    """Of the targets with one id, the earliest is added, and the others correct it."""
    by_id: dict[TargetId, dict[int, Target]] = {}
    for target in targets:
        of_id = by_id.setdefault(target.id, {})
        if target.frame in of_id:
            raise ValueError(f"target {target.id!r}: given twice in frame {target.frame}")
        of_id[target.frame] = target
    for of_id in by_id.values():
        first, *corrections = (of_id[frame] for frame in sorted(of_id))
        session.add_target(first.frame, first.id, first.mask, first.point_yx)
        for each in corrections:
            session.correct_target(each.frame, each.id, each.mask, each.point_yx)


def _counters(predictor: Predictor) -> tuple[int, float, float]:
    return predictor.programs.num_compilations, predictor.programs.compile_seconds, predictor.model_seconds


def _shown(result: VideoResult, session: Session) -> VideoResult:
    """The result with only the tracks that its task's output has: in a panoptic map, things above the threshold."""
    if session.spec.task != datasets.PANOPTIC:
        return result
    tracks = thing_tracks(result, session.spec.thing_classes, session.config.score_threshold)
    return dataclasses.replace(result, tracks=tracks)
