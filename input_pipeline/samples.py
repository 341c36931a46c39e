"""One training sample: a row of a batch plan -> a clip with targets at static shapes."""

import collections
import pathlib
import threading
from collections.abc import Callable

import numpy as np

from input_pipeline import augment, clips, mixture, points, targets
from input_pipeline.config import DataConfig, DatasetConfig
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


class SampleLoader:
    """Loads the samples of a mixture's batches."""

    def __init__(self, config: DataConfig, videos: list[list[VideoRecord]]):
        """`videos`: the records of each dataset of the config, in its order."""
        self.config = config
        self.videos = videos
        self._cache = FrameCache(config.cache_megabytes if config.cache_records else 0)

    def load(self, plan: mixture.BatchPlan, index: int) -> dict[str, np.ndarray]:
        """Sample `index` (0..B-1) of a batch: the batch contract's arrays without the leading B.

        Random draws come from (seed, step, index) alone. A sample in which augmentation left no target (or lost one, in
        exemplar datasets) is replaced by another of the same pool, as in the reference.

        Raises:
          ValueError: a file cannot be read, or `max_attempts` samples in a row had no target.
        """
        dataset = self.config.datasets[plan.pool.dataset]
        rng = np.random.default_rng([self.config.seed, mixture.SAMPLE, plan.step, index])
        video, row = None, plan.items[index]
        for _ in range(self.config.max_attempts):
            video = self.videos[plan.pool.dataset][row[0]]
            sample = self._attempt(plan, dataset, video, int(row[1]), rng)
            if sample is not None:
                return sample
            row = plan.pool.items[rng.integers(len(plan.pool.items))]
        raise ValueError(
            f"{video.where}: no target was left after augmentation, in this and the {self.config.max_attempts - 1} "
            f"samples tried before it (step {plan.step}, sample {index})"
        )

    def _attempt(
        self, plan: mixture.BatchPlan, dataset: DatasetConfig, video: VideoRecord, reference: int, rng
    ) -> dict[str, np.ndarray] | None:
        if dataset.task == "exemplar":
            choice = clips.choose_exemplar_clip(
                video, reference, plan.pool.num_objects, self.config.clip_length, dataset.frame_sampling_factor, rng
            )
        else:
            choice = clips.choose_clip(
                video, self.config.clip_length, dataset.frame_sampling_factor, dataset.consecutive_frames, rng
            )
        if not choice.instances:
            return None
        clip = self._load(video, choice, with_semantics=dataset.task == "panoptic")
        if dataset.task == "exemplar":
            clip = _resize(clip, plan, dataset)
            clip = _flip(clip, dataset, rng)
            clip = _crop(
                clip, dataset, lambda c, size: augment.preserving_crop(c.masks[:, choice.reference], size, rng)
            )
            if not clip.masks[:, choice.reference].any((1, 2)).all():
                return None
        else:
            clip = _flip(clip, dataset, rng)
            clip = _crop(clip, dataset, lambda c, size: augment.containing_crop(c.masks, size, rng))
            clip = _resize(clip, plan, dataset)
        visible = clip.masks.any((1, 2, 3))
        if not visible.any():
            return None
        # Colors come last, on the fewest pixels; they commute with everything but the interpolation.
        images = augment.jitter_colors(
            clip.images,
            rng,
            hue_saturation=dataset.hue_saturation,
            contrast=dataset.contrast,
            brightness=dataset.brightness,
        )
        clip = augment.Clip(images, clip.masks[visible], clip.semantic)
        classes = np.asarray([video.instances[i] for i in choice.instances], np.int32)[visible]
        sample = targets.padded_targets(
            clip, classes, plan.bucket, dataset.max_instances, dataset.num_classes, video.where
        )
        if dataset.task == "exemplar":
            count = int(sample["valid_instances"].sum())
            sample["reference_frame"] = np.int32(choice.reference)
            sample["points_yx"] = np.zeros((dataset.max_instances, 2), np.float32)
            masks = targets.unpack_masks(sample, count)[:, choice.reference]
            sample["points_yx"][:count] = points.mask_to_point(masks)
        return sample

    def _load(self, video: VideoRecord, choice: clips.ClipChoice, with_semantics: bool) -> augment.Clip:
        masks = np.stack([video.frame_masks(t, choice.instances) for t in choice.frames], axis=1)
        semantic = np.stack([video.semantic_map(t) for t in choice.frames]) if with_semantics else None
        return augment.Clip(np.stack([self._frame(video, t) for t in choice.frames]), masks, semantic)

    def _frame(self, video: VideoRecord, frame: int) -> np.ndarray:
        try:
            if not self.config.cache_records:
                return video.load_frame(frame)
            return self._cache.get(video.frame_paths[frame], lambda: video.load_frame(frame))
        except ValueError as error:
            raise ValueError(f"dataset {video.dataset}, video {video.id!r}, frame {frame}: {error}") from error


def _flip(clip: augment.Clip, dataset: DatasetConfig, rng: np.random.Generator) -> augment.Clip:
    return augment.flip(clip) if rng.random() < dataset.flip_probability else clip


def _crop(clip: augment.Clip, dataset: DatasetConfig, choose: Callable) -> augment.Clip:
    """The clip inside the window that `choose(clip, size)` returns; the clip itself where it returns None."""
    if dataset.crop == (1.0, 1.0):
        return clip
    size = augment.crop_size(clip.size, dataset.crop)
    corner = choose(clip, size)
    return clip if corner is None else augment.crop(clip, *corner, *size)


def _resize(clip: augment.Clip, plan: mixture.BatchPlan, dataset: DatasetConfig) -> augment.Clip:
    size = resized_size(clip.size, plan.min_dim, dataset.max_dim)
    return augment.resize(clip, augment.fitted_size(size, plan.bucket))
