"""One visitor's work, without any web page: a clip, what is given in it, a run that can be stopped, and its results."""

import contextlib
import dataclasses
import math
import pathlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from absl import logging

from tarvis_jax.api import TASKS, Model
from tarvis_jax.datasets import EXEMPLAR, PANOPTIC, DatasetSpec
from tarvis_jax.demo import downloads
from tarvis_jax.demo.uploads import Clip
from tarvis_jax.inference.session import Session
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.formats import Options
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import FrameObject, FrameResult, Track, TrackEnd, VideoResult, encode_semantic
from tarvis_jax.visualize.overlay import draw_result

MAX_TARGETS = 100
MAX_STROKE_POINTS = 10_000
MIN_DRAWN_SIDE, MAX_DRAWN_SIDE = 480, 1280  # pixels; frames are drawn enlarged, or reduced, to about these
INSTANCE_SCORE = 0.3  # VIS: weaker tracks are neither drawn nor listed
_RATE_FRAMES = 50  # frames that the speed is measured over


@dataclasses.dataclass(frozen=True)
class TrackSummary:
    """One track of the results so far, or a target that waits for a run.

    Attributes:
      id: 1, 2, ...
      class_name: None for given targets.
      score: softmax probability of the class, so far; None for given targets.
      frames: first and last frame with a pixel of it, or None before it has one.
      given: frames in which it is given.
    """

    id: int
    class_name: str | None
    score: float | None
    frames: tuple[int, int] | None
    given: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
      done, total: frames with results, frames of the clip.
      frames_per_second: of the last frames of this run, None before there are two of them.
      is_running: whether the run goes on.
      next_frame: first frame that the next run would compute; `total` if all is done.
      error: why the last run ended, in words for the visitor; "" if it did not fail.
    """

    done: int
    total: int
    frames_per_second: float | None
    is_running: bool
    next_frame: int
    error: str


@dataclasses.dataclass(frozen=True)
class _Record:
    """The result of a frame, compact."""

    objects: tuple[FrameObject, ...]
    semantic: dict[int, Rle] | None
    ended: tuple[TrackEnd, ...]


class Workbench:
    """One visitor's clip, task, dataset, targets, session and results.

        bench = Workbench(model, folder)
        bench.load(clip)
        bench.choose("vos")
        bench.point(frame=0, id=bench.add_target(), point_yx=(30, 40))
        bench.run()  # in a thread
        revision = 0
        while bench.progress().is_running:
            revision = bench.wait(revision)
            image = bench.draw(bench.progress().done - 1)

    Methods may be called from any thread. What changes the work (another clip, task or target) stops a run first. The
    results stay; the next `run` goes on from the first frame that the change concerns.

    A mistake of the visitor's is a ValueError whose text is made for them, and leaves all as it was.

    Attributes:
      folder: for files of this visitor.
      clip: the clip, or None before one is there.
      task, dataset: what is looked for.
    """

    def __init__(self, model: Model, folder: pathlib.Path):
        self.folder = folder
        self.clip: Clip | None = None
        self.task = self.dataset = ""
        self._model = model
        self._changed = threading.Condition(threading.RLock())  # guards all that follows
        self._revision = 0
        self._given: dict[int, dict[int, Target]] = {}  # id -> frame -> what is given there
        self._session: Session | None = None
        self._known: dict[int, dict[int, Target]] = {}  # what the session was told of `_given`
        self._records: list[_Record] = []
        self._tracks: dict[int, TrackSummary] = {}  # of `_records`
        self._stuff: set[int] = set()  # of `_records`
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._is_closed = False
        self._times: deque[float] = deque(maxlen=_RATE_FRAMES)
        self._error = ""
        for task in ("pet", "vos", "vis", "vps"):
            if self.datasets(task):
                self.choose(task)
                break

    # What is looked for, and in what.

    def datasets(self, task: str) -> list[str]:
        """The model's datasets of a task, "vis", "vps", "vos" or "pet"."""
        wanted = TASKS[task]
        return sorted(n for n, i in self._model.datasets.items() if (i.spec.task, i.spec.exemplar) == wanted)

    @property
    def spec(self) -> DatasetSpec:
        """Task and classes of the dataset."""
        return self._model.datasets[self.dataset].spec

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of class 1..K; () where they are not known."""
        return self._model.datasets[self.dataset].class_names

    @property
    def takes_targets(self) -> bool:
        """Whether targets are given (VOS, PET) or found (VIS, VPS)."""
        return self.spec.task == EXEMPLAR

    @property
    def options(self) -> Options:
        """Which tracks are shown and downloaded, see `downloads.shown`."""
        threshold = self._model.datasets[self.dataset].inference.score_threshold
        return Options(
            class_names=self.class_names,
            thing_classes=self.spec.thing_classes,
            score_threshold=threshold if self.spec.task == PANOPTIC else INSTANCE_SCORE,
        )

    def load(self, clip: Clip) -> None:
        """Another clip; targets and results of the one before are dropped."""
        with self._edit():
            self.clip = clip
            self._given = {}
            self._drop_results()

    def choose(self, task: str, dataset: str | None = None) -> None:
        """Another task or dataset, on the same weights. Results are dropped, targets stay.

        Args:
          dataset: one of `datasets(task)`; None: the first.

        Raises:
          ValueError: an unknown task, or a dataset that the model does not have for it.
        """
        if task not in TASKS:
            raise ValueError(f"There is no task {task!r:.40}; there are {', '.join(TASKS)}.")
        known = self.datasets(task)
        if not known:
            raise ValueError(f"This model has no dataset of the task {task.upper()}.")
        if dataset is not None and dataset not in known:
            raise ValueError(f"This model has no dataset {dataset!r:.40} of the task {task.upper()}.")
        dataset = dataset or known[0]
        if (task, dataset) == (self.task, self.dataset):
            return
        with self._edit():
            self.task, self.dataset = task, dataset
            self._drop_results()

    # Targets.

    @property
    def target_ids(self) -> list[int]:
        with self._changed:
            return sorted(self._given)

    def add_target(self) -> int:
        """A new target, in which nothing is given yet; returns its id."""
        with self._edit():
            self._check_takes_targets()
            if len(self._given) >= MAX_TARGETS:
                raise ValueError(f"There are {MAX_TARGETS} targets already, which is the most that this page takes.")
            new = max([*self._given, *self._known], default=0) + 1
            self._given[new] = {}
            return new

    def remove_target(self, id: int) -> None:
        """Stops following a target; it vanishes from the results, too."""
        with self._edit():
            self._check_target(id)
            del self._given[id]
            self._records = [
                dataclasses.replace(each, objects=tuple(o for o in each.objects if o.id != id))
                for each in self._records
            ]
            self._tracks.pop(id, None)

    def point(self, frame: int, id: int, point_yx: Sequence[float]) -> None:
        """Gives a target by a point (y, x) on it, in pixels of the frame; a mask or point given there is replaced."""
        with self._edit():
            self._check_place(frame, id)
            height, width = self.clip.size
            y, x = _numbers([point_yx])[0]
            if not (0 <= y < height and 0 <= x < width):
                raise ValueError(
                    f"The point y = {y:g}, x = {x:g} lies outside of the frame: "
                    f"y goes from 0 to {height - 1}, x from 0 to {width - 1}."
                )
            self._given[id][frame] = Target(frame, id, point_yx=(y, x))

    def stroke(
        self, frame: int, id: int, points_yx: Sequence[Sequence[float]], width: float, erase: bool = False
    ) -> None:
        """Paints or erases along a line, and so gives a target by a mask.

        The mask starts as what is given in this frame, or else as what the results say of the target there, or empty.

        Args:
          points_yx: the corners of the line, in pixels of the frame; one makes a dab.
          width: of the brush, in pixels.

        Raises:
          ValueError: numbers that are none, too many of them, or nothing of the mask is left.
        """
        with self._edit():
            self._check_place(frame, id)
            if not 0 < len(points_yx) <= MAX_STROKE_POINTS:
                raise ValueError(f"A stroke has 1 to {MAX_STROKE_POINTS} points; this one has {len(points_yx)}.")
            side = max(self.clip.size)
            width = min(max(1, round(_numbers([[width, 0]])[0][0])), 3 * side)
            mask = np.array(self.mask(frame, id), np.uint8, order="C")
            corners = [(round(x), round(y)) for y, x in np.clip(_numbers(points_yx), -2 * side, 2 * side)]
            for start, end in zip(corners, corners[1:], strict=False):
                cv2.line(mask, start, end, 0 if erase else 1, width)
            for corner in corners:
                cv2.circle(mask, corner, width // 2, 0 if erase else 1, -1)
            if not mask.any():
                raise ValueError(
                    f"Nothing of target {id} would be left in frame {frame}, and an empty mask gives nothing. "
                    "Remove the target to stop following it."
                )
            self._given[id][frame] = Target(frame, id, mask=mask > 0)

    def clear(self, frame: int, id: int) -> None:
        """Takes back what is given of a target in a frame. If a run has used it, the next run starts over."""
        with self._edit():
            self._check_place(frame, id)
            if frame not in self._given[id]:
                raise ValueError(f"Nothing is given of target {id} in frame {frame}.")
            del self._given[id][frame]
            if frame in self._known.get(id, {}):
                self._drop_results()

    def mask(self, frame: int, id: int) -> np.ndarray:
        """bool [H, W]: the mask of a target in a frame: given, or from the results, or empty."""
        with self._changed:
            target = self._given.get(id, {}).get(frame)
            if target is not None and target.mask is not None:
                return target.mask
            if frame < len(self._records):
                for each in self._records[frame].objects:
                    if each.id == id:
                        return each.mask
            return np.zeros(self.clip.size, bool)

    # Runs.

    def run(self) -> None:
        """Computes in a thread, from the first frame that is not done or that a change concerns.

        Raises:
          ValueError: no clip, no target, a target with nothing given, a run that goes on, nothing left to do, or
            `close` was called.
        """
        with self._changed:
            if self._is_closed:
                raise ValueError("This page was closed on the server: load it again.")
            if self.is_running:
                raise ValueError("The run goes on already.")
            self._check_clip()
            if self.takes_targets:
                if not self._given:
                    raise ValueError("No target is given: click on an object, or paint it.")
                empty = [str(id) for id, by_frame in sorted(self._given.items()) if not by_frame]
                if empty:
                    raise ValueError(
                        f"Nothing is given of target {', '.join(empty)}: click on it, paint it, or remove it."
                    )
            start = self._next_frame()
            if start >= self.clip.num_frames:
                raise ValueError("All frames are done. Correct a target, or choose another task or clip.")
            try:
                self._tell_session(start)
            except ValueError:
                self._drop_results()
                raise
            self._stop = threading.Event()
            self._times.clear()
            self._error = ""
            self._thread = threading.Thread(target=self._work, name="run", daemon=True)
            self._thread.start()
            self._bump()

    def stop(self) -> None:
        """Ends a run after the frame that is being handed out, and waits for that; frames that are done stay."""
        thread = self._thread
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def close(self) -> None:
        """Ends a run soon, without waiting for it; there is no other one after that."""
        with self._changed:
            self._is_closed = True
        self._stop.set()

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def wait(self, revision: int, timeout: float = 1.0) -> int:
        """Waits until something has changed since `revision`, at most `timeout` seconds; returns the new revision."""
        with self._changed:
            self._changed.wait_for(lambda: self._revision != revision, timeout)
            return self._revision

    def _work(self) -> None:
        """The thread of a run."""
        session, stop, error = self._session, self._stop, ""
        try:
            with contextlib.closing(session.run(self.clip.folder)) as results:
                for result in results:
                    self._add(result)
                    if stop.is_set():
                        break
        except ValueError as problem:
            error = str(problem)
        except Exception:
            logging.exception("a run of the demo failed")
            error = "The run failed because of an error in the program; the server's log has its traceback."
        with self._changed:
            self._error = error
            self._thread = None
            if error:
                self._session = None  # the next run begins with a new one
            self._bump()

    def _add(self, result: FrameResult) -> None:
        semantic = None if result.semantic is None else encode_semantic(result.semantic)
        with self._changed:
            if result.frame != len(self._records):
                raise AssertionError(f"expected frame {len(self._records)} of the session, found {result.frame}")
            record = _Record(result.objects, semantic, result.ended)
            self._records.append(record)
            self._summarize(result.frame, record)
            self._times.append(time.monotonic())
            self._bump()

    def _next_frame(self) -> int:
        """First frame that the next run computes."""
        start = len(self._records) if self._session is not None else 0
        if not self.takes_targets:
            return start
        for id in self._given.keys() | self._known.keys():
            given, known = self._given.get(id, {}), self._known.get(id, {})
            start = min([start, *(frame for frame, target in given.items() if known.get(frame) is not target)])
        return start

    def _tell_session(self, start: int) -> None:
        """Makes the session ready to run from frame `start` on, with the targets as they are given."""
        if self._session is None:
            self._drop_results()
            info = self._model.datasets[self.dataset]
            # Clips come in all sizes: with the table they share few programs.
            inference = dataclasses.replace(info.inference, size_table=True)
            self._session = Session(
                self._model.predictor, self.dataset, info.spec, inference, info.class_names, keep_result=False
            )
        else:
            self._session.seek(start)
            del self._records[start:]
            self._tracks, self._stuff = {}, set()
            for frame, record in enumerate(self._records):
                self._summarize(frame, record)
        if not self.takes_targets:
            return
        for id in self._known.keys() - self._given.keys():
            self._session.remove_target(id)
        for id, by_frame in self._given.items():
            known = self._known.get(id, {})
            is_new = not known
            for frame, target in sorted(by_frame.items()):
                if known.get(frame) is not target:
                    give = self._session.add_target if is_new else self._session.correct_target
                    give(frame, id, mask=target.mask, point_yx=target.point_yx)
                is_new = False
        self._known = {id: dict(by_frame) for id, by_frame in self._given.items()}

    # What there is to see.

    def progress(self) -> Progress:
        with self._changed:
            times = self._times
            seconds = times[-1] - times[0] if len(times) > 1 else 0.0
            return Progress(
                done=len(self._records),
                total=self.clip.num_frames if self.clip else 0,
                frames_per_second=(len(times) - 1) / seconds if seconds > 0 else None,
                is_running=self.is_running,
                next_frame=self._next_frame(),
                error=self._error,
            )

    def tracks(self) -> list[TrackSummary]:
        """Tracks of the results so far that are shown, and all targets; by number."""
        with self._changed:
            given = self._given if self.takes_targets else {}
            found = dict(self._tracks)
            for id, by_frame in given.items():
                each = found.get(id, TrackSummary(id, None, None, None))
                found[id] = dataclasses.replace(each, given=tuple(sorted(by_frame)))
            threshold = self.options.score_threshold
            return [each for _, each in sorted(found.items()) if each.score is None or each.score > threshold]

    def stuff(self) -> dict[int, str]:
        """VPS: the stuff classes (0..K-1) of the results so far, with their names."""
        with self._changed:
            names = self.class_names
            things = self.spec.thing_classes
            return {i: names[i] if names else f"class {i + 1}" for i in sorted(self._stuff) if i not in things}

    def results(self) -> VideoResult:
        """All tracks of the frames that are done.

        Raises:
          ValueError: none is done.
        """
        with self._changed:
            if not self._records:
                raise ValueError("There are no results yet: press Run first.")
            return self._result(range(len(self._records)))

    def draw(self, frame: int) -> np.ndarray:
        """A frame with its results and with what is given in it, uint8 RGB; small frames are enlarged, large reduced.

        What is given covers what the results say of the same target.

        Raises:
          ValueError: no clip, or it has no such frame.
        """
        with self._changed:
            self._check_clip(frame)
            clip, options = self.clip, self.options
            result = self._result(range(frame, frame + 1) if frame < len(self._records) else range(0))
            given = [by_frame[frame] for by_frame in self._given.values() if frame in by_frame]
        image = cv2.imread(str(clip.folder / f"{frame:06d}.jpg"))
        if image is None:
            raise ValueError(f"Frame {frame} of the clip cannot be read any more; choose the clip again.")
        height, width = clip.size
        result = downloads.shown(result, options)
        result.tracks = [each for each in result.tracks if any(each.segmentations)]
        if not self.takes_targets:
            given = []
        masks = {target.id: rle.encode(target.mask) for target in given if target.mask is not None}
        result.tracks = [each for each in result.tracks if each.id not in masks]
        result.tracks += [Track(id, [encoded]) for id, encoded in masks.items()]
        return draw_result(
            image[..., ::-1],
            result,
            0,
            class_names=dict(enumerate(self.class_names, start=1)),
            targets=[dataclasses.replace(target, frame=0) for target in given],
            scale=_drawn_scale(height, width),
        )

    def _result(self, frames: range) -> VideoResult:
        """Tracks of some frames that are done, with classes and scores as they are known by now."""
        records = [self._records[frame] for frame in frames]
        tracks: dict[int, Track] = {}
        for index, record in enumerate(records):
            for each in record.objects:
                track = tracks.setdefault(each.id, Track(each.id, [None] * len(records)))
                track.segmentations[index] = each.rle
                track.class_id, track.score = each.class_id, each.score
        for end in (end for record in self._records for end in record.ended):
            track = tracks.setdefault(end.id, Track(end.id, [None] * len(records)))
            track.class_logits, track.class_id, track.score = list(end.class_logits), end.class_id, end.score
        for id in self._known.keys() & self._given.keys():
            tracks.setdefault(id, Track(id, [None] * len(records)))
        semantic = [record.semantic for record in records] if records and self.spec.task == PANOPTIC else None
        ordered = [track for _, track in sorted(tracks.items())]
        return VideoResult(self.clip.name, self.dataset, self.clip.size, len(records), ordered, semantic)

    def _summarize(self, frame: int, record: _Record) -> None:
        """Adds a frame to `_tracks` and `_stuff`."""
        self._stuff.update(record.semantic or ())
        for each in record.objects:
            if not each.is_thing:
                continue
            before = self._tracks.get(each.id)
            first = before.frames[0] if before else frame
            has_class = each.class_id is not None
            name = (each.class_name or f"class {each.class_id}") if has_class else None
            self._tracks[each.id] = TrackSummary(each.id, name, each.score if has_class else None, (first, frame))
        for end in record.ended:
            if end.id in self._tracks:
                names = self.class_names
                name = names[end.class_id - 1] if names else f"class {end.class_id}"
                self._tracks[end.id] = dataclasses.replace(self._tracks[end.id], class_name=name, score=end.score)

    # Order.

    @contextlib.contextmanager
    def _edit(self) -> Iterator[None]:
        """A change of the work: no run goes on inside, and who waits is told afterwards."""
        self.stop()
        with self._changed:
            if self.is_running:
                raise ValueError("A run was started at the same moment: try again.")
            yield
            self._error = ""
            self._bump()

    def _bump(self) -> None:
        self._revision += 1
        self._changed.notify_all()

    def _drop_results(self) -> None:
        self._session = None
        self._known, self._records, self._tracks, self._stuff = {}, [], {}, set()
        self._times.clear()

    def _check_clip(self, frame: int = 0) -> None:
        if self.clip is None:
            raise ValueError("There is no clip yet: choose a sample or upload one.")
        if not 0 <= frame < self.clip.num_frames:
            raise ValueError(f"The clip has frames 0 to {self.clip.num_frames - 1}, and no frame {frame}.")

    def _check_takes_targets(self) -> None:
        if not self.takes_targets:
            raise ValueError(
                f"{self.task.upper()} finds objects by itself. Choose the task VOS or PET to follow what you point at."
            )

    def _check_target(self, id: int) -> None:
        self._check_takes_targets()
        if id not in self._given:
            raise ValueError(f"There is no target {id}." if self._given else "There is no target yet: add one first.")

    def _check_place(self, frame: int, id: int) -> None:
        self._check_clip(frame)
        self._check_target(id)


def _drawn_scale(height: int, width: int) -> float:
    """What `draw` multiplies the size of frames by: a whole number, or a fraction below 1."""
    if max(height, width) > MAX_DRAWN_SIDE:
        return MAX_DRAWN_SIDE / max(height, width)
    return max(1, min(-(-MIN_DRAWN_SIDE // min(height, width)), MAX_DRAWN_SIDE // max(height, width)))


def _numbers(points: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Pairs of finite numbers from what a browser sent."""
    try:
        pairs = [(float(first), float(second)) for first, second in points]
    except (TypeError, ValueError):
        raise ValueError("Expected pairs of numbers, y and x.") from None
    if not all(math.isfinite(value) for pair in pairs for value in pair):
        raise ValueError("Expected finite numbers for y and x.")
    return pairs
