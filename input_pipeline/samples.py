"""One training sample: a row of a batch plan -> a clip with targets at static shapes."""

import collections
import contextlib
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from input_pipeline import augment, clips, image_clips, mixture, points, targets
from input_pipeline.bad_records import ERROR, BadRecord, LeftOut
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.id_layers import IdLayers
from input_pipeline.records import VideoRecord
from tarvis_jax.frame_size import resized_size


class FrameCache:
    """Decoded frames, the least recently used dropped beyond `megabytes`; safe to use from several threads."""

    def __init__(self, megabytes: int):
        self._capacity = megabytes * 2**20
        self._size = 0
        self._frames: collections.OrderedDict[pathlib.Path, np.ndarray] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, path: pathlib.Path, load: Callable[[], np.ndarray]) -> np.ndarray:
        """The frame of `path`, from `load` if it is not held."""
        with self._lock:
            if path in self._frames:
                self._frames.move_to_end(path)
                return self._frames[path]
        frame = load()
        frame.setflags(write=False)
        with self._lock:
            if path not in self._frames:
                self._frames[path] = frame
                self._size += frame.nbytes
            while self._size > self._capacity:
                self._size -= self._frames.popitem(last=False)[1].nbytes
        return frame


@dataclasses.dataclass(frozen=True)
class DrawnClip:
    """An augmented clip before padding: its video, frames, pixels, and the class of each mask (int32 [N])."""

    video: VideoRecord
    choice: clips.ClipChoice
    clip: augment.Clip
    classes: np.ndarray
    cropped: bool


class SampleLoader:
    """Loads the samples of a mixture's batches."""

    def __init__(self, config: DataConfig, videos: list[Sequence[VideoRecord]], left_out: LeftOut | None = None):
        """The loader of a mixture.

        Args:
          config: of the mixture.
          videos: the records of each dataset of the config, in its order.
          left_out: where samples that were drawn again because a file is bad are noted, if `config.on_bad_record` says
            so; None: they are logged.
        """
        self.config = config
        self.videos = videos
        self.left_out = left_out or LeftOut()
        self._cache = FrameCache(config.cache_megabytes if config.cache_records else 0)

    def load(self, plan: mixture.BatchPlan, index: int) -> dict[str, np.ndarray]:
        """Sample `index` (0..B-1) of a batch: the batch contract's arrays without the leading B; see `draw`."""
        dataset, task = self.config.datasets[plan.pool.dataset], plan.pool.task
        drawn = self.draw(plan, index)
        num_slots, num_classes = dataset.num_slots(task), 0 if task == "exemplar" else dataset.num_classes
        sample = targets.padded_targets(
            drawn.clip, drawn.classes, plan.bucket, num_slots, num_classes, drawn.video.where
        )
        if task == "exemplar":
            count = int(sample["valid_instances"].sum())
            sample["reference_frame"] = np.int32(drawn.choice.reference)
            sample["points_yx"] = np.zeros((num_slots, 2), np.float32)
            masks = np.zeros((count, *plan.bucket), bool)  # of the padded clip: its border is not that of a mask
            masks[:, : drawn.clip.size[0], : drawn.clip.size[1]] = drawn.clip.masks.of_frame(drawn.choice.reference)
            sample["points_yx"][:count] = points.mask_to_point(masks)
        return sample

    def draw(self, plan: mixture.BatchPlan, index: int) -> DrawnClip:
        """The clip of sample `index` (0..B-1) of a batch, before padding.

        Random draws come from (seed, step, index) alone. A sample in which augmentation left no target (or lost one, in
        exemplar tasks) is replaced by another of the same pool, as in the reference; with `on_bad_record` "skip", so is
        one with a frame that cannot be read.

        Raises:
          ValueError: a file cannot be read, or `max_attempts` samples in a row had no target or a bad frame.
        """
        dataset = self.config.datasets[plan.pool.dataset]
        rng = np.random.default_rng([self.config.seed, mixture.SAMPLE, plan.step, index])
        row, video, bad = plan.items[index], None, None
        for _ in range(self.config.max_attempts):
            try:
                drawn = self._draw_once(plan, dataset, row, rng)
                if drawn is not None:
                    return drawn
                video = self.videos[plan.pool.dataset][row[0]]
                bad = None
            except ValueError as error:
                if self.config.on_bad_record == ERROR:
                    raise
                self.left_out.add(BadRecord(dataset.name, str(error), plan.step, index))
                bad = error
            row = plan.pool.items[rng.integers(len(plan.pool.items))]
        others = self.config.max_attempts - 1
        if bad is not None:
            raise ValueError(
                f"{bad}: no sample could be read, in this and the {others} samples tried before it "
                f"(step {plan.step}, sample {index})"
            )
        raise ValueError(
            f"{video.where}: no target was left after augmentation, in this and the {others} samples tried before it "
            f"(step {plan.step}, sample {index})"
        )

    def _draw_once(
        self, plan: mixture.BatchPlan, dataset: DatasetConfig, row: np.ndarray, rng: np.random.Generator
    ) -> DrawnClip | None:
        """A clip of an item of the pool; None if augmentation left no target."""
        if dataset.image_clips:
            return self._views(plan, dataset, self.videos[plan.pool.dataset][row[0]], rng)
        video, choice = self._choose(plan, dataset, row, rng)
        return self._attempt(plan, dataset, video, choice, rng)

    def _choose(
        self, plan: mixture.BatchPlan, dataset: DatasetConfig, row: np.ndarray, rng: np.random.Generator
    ) -> tuple[VideoRecord, clips.ClipChoice]:
        """A clip of an item of the pool.

        Exemplar: objects are drawn, and then other items with their objects, until they are of the pool's kind; so each
        choice of a frame and its objects is as likely as in plain sampling.
        """
        video, length = self.videos[plan.pool.dataset][row[0]], self.config.clip_length
        if dataset.task != "exemplar":
            return video, clips.choose_clip(
                video, length, dataset.frame_sampling_factor, dataset.consecutive_frames, rng
            )
        while True:
            reference = int(row[1])
            instances = clips.choose_objects(video, reference, plan.pool.num_objects, rng)
            if dataset.crop == (1.0, 1.0) or plan.pool.cropped == _can_crop(video, reference, instances, dataset):
                return video, clips.choose_exemplar_clip(
                    video, reference, instances, length, dataset.frame_sampling_factor, rng
                )
            row = plan.pool.items[rng.integers(len(plan.pool.items))]
            video = self.videos[plan.pool.dataset][row[0]]

    def _attempt(
        self,
        plan: mixture.BatchPlan,
        dataset: DatasetConfig,
        video: VideoRecord,
        choice: clips.ClipChoice,
        rng: np.random.Generator,
    ) -> DrawnClip | None:
        if not choice.instances:
            return None
        clip, cropped = self._load(video, choice, with_semantics=dataset.task == "panoptic"), False
        clip = _flip(clip, dataset, rng)
        if dataset.task == "exemplar":
            reference = slice(choice.reference, choice.reference + 1)
            size = resized_size(clip.size, plan.min_dim, dataset.max_dim)
            # Explicit buckets may be too small; then the whole frame shrinks until what is cropped from it fits.
            shares = dataset.crop if plan.pool.cropped else (1.0, 1.0)
            largest = tuple(int(side / share) for side, share in zip(plan.bucket, shares, strict=True))
            size = augment.fitted_size(size, largest)
            if plan.pool.cropped:
                clip = augment.resize(clip, size)
                window = augment.crop_size(clip.size, dataset.crop)
                corner = augment.preserving_crop(clip.masks.union(reference)[None], window, rng)
                if corner is None:  # a box that became one pixel larger than the window by rounding
                    return None
                clip, cropped = _color(augment.crop(clip, *corner, *window), dataset, rng), True
            else:
                clip = _resize_and_color(clip, size, dataset, rng)
            visible = np.arange(len(choice.instances))
            if not clip.masks.areas(reference).all():
                return None
        else:
            if plan.pool.cropped:
                window = augment.crop_size(clip.size, dataset.crop)
                corner, is_enough = augment.containing_crop(clip.masks.union()[None, None], window, rng)
                # Without a window that keeps enough of its objects a clip stays whole, as in the reference, if its
                # bucket holds it. Crops of another aspect than the frame have buckets that do not: then the best
                # window has to do.
                whole = resized_size(clip.size, plan.min_dim, dataset.max_dim)
                if corner is not None and (is_enough or augment.fitted_size(whole, plan.bucket) != whole):
                    clip, cropped = augment.crop(clip, *corner, *window), True
            size = resized_size(clip.size, plan.min_dim, dataset.max_dim)
            clip = _resize_and_color(clip, augment.fitted_size(size, plan.bucket), dataset, rng)
            visible = np.flatnonzero(clip.masks.areas().any(1))
            if not visible.size:
                return None
        clip = augment.Clip(clip.images, clip.masks.select(visible), clip.semantic)
        classes = np.asarray([video.instances[i] for i in choice.instances], np.int32)[visible]
        return DrawnClip(video, choice, clip, classes, cropped)

    def _views(
        self, plan: mixture.BatchPlan, dataset: DatasetConfig, video: VideoRecord, rng: np.random.Generator
    ) -> DrawnClip | None:
        """A clip of an image; `choice.instances` are the numbers that its instances have there."""
        length = self.config.clip_length
        image = self._frame(video, 0)
        with _naming(video, 0):
            views = image_clips.make_clip(video, image, dataset, plan.pool.task, length, rng)
        if views is None:
            return None
        choice = clips.ClipChoice((0,) * length, views.instances, views.reference)
        return DrawnClip(video, choice, views.clip, views.classes, cropped=True)

    def _load(self, video: VideoRecord, choice: clips.ClipChoice, with_semantics: bool) -> augment.Clip:
        frames, instances = choice.frames, choice.instances
        pairs = [self._panoptic_map(video, t) for t in frames] if video.panoptic_maps is not None else []
        classes = [classes for classes, _ in pairs]
        if not pairs:
            masks = IdLayers.of_segments(video, frames, instances)
            classes = [video.semantic_map(t) for t in frames] if with_semantics else []
        elif all(video.segmentations[t].get(i) is None for t in frames for i in instances):
            masks = IdLayers.of_id_maps([ids for _, ids in pairs], instances)
        else:  # maps that do not have all of the instances
            masks = IdLayers.of_masks(np.stack([video.frame_masks(t, instances) for t in frames], axis=1))
        # Stacked in the layout of memory that they have.
        by_columns = with_semantics and not classes[0].flags.c_contiguous
        semantic = np.stack([each.T if by_columns else each for each in classes]) if with_semantics else None
        semantic = semantic.swapaxes(1, 2) if by_columns else semantic
        return augment.Clip(np.stack([self._frame(video, t) for t in frames]), masks, semantic)

    def _panoptic_map(self, video: VideoRecord, frame: int) -> tuple[np.ndarray, np.ndarray]:
        with _naming(video, frame):
            return video.panoptic_map(frame)

    def _frame(self, video: VideoRecord, frame: int) -> np.ndarray:
        with _naming(video, frame):
            if not self.config.cache_records:
                return video.load_frame(frame)
            return self._cache.get(video.frame_paths[frame], lambda: video.load_frame(frame))


@contextlib.contextmanager
def _naming(video: VideoRecord, frame: int) -> Iterator[None]:
    """Errors inside name the frame that is read."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"dataset {video.dataset}, video {video.id!r}, frame {frame}: {error}") from error


def _flip(clip: augment.Clip, dataset: DatasetConfig, rng: np.random.Generator) -> augment.Clip:
    return augment.flip(clip) if rng.random() < dataset.flip_probability else clip


def _color(clip: augment.Clip, dataset: DatasetConfig, rng: np.random.Generator) -> augment.Clip:
    images = augment.jitter_colors(
        clip.images,
        rng,
        hue_saturation=dataset.hue_saturation,
        contrast=dataset.contrast,
        brightness=dataset.brightness,
    )
    return dataclasses.replace(clip, images=images)


def _resize_and_color(
    clip: augment.Clip, size: tuple[int, int], dataset: DatasetConfig, rng: np.random.Generator
) -> augment.Clip:
    """Colors are changed where there are fewer pixels: they commute with everything but the interpolation."""
    if size[0] * size[1] < clip.size[0] * clip.size[1]:
        return _color(augment.resize(clip, size), dataset, rng)
    return augment.resize(_color(clip, dataset, rng), size)


def _can_crop(video: VideoRecord, reference: int, instances: list[int], dataset: DatasetConfig) -> bool:
    """Whether the crop of an exemplar dataset can keep these objects of the reference frame."""
    boxes = clips.object_boxes(video, reference)
    window = augment.crop_size((video.height, video.width), dataset.crop)
    return bool(clips.is_inside(np.stack([boxes[i] for i in instances]), window))
