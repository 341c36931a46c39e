"""One video through the network, clip by clip: targets in, tracks out, each frame as soon as it is final."""

import dataclasses
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from tarvis_jax import datasets
from tarvis_jax.inference import clips
from tarvis_jax.inference.class_pipeline import ClassPipeline
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.inference.frames import FrameSource, open_frames
from tarvis_jax.inference.object_pipeline import ObjectPipeline
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.masks.rle import Rle
from tarvis_jax.results.class_scores import best_class
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import FrameResult, TargetId, Track, VideoResult, encode_semantic


class Session:
    """Segments one video.

        session = model.session("vos")  # or Session(predictor, "DAVIS")
        session.add_target(frame_index=0, id="dog", mask=mask)
        for frame_result in session.run("frames/"):
            for each in frame_result.objects:
                print(frame_result.frame, each.id, each.mask.sum())
        tracks = session.result().tracks

    Objects may be added and removed while the video runs (between two frame results): in frames that are not segmented
    yet, see `earliest_target_frame`.

    It keeps what was given, the order of the clips, and the results; a pipeline (class_pipeline.py, object_pipeline.py)
    turns a clip into final frames.

    In memory are the network's input frames of one clip, stride-4 logits of the frames that are not final, and RLEs.
    """

    def __init__(
        self,
        predictor: Predictor,
        dataset: str,
        spec: datasets.DatasetSpec | None = None,
        config: InferenceConfig | None = None,
        class_names: Sequence[str] = (),
        keep_result: bool = True,
    ):
        """Args:
          predictor: the network.
          dataset: decides the semantic queries and, by default, `spec` and `config`.
          spec: task and classes; default: those of the table's dataset of that name.
          config: default: the settings of the table's dataset of that name.
          class_names: of classes 1..K, for the results; () leaves their names None.
          keep_result: False for endless streams: RLEs are handed out and forgotten, and there is no `result()`.

        Raises:
          ValueError: unknown dataset, one of a task that sessions do not know, or a panoptic one without thing classes
            or without stuff classes.
        """
        self.dataset = dataset
        self.spec = spec or datasets.lookup(dataset).spec
        self.config = config or default_inference(dataset)
        self.class_names = tuple(class_names)
        self._predictor = predictor
        self._keep_result = keep_result
        self._targets: dict[TargetId, Target] = {}
        self._pipeline = self.make_pipeline(predictor, self._targets)
        self._state: _Run | None = None

    def make_pipeline(self, predictor: Predictor, targets: Mapping[TargetId, Target]) -> ClassPipeline | ObjectPipeline:
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
        """
        return 0 if self._state is None else self._state.earliest_target_frame

    def add_target(
        self,
        frame_index: int,
        id: TargetId,
        mask: np.ndarray | None = None,
        point_yx: tuple[float, float] | None = None,
    ) -> None:
        """Gives an object to follow (VOS, PET), before `run` or between two of its frame results.

        Args:
          frame_index: frame it is given in; it is segmented from there on.
          id: the caller's, a whole number or a string, kept in all results.
          mask: bool (or 0/1) [H, W] at the original frame size.
          point_yx: pixel (y, x) on the object, original frame; (0, 0) is the first pixel.

        Raises:
          ValueError: not an exemplar dataset, an id of another type or given twice, a negative frame, an empty mask,
            not exactly one of mask and point; during a run also a frame before `earliest_target_frame`, which is
            final: to change it, run the video again in a new session. Before a run, sizes and frame numbers are
            checked when the video is read.
        """
        self._check_takes_targets("add_target")
        if isinstance(id, bool) or not isinstance(id, (int, str, np.integer)):
            raise ValueError(f"target {id!r}: expected an id that is a whole number or a string, found {type(id)}")
        id = id if isinstance(id, str) else int(id)
        if id in self._targets:
            raise ValueError(f"target {id!r}: given twice (frames {self._targets[id].frame} and {frame_index})")
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
        target = Target(frame_index, id, mask, point_yx)
        if self._state is not None:
            if frame_index < self._state.earliest_target_frame:
                raise ValueError(
                    f"target {id!r}: frame {frame_index} is segmented already; at this point of the run targets can be "
                    f"given from frame {self._state.earliest_target_frame} on (a new session starts the video again)"
                )
            target.check_size(self._state.geometry.original)
            self._check_frame(target, self._state.video, self._state.total_frames)
        self._targets[id] = target

    def remove_target(self, id: TargetId) -> None:
        """Stops following an object, before `run` or between two frame results; the next ones are without it.

        Its id may be given again. `result()` keeps what was already handed out of it.

        Raises:
          ValueError: not an exemplar dataset, an unknown id, or the run is over.
        """
        self._check_takes_targets("remove_target")
        if id not in self._targets:
            known = ", ".join(map(repr, self._targets)) or "none"
            raise ValueError(f"target {id!r}: there is no such target; given are: {known}")
        del self._targets[id]
        if self._state is not None:
            self._pipeline.forget(id)

    def run(self, frames: FrameSource | str | Iterable[np.ndarray]) -> Iterator[FrameResult]:
        """Yields one FrameResult per frame, in order, as soon as no later clip can change it.

        Args:
          frames: anything `open_frames` takes.

        A session runs once. The caller may stop early (leave the loop, or close the iterator): what was handed out is
        final, there is no `result()`.

        Raises:
          ValueError: bad frames, or a target that does not fit the video.
        """
        if self._state is not None:
            raise ValueError("run: this session already ran; make a new one for another video")
        if self.spec.task == datasets.EXEMPLAR and not self._targets:
            raise ValueError(f"{self.dataset}: no target was given; call add_target first")
        source = open_frames(frames)
        self._check_target_frames(source.name, source.num_frames)
        self._state = _Run(source.name, source.num_frames)
        first_frame = min((t.frame for t in self._targets.values()), default=0)
        schedule = (self.config.clip_length, self.config.overlap, first_frame)
        try:
            for clip in clips.iterate_clips(self._prepare(source), *schedule):
                self._state.earliest_target_frame = clip.final.stop
                for frame in self._pipeline.segment(clip, self._state.geometry):
                    self._keep(frame)
                    yield frame
            self._check_target_frames(source.name, self._state.num_frames)
            self._state.class_logits = self._pipeline.class_logits()
            self._state.is_done = True
        finally:
            self._state.is_over = True
            self._pipeline = None  # with the logits of frames that nobody asked for

    def result(self) -> VideoResult:
        """The whole video's tracks with classes and scores; raises ValueError before the last frame was yielded."""
        state = self._state
        if state is None or not state.is_done:
            raise ValueError("result: the video is not finished; iterate over run(...) to its end first")
        if not self._keep_result:
            raise ValueError("result: this session was made with keep_result=False")
        ids = sorted(
            set(state.masks) | set(state.class_logits) | set(self._targets), key=lambda i: (isinstance(i, str), i)
        )
        tracks = []
        for track_id in ids:
            by_frame = state.masks.get(track_id, {})
            track = Track(track_id, [by_frame.get(frame) for frame in range(state.num_frames)])
            if track_id in state.class_logits:
                logits = state.class_logits[track_id]
                track.class_logits = [float(x) for x in logits]
                track.class_id, track.score = best_class(logits)
            tracks.append(track)
        semantic = state.semantic if self.spec.task == datasets.PANOPTIC else None
        return VideoResult(state.video, self.dataset, state.geometry.original, state.num_frames, tracks, semantic)

    def _check_takes_targets(self, method: str) -> None:
        if self.spec.task != datasets.EXEMPLAR:
            raise ValueError(f"{self.dataset} is a dataset of task {self.spec.task!r}: it takes no targets")
        if self._state is not None and self._state.is_over:
            raise ValueError(f"{method}: the run is over; make a new session")

    def _check_target_frames(self, video: str, num_frames: int | None) -> None:
        for target in self._targets.values():
            self._check_frame(target, video, num_frames)

    @staticmethod
    def _check_frame(target: Target, video: str, num_frames: int | None) -> None:
        if num_frames is not None and target.frame >= num_frames:
            raise ValueError(f"target {target.id!r}: given in frame {target.frame}, but {video} has {num_frames}")

    def _prepare(self, source: FrameSource) -> Iterator[np.ndarray]:
        """Frames as the network takes them; plans the geometry and checks the targets at the first one."""
        for index, frame in enumerate(source):
            if index == 0:
                self._state.geometry = clips.plan_geometry(
                    frame.shape[:2],
                    self.config.min_dim,
                    self.config.max_dim,
                    self._predictor.config.size_divisor,
                    use_table=self.config.size_table,
                )
                for target in self._targets.values():
                    target.check_size(frame.shape[:2])
            self._state.num_frames = index + 1
            yield self._state.geometry.prepare_image(frame)

    def _keep(self, frame: FrameResult) -> None:
        """Adds a final frame to what `result` gives."""
        if self._keep_result:
            for track_id, encoded in frame.masks.items():
                self._state.masks.setdefault(track_id, {})[frame.frame] = encoded
            if frame.semantic is not None:
                self._state.semantic.append(encode_semantic(frame.semantic))


@dataclasses.dataclass
class _Run:
    """What a running session accumulates."""

    video: str
    total_frames: int | None
    geometry: clips.Geometry | None = None
    num_frames: int = 0
    earliest_target_frame: int = 0
    is_done: bool = False
    is_over: bool = False  # done, or stopped by the caller or by an error
    masks: dict[TargetId, dict[int, Rle]] = dataclasses.field(default_factory=dict)  # track id -> frame -> RLE
    class_logits: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    semantic: list[dict[int, Rle]] = dataclasses.field(default_factory=list)
