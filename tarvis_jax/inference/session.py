"""One video through the network, clip by clip: targets in, tracks out, each frame as soon as it is final."""

import contextlib
import dataclasses
import itertools
import operator
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from tarvis_jax import datasets
from tarvis_jax.ahead import RunAhead
from tarvis_jax.inference import clips
from tarvis_jax.inference.class_pipeline import ClassPipeline
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.inference.frames import FrameSource, check_frame, open_frames
from tarvis_jax.inference.history import History
from tarvis_jax.inference.object_pipeline import ObjectPipeline
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.targets import Targets
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import FrameResult, TargetId, Track, TrackEnd, VideoResult, encode_semantic

_NO_CORRECTED_STEPS = (
    "correct_target: a session that steps knows no corrections; remove_target and then add_target give the object "
    "anew, from the frame of the next step on"
)


def _nothing() -> None:
    """A reference to no run."""


class Session:
    """Segments one video.

        session = model.session("vos")  # or Session(predictor, "DAVIS")
        session.add_target(frame_index=0, id="dog", mask=mask)
        for frame_result in session.run("frames/"):
            for each in frame_result.objects:
                print(frame_result.frame, each.id, each.mask.sum())
        tracks = session.result().tracks

    Objects may be added, corrected and removed while the video runs (between two frame results): in frames that are
    not segmented yet, see `earliest_target_frame`. `seek` goes back to frames that are.

    A camera whose results are wanted at once gives its frames one by one, to `step`, in the place of `run`.

    It keeps what was given, the order of the clips, and the results; a pipeline (class_pipeline.py, object_pipeline.py)
    turns a clip into final frames.

    In memory are the network's input frames of a few clips, stride-4 logits of the frames that are not final, and RLEs.
    What `seek` needs is in a temporary file, where the frames can be read again.

    Attributes:
      step_seconds: how long the last calls of `step` took, at most 1000 of them, without the compilations.
    """

    def __init__(
        self,
        predictor: Predictor,
        dataset: str,
        spec: datasets.DatasetSpec | None = None,
        config: InferenceConfig | None = None,
        class_names: Sequence[str] = (),
        keep_result: bool = True,
        clip_batch: int = 1,
    ):
        """Args:
          predictor: the network.
          dataset: decides the semantic queries and, by default, `spec` and `config`.
          spec: task and classes; default: those of the table's dataset of that name.
          config: default: the settings of the table's dataset of that name.
          class_names: of classes 1..K, for the results; () leaves their names None.
          keep_result: False for endless streams: RLEs are handed out and forgotten, and there is no `result()`;
            `FrameResult.ended` says of each track when it is over.
          clip_batch: VIS and VPS: at most so many successive clips go through the network at once in `run`, and their
            frames are handed out one after the other; 0: as many of 1, 2, 4 and 8 as the device has memory for (1 on a
            CPU). Clips of sources that are read only once, such as cameras, go one by one, and so do those of VOS and
            PET, since each needs the one before.

        Raises:
          ValueError: a negative `clip_batch`, unknown dataset, one of a task that sessions do not know, or a panoptic
            one without thing classes or without stuff classes.
        """
        self.dataset = dataset
        self.spec = spec or datasets.lookup(dataset).spec
        self.config = config or default_inference(dataset)
        self.class_names = tuple(class_names)
        self._predictor = predictor
        self._keep_result = keep_result
        if clip_batch < 0:
            raise ValueError(f"clip_batch: expected 1 or more, or 0 for as many as fit, found {clip_batch}")
        self._clip_batch = clip_batch
        self._targets = Targets()
        self._pipeline = self.make_pipeline(predictor, self._targets)
        self._state: _Run | None = None
        self._running: Callable[[], Iterator[FrameResult] | None] = _nothing  # a weak reference to what `run` gave
        self.step_seconds: deque[float] = deque(maxlen=1000)

    def make_pipeline(self, predictor: Predictor, targets: Targets) -> ClassPipeline | ObjectPipeline:
        """What segments this session's clips; `targets` are those that are given, at any time of the run."""
        if self.spec.task == datasets.EXEMPLAR:
            return ObjectPipeline(predictor, targets)
        if self.spec.task in (datasets.INSTANCE, datasets.PANOPTIC):
            return ClassPipeline(predictor, self.dataset, self.spec, self.config, self.class_names)
        raise ValueError(f"{self.dataset}: sessions do not know its task {self.spec.task!r}")

    @property
    def earliest_target_frame(self) -> int:
        """First frame that a target can be given in: 0 before `run`, then the first that no clip has covered for good.

        A frame is segmented before it is handed out, so this is greater than the number of the last frame result.
        After `seek`, it is the frame that was gone back to.
        """
        return 0 if self._state is None else self._state.earliest_target_frame

    @property
    def next_frame(self) -> int:
        """Number of the next frame result: 0 before `run`, and after `seek` the frame that was gone back to."""
        return 0 if self._state is None else self._state.next_frame

    @property
    def history_bytes(self) -> int:
        """What `seek` keeps on disk."""
        return 0 if self._state is None or self._state.history is None else self._state.history.num_bytes

    @property
    def is_done(self) -> bool:
        """Whether the whole video was run, so that there is a `result()`."""
        return self._state is not None and self._state.is_done

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames; raises ValueError before the first one was read."""
        if self._state is None or self._state.geometry is None:
            raise ValueError("size: no frame was read yet")
        return self._state.geometry.original

    def add_target(
        self,
        frame_index: int,
        id: TargetId,
        mask: np.ndarray | None = None,
        point_yx: tuple[float, float] | None = None,
    ) -> None:
        """Gives an object to follow (VOS, PET), before `run`, between two of its frame results or after `seek`.

        All clips that have the frame and are computed after this call know the object. Its presence may change what
        they say of other objects, in the frames before, too; of these, what was handed out stays as it is.

        Args:
          frame_index: frame it is given in; it is segmented from there on.
          id: the caller's, a whole number or a string, kept in all results.
          mask: bool (or 0/1) [H, W] at the original frame size.
          point_yx: pixel (y, x) on the object, original frame; (0, 0) is the first pixel.

        Raises:
          ValueError: not an exemplar dataset, an id of another type or given twice, a negative frame, an empty mask,
            not exactly one of mask and point; during a run also a frame before `earliest_target_frame`, which is
            final: `seek` goes back. Before a run, sizes and frame numbers are checked when the video is read.
        """
        self._check_takes_targets("add_target")
        target = self._target(frame_index, id, mask, point_yx)
        if target.id in self._targets:
            given = self._targets[target.id].frame
            raise ValueError(
                f"target {target.id!r}: given twice (frames {given} and {target.frame}); correct_target gives it anew"
            )
        self._check_fits(target)
        self._targets.add(target)

    def correct_target(
        self,
        frame_index: int,
        id: TargetId,
        mask: np.ndarray | None = None,
        point_yx: tuple[float, float] | None = None,
    ) -> None:
        """Gives an object anew under its own id, whether it is lost or not; when and where `add_target` may be called.

        A clip begins at `frame_index`. From there on the object is what is given here, and nothing that was known of
        it before counts. Frames before stay as they are without the correction, and so do the other objects until
        that clip: they go on from what the clips before say of them. So a session has the same results, bit for bit,
        whether corrections are given before it runs or after `seek`.

        An object may be corrected in several frames. A correction of the same frame replaces the one before, and
        `remove_target` removes all. An object may also be corrected in a frame before that of `add_target`: it begins
        there, and its first target is another correction.

        Args:
          frame_index, mask, point_yx: as in `add_target`.
          id: of an object that was added.

        Raises:
          ValueError: as in `add_target`; an unknown id; a session that steps.
        """
        self._check_takes_targets("correct_target")
        target = self._target(frame_index, id, mask, point_yx)
        self._check_known(target.id)
        if self._state is not None and self._state.steps is not None:
            raise ValueError(_NO_CORRECTED_STEPS)
        self._check_fits(target)
        self._targets.correct(target)

    def remove_target(self, id: TargetId) -> None:
        """Stops following an object, before `run` or between two frame results; the next ones are without it.

        Its corrections go, too, and its id may be given again. `result()` keeps what was already handed out of it.

        Raises:
          ValueError: not an exemplar dataset, an unknown id, or the run is over.
        """
        self._check_takes_targets("remove_target")
        self._check_known(id)
        if self._state is not None:
            self._state.forget_next_clip()
            self._state.removed[id] = self._state.earliest_target_frame + 1
            self._pipeline.forget(id)
        self._targets.remove(id)

    def seek(self, frame: int) -> None:
        """Goes back: the next `run`, of the same source, yields from `frame` on.

        Results of `frame` and of later frames are forgotten. What the caller gave stays given, in later frames, too,
        and targets may be added, corrected and removed from `frame` on. It may be called between two frame results,
        which ends that run, after the loop was left, and after the end. If nothing is given or removed, the results
        are the same once more, bit for bit, with the numbers of the tracks; with a `clip_batch` other than 1, up to
        rounding, since clips go through the network in other groups.

        What is needed to go back is small and kept in a temporary file for each clip: the masks that it took over from
        the clip before (VOS, PET), or the numbers of the tracks and their class logits (VIS, VPS). The rest is
        recomputed: the clips that share frames with the one of `frame`, of which there are
        ceil(overlap / (clip_length - overlap)), one for half a clip. With a clip_length that is no multiple of
        clip_length - overlap, those that share frames with the first of these are recomputed, too.

        With keep_result=False there is nothing to forget: what was handed out of these frames is the caller's to drop,
        and tracks that end there are told again.

        Args:
          frame: 0 up to the first that was not handed out (a finished video has none).

        Raises:
          ValueError: another frame, nothing ran yet, a session that steps, or frames that cannot be read again (a
            camera or a generator).
        """
        state, frame = self._state, operator.index(frame)
        if state is None:
            raise ValueError(f"seek: frame {frame}: nothing was run yet")
        if state.steps is not None:
            raise ValueError("seek: this session steps; to go back, give the frames to run, in a new session")
        if state.history is None:
            raise ValueError(f"seek: {state.video} cannot be read again; expected a folder, a file or a list of arrays")
        last = state.next_frame - state.is_done
        if not 0 <= frame <= last:
            raise ValueError(f"seek: expected a frame in 0..{last}, those that were run, found {frame}")
        if (running := self._running()) is not None:
            running.close()
        self._running = _nothing
        self._forget_from(frame)
        state.next_frame = state.earliest_target_frame = frame
        state.is_done = state.is_over = False
        state.clips = None
        self._pipeline = self.make_pipeline(self._predictor, self._targets)
        state.restart = self._rewind(state.history.covering(frame))

    def _rewind(self, clip: int) -> int:
        """Brings a new pipeline to where it can go on to a clip; returns the number of the clip to begin with."""
        history, config = self._state.history, self.config
        if clip <= 0:
            return 0
        start = history.first_sharing(history.first[clip])
        if config.clip_length % (config.clip_length - config.overlap):
            # The features of frames depend, by rounding, on those that they are computed together with.
            start = history.first_sharing(history.first[start])
        self._pipeline.rewind(history, range(start, clip + 1), self._state.removed)
        return start

    def run(self, frames: FrameSource | str | int | Iterable[np.ndarray]) -> Iterator[FrameResult]:
        """Yields one FrameResult per frame, in order, as soon as no later clip can change it.

        Args:
          frames: anything `open_frames` takes; after `seek`, the same as before.

        Files and cameras are decoded ahead by a thread, and the network works on the next clip while the caller takes
        the results of this one. (VOS and PET: from the second result of a clip on; if targets then change, the clip is
        computed again.) Arrays are taken one clip at a time, when they are needed.

        A session runs once, and again after `seek`. The caller may stop early (leave the loop, or close the iterator):
        what was handed out is final, the threads end, and there is no `result()`.

        Raises:
          ValueError: bad frames, or a target that does not fit the video. Results handed out before stay final.
        """
        if self._running() is not None:
            raise ValueError("run: this session already ran; seek goes back, a new session takes another video")
        results = self._run(open_frames(frames))
        self._running = weakref.ref(results)
        return results

    def _run(self, source: FrameSource) -> Iterator[FrameResult]:
        state = self._begin(source)
        first_frame = self._first_frame()
        start = 0 if state.restart is None else first_frame
        if state.history is not None:
            state.history.truncate(state.restart or 0)
            state.removed = {each: min(frame, first_frame) for each, frame in state.removed.items()}
        state.num_frames = start
        schedule = (self.config.clip_length, self.config.overlap, first_frame, self._targets.cuts, start)
        pipeline = self._pipeline
        try:
            with contextlib.ExitStack() as stack:
                most = self._most_clips(source)
                has_room = lambda group: self._clip_batch > 0 or pipeline.has_room(group, state.geometry)  # noqa: E731
                upcoming = clips.iterate_clips(self._prepare(source, start, most, stack), *schedule)
                groups = clips.group_clips(upcoming, most, has_room)
                forward = lambda group: _forward(pipeline, group, state.geometry)  # noqa: E731
                state.clips = stack.enter_context(ClipsAhead(groups, forward, source.is_decoded))
                try:
                    for clip, output in state.clips:
                        if state.history is not None:
                            state.history.append(clip.first, clip.end, pipeline.bookmark(output))
                        pipeline.add(clip, state.geometry, output)
                        end = clip.next_first(self._targets.cuts())
                        pipeline.drop(range(clip.first, min(state.next_frame, end)))  # handed out before `seek`
                        final = range(state.next_frame, end)
                        state.earliest_target_frame = max(end, state.next_frame)
                        if not pipeline.takes_targets:
                            state.clips.begin_next()
                        if not final:
                            pipeline.take_ended()
                        for frame in pipeline.draw(final, state.geometry):
                            if frame.frame == final[-1]:
                                frame = dataclasses.replace(frame, ended=pipeline.take_ended())
                            self._keep(frame)
                            state.next_frame = frame.frame + 1
                            yield frame
                            state.clips.begin_next()
                finally:
                    state.clips.close()
            self._check_target_frames(source.name, state.num_frames)
            state.is_done = True
        finally:
            state.is_over = True
            self._pipeline = None  # with the logits of frames that nobody asked for

    def _begin(self, source: FrameSource) -> "_Run":
        """Checks that `source` can be run, and returns what the run accumulates."""
        state = self._state
        if state is not None and (state.is_over or state.steps is not None):
            raise ValueError("run: this session already ran; seek goes back, a new session takes another video")
        if state is None:
            if self.spec.task == datasets.EXEMPLAR and not self._targets:
                raise ValueError(f"{self.dataset}: no target was given; call add_target first")
            history = History() if source.is_replayable else None
            state = _Run(source.name, source.num_frames, history=history)
        elif not source.is_replayable:
            raise ValueError(
                f"run: after seek expected the same source as before, which was {state.video}; "
                f"found {source.name}, which can be read only once"
            )
        elif source.num_frames != state.total_frames:
            raise ValueError(
                f"run: after seek expected the same source as before: {state.video} had {state.total_frames} frames, "
                f"{source.name} has {source.num_frames}"
            )
        self._check_target_frames(source.name, source.num_frames)
        self._state = state
        return state

    def _first_frame(self) -> int:
        """Where the first clip begins: at the first target, or where the run goes on."""
        state = self._state
        if state.restart is not None and state.history and state.next_frame > state.history.first[0]:
            return state.history.first[state.restart]
        return min((target.frame for target in self._targets), default=0)

    def step(self, frame: np.ndarray) -> FrameResult:
        """Takes one frame and gives its result, at once.

        The network sees the frame and the clip_length - 1 before it, so the clips are those of `run` with
        overlap = clip_length - 1, and so are the tracks and, at the end, `result()`; before it has seen clip_length
        frames it sees as many as there are. The result that is returned says what this one clip says of the frame.
        That of `run` comes clip_length - 1 frames later and is the mean over the clips that have the frame. Tracks
        that are first seen before clip_length frames were may have other numbers than in `run`.

        Args:
          frame: uint8 RGB [H, W, 3], the next one of the video.

        A session either runs or steps. `config.overlap` plays no part. VOS and PET: targets may be added between two
        steps, in the frame to come or a later one; frames before the first have no objects. A target that is removed
        is missing from `result()` in the clip_length - 1 frames before, too. `result()` ends the video.

        Raises:
          ValueError: a bad frame, which leaves the session as it was, a target that does not fit, or after `run`.
        """
        start, compiled = time.perf_counter(), self._predictor.programs.compile_seconds
        state = self._state
        if state is not None and state.steps is None:
            raise ValueError("step: this session already ran; make a new one for another video")
        if state is not None and state.is_over:
            raise ValueError("step: the video was ended by result(); make a new session")
        size = frame.shape[:2] if state is None else state.geometry.original
        check_frame("frames", f"frame {state.num_frames if state else 0}", frame, "frame 0", size)
        if state is None:
            if self._targets.cuts():
                raise ValueError(_NO_CORRECTED_STEPS)
            geometry = self._plan(size)
            state = self._state = _Run("frames", None, geometry=geometry, steps=_Steps())
        number = state.num_frames
        state.num_frames = state.earliest_target_frame = number + 1
        steps, length = state.steps, self.config.clip_length
        if self._pipeline.takes_targets and not steps.frames and all(t.frame > number for t in self._targets):
            result = FrameResult(number, ())
        else:
            steps.first = number if not steps.frames else steps.first
            steps.frames.append(state.geometry.prepare_image(frame))
            if len(steps.frames) > length:
                del steps.frames[0]
                steps.first += 1
            elif len(steps.frames) > 1:
                self._pipeline.start_over()
            final = range(steps.first, steps.first + (len(steps.frames) == length))
            clip = clips.Clip(steps.first, list(steps.frames), length, length - 1, is_last=False)
            self._pipeline.add(clip, state.geometry, self._pipeline.forward(clip, state.geometry))
            result = self._pipeline.preview(number, state.geometry)
            ended = self._finish_steps(final)
            result = dataclasses.replace(result, ended=ended)
        self.step_seconds.append(time.perf_counter() - start - (self._predictor.programs.compile_seconds - compiled))
        return result

    def _finish_steps(self, final: range) -> tuple[TrackEnd, ...]:
        """Keeps, or forgets, frames that no later step changes; returns the tracks that have ended."""
        if self._keep_result:
            for frame in self._pipeline.draw(final, self._state.geometry):
                self._keep(frame)
        else:
            self._pipeline.drop(final)
        ended = self._pipeline.take_ended()
        self._keep_ended(ended, self._state.num_frames)
        return ended

    def result(self) -> VideoResult:
        """The whole video's tracks with classes and scores; ends a video of steps.

        Raises:
          ValueError: before the last frame of `run` was yielded, or with keep_result=False.
        """
        state = self._state
        if state is None or not (state.is_done or state.steps):
            raise ValueError("result: the video is not finished; iterate over run(...) to its end first")
        if not self._keep_result:
            raise ValueError("result: this session was made with keep_result=False")
        if not state.is_over:
            full = len(state.steps.frames) == self.config.clip_length
            self._finish_steps(range(state.steps.first + full, state.num_frames))
            state.is_done = state.is_over = True
        ids = {*state.masks, *state.ended, *self._targets.ids}
        tracks = []
        for track_id in sorted(ids, key=lambda i: (isinstance(i, str), i)):
            by_frame = state.masks.get(track_id, {})
            track = Track(track_id, [by_frame.get(frame) for frame in range(state.num_frames)])
            if track_id in state.ended:
                _, end = state.ended[track_id]
                track.class_logits, track.class_id, track.score = list(end.class_logits), end.class_id, end.score
            tracks.append(track)
        semantic = state.semantic if self.spec.task == datasets.PANOPTIC else None
        return VideoResult(state.video, self.dataset, state.geometry.original, state.num_frames, tracks, semantic)

    def _target(
        self, frame_index: int, id: TargetId, mask: np.ndarray | None, point_yx: tuple[float, float] | None
    ) -> Target:
        """Of the arguments of `add_target`; checks what can be said without the video."""
        if isinstance(id, bool) or not isinstance(id, (int, str, np.integer)):
            raise ValueError(f"target {id!r}: expected an id that is a whole number or a string, found {type(id)}")
        id = id if isinstance(id, str) else int(id)
        frame_index = operator.index(frame_index)
        if frame_index < 0:
            raise ValueError(f"target {id!r}: frame_index is {frame_index}, expected 0 or more")
        if (mask is None) == (point_yx is None):
            raise ValueError(
                f"target {id!r}: expected either a mask or a point, found {'neither' if mask is None else 'both'}"
            )
        if mask is not None:
            mask = np.asarray(mask)
            if mask.ndim != 2:
                raise ValueError(f"target {id!r}: expected a mask [H, W], found shape {mask.shape}")
            mask = mask > 0
            if not mask.any():
                raise ValueError(f"target {id!r}: its mask of frame {frame_index} is empty")
        else:
            point_yx = tuple(float(coordinate) for coordinate in point_yx)
            if len(point_yx) != 2:
                raise ValueError(f"target {id!r}: expected a point (y, x), found {point_yx}")
        return Target(frame_index, id, mask, point_yx)

    def _check_fits(self, target: Target) -> None:
        """Checks a target against the video, if that is known; to be called before it is given."""
        state = self._state
        if state is None:
            return
        if target.frame < state.earliest_target_frame:
            raise ValueError(
                f"target {target.id!r}: frame {target.frame} is segmented already; at this point of the run targets "
                f"can be given from frame {state.earliest_target_frame} on (seek goes back)"
            )
        if state.geometry is not None:
            target.check_size(state.geometry.original)
        self._check_frame(target, state.video, state.total_frames)
        state.forget_next_clip()

    def _check_known(self, id: TargetId) -> None:
        if id not in self._targets:
            known = ", ".join(map(repr, self._targets.ids)) or "none"
            raise ValueError(f"target {id!r}: there is no such target; given are: {known}")

    def _check_takes_targets(self, method: str) -> None:
        if self.spec.task != datasets.EXEMPLAR:
            raise ValueError(f"{self.dataset} is a dataset of task {self.spec.task!r}: it takes no targets")
        if self._state is not None and self._state.is_over:
            raise ValueError(f"{method}: the run is over; seek goes back, a new session starts the video again")

    def _check_target_frames(self, video: str, num_frames: int | None) -> None:
        for target in self._targets:
            self._check_frame(target, video, num_frames)

    @staticmethod
    def _check_frame(target: Target, video: str, num_frames: int | None) -> None:
        if num_frames is not None and target.frame >= num_frames:
            raise ValueError(f"target {target.id!r}: given in frame {target.frame}, but {video} has {num_frames}")

    def _plan(self, size: tuple[int, int]) -> clips.Geometry:
        """The geometry of a video; checks the targets against it."""
        for target in self._targets:
            target.check_size(size)
        config, divisor = self.config, self._predictor.config.size_divisor
        return clips.plan_geometry(size, config.min_dim, config.max_dim, divisor, use_table=config.size_table)

    def _most_clips(self, source: FrameSource) -> int:
        """Clips that may go through the network at once."""
        if self._pipeline.takes_targets or not source.is_replayable:
            return 1
        return self._clip_batch or self._predictor.most_clips

    def _prepare(self, source: FrameSource, start: int, most: int, stack: contextlib.ExitStack) -> Iterator[np.ndarray]:
        """Frames from `start` on as the network takes them, prepared ahead by a thread where they must be decoded."""
        frames = source.frames_from(start)
        first = next(frames)
        if self._state.restart is not None and self._state.geometry is not None:
            check_frame(source.name, f"frame {start}", first, "before seek, a frame", self.size)
        self._state.geometry = self._plan(first.shape[:2])
        prepare = self._state.geometry.prepare_image
        if source.is_decoded:
            clip = self.config.clip_length - self.config.overlap
            rest = stack.enter_context(RunAhead(frames, prepare, max(2, most * clip), "frames"))
        else:
            rest = map(prepare, frames)
        for frame in itertools.chain([prepare(first)], rest):
            self._state.num_frames += 1
            yield frame

    def _keep(self, frame: FrameResult) -> None:
        """Adds a final frame to what `result` gives."""
        if self._keep_result:
            for track_id, encoded in frame.masks.items():
                self._state.masks.setdefault(track_id, {})[frame.frame] = encoded
            if frame.semantic is not None:
                self._state.semantic.append(encode_semantic(frame.semantic))
        self._keep_ended(frame.ended, frame.frame)

    def _keep_ended(self, ended: Iterable[TrackEnd], frame: int) -> None:
        if self._keep_result:
            self._state.ended |= {each.id: (frame, each) for each in ended}

    def _forget_from(self, frame: int) -> None:
        """Takes back what was kept of `frame` and of later ones."""
        state = self._state
        for track_id, by_frame in list(state.masks.items()):
            state.masks[track_id] = {each: encoded for each, encoded in by_frame.items() if each < frame}
            if not state.masks[track_id]:
                del state.masks[track_id]
        del state.semantic[frame:]
        state.ended = {track_id: end for track_id, end in state.ended.items() if end[0] < frame}


def _forward(pipeline: ClassPipeline | ObjectPipeline, group: list[clips.Clip], geometry: clips.Geometry) -> list[Any]:
    """What the network says of clips that go through it together."""
    return [pipeline.forward(group[0], geometry)] if len(group) == 1 else pipeline.forward_together(group, geometry)


class ClipsAhead:
    """Clips of a video, each with what the network says of it; a thread may be ahead of the one that is taken.

    Used as a context manager: on leaving, the thread ends.
    """

    def __init__(
        self, upcoming: Iterator[list[clips.Clip]], forward: Callable[[list[clips.Clip]], list[Any]], is_ahead: bool
    ):
        """Args:
        upcoming: the clips, in groups that go through the network at once.
        forward: the network; what it says of clips must not depend on anything that happens until they are taken.
        is_ahead: whether clips may be read before they are asked for; False makes `begin_next` do nothing.
        """
        self._upcoming, self._forward = upcoming, forward
        self._pool = ThreadPoolExecutor(1, "network") if is_ahead else None
        self._group: list[clips.Clip] | None = None  # read, and not taken yet
        self._next: Future | None = None
        self._is_closed = False

    def __enter__(self) -> "ClipsAhead":
        return self

    def close(self) -> None:
        """No clip is begun any more; the thread may still be waiting for frames."""
        self._is_closed = True

    def __exit__(self, *_: object) -> None:
        self.close()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[tuple[clips.Clip, Any]]:
        while (taken := self._take()) is not None:
            yield from zip(*taken, strict=True)

    def begin_next(self) -> None:
        """Has the thread read the next group and run the network on it, if it is not at it already."""
        if self._pool is not None and self._next is None:
            self._next = self._pool.submit(self._compute)

    def forget_next(self) -> None:
        """What the network may have said of the next clips does not hold any more; waits until it is done."""
        if self._next is not None and self._next.exception() is None:
            self._next = None

    def _take(self) -> tuple[list[clips.Clip], list[Any]] | None:
        begun, self._next = self._next, None
        taken = begun.result() if begun is not None else self._compute()
        self._group = None
        return taken

    def _compute(self) -> tuple[list[clips.Clip], list[Any]] | None:
        if self._group is None:
            self._group = next(self._upcoming, None)
        if self._group is None or self._is_closed:
            return None
        return self._group, self._forward(self._group)


@dataclasses.dataclass
class _Run:
    """What a running session accumulates."""

    video: str
    total_frames: int | None
    geometry: clips.Geometry | None = None
    num_frames: int = 0
    next_frame: int = 0  # the first that was not handed out
    earliest_target_frame: int = 0
    is_done: bool = False
    is_over: bool = False  # done, or stopped by the caller or by an error
    masks: dict[TargetId, dict[int, Rle]] = dataclasses.field(default_factory=dict)  # track id -> frame -> RLE
    ended: dict[int, tuple[int, TrackEnd]] = dataclasses.field(default_factory=dict)  # and the frame that told it
    semantic: list[dict[int, Rle]] = dataclasses.field(default_factory=list)
    clips: ClipsAhead | None = None
    steps: "_Steps | None" = None  # of a session that steps
    history: History | None = None  # of a run whose frames can be read again
    restart: int | None = None  # after `seek`: number of the clip to begin with
    removed: dict[TargetId, int] = dataclasses.field(default_factory=dict)  # see ObjectPipeline.rewind

    def forget_next_clip(self) -> None:
        """To be called before the targets change."""
        if self.clips is not None:
            self.clips.forget_next()


@dataclasses.dataclass
class _Steps:
    """The frames that the network sees at the next step, prepared."""

    first: int = 0
    frames: list[np.ndarray] = dataclasses.field(default_factory=list)
