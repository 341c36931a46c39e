"""Which videos every training step takes: a pure function of (seed, step), the same on every host.

The steps are cut in chunks. A chunk is of one pool: one dataset, one of its tasks, one number of objects (exemplar
tasks on videos) and one group of videos that are padded to the same size. Every pool goes through its items in
shuffled epochs.

Differs from the reference: it pads to the largest clip of a batch; here videos that need the same bucket form a group,
because shapes are static. Exemplar pools take every frame that has enough objects, not the first ones of the list.
"""

import collections
import dataclasses
import functools
import threading
from collections.abc import Sequence

import numpy as np

from input_pipeline import augment, clips
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.frame_size import resized_size

# Purposes of random draws: no two of them share a stream.
_CHUNK, _EPOCH, _SIZE, SAMPLE = range(4)
_BLOCK = 256  # chunks drawn at a time


@dataclasses.dataclass(frozen=True)
class Pool:
    """Items that can stand in one batch.

    Attributes:
      dataset: index into the config's datasets.
      task: what its batches are trained on.
      num_objects: of every clip; 0 where clips have any number.
      buckets: (height, width) per entry of the dataset's `min_dims` (one entry if that is empty).
      items: int [n, 2]: index of the video, reference frame (-1: free choice).
      probability: of a chunk to be of this pool.
    """

    dataset: int
    task: str
    num_objects: int
    buckets: tuple[tuple[int, int], ...]
    items: np.ndarray
    probability: float


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """What one step takes: pool, resize target (None: no resizing), padded size, and B rows of `pool.items`."""

    step: int
    pool: Pool
    min_dim: int | None
    bucket: tuple[int, int]
    items: np.ndarray


class Mixture:
    """Plans of all steps; `plan(step)` may be called in any order and from any host."""

    def __init__(self, config: DataConfig, videos: list[Sequence[VideoRecord]]):
        """`videos`: the records of each dataset of the config, in its order."""
        total = sum(dataset.weight for dataset in config.datasets)
        if total <= 0:
            raise ValueError("data.datasets: expected at least one dataset with a weight above 0")
        self.config = config
        self.pools: list[Pool] = []
        for index, dataset in enumerate(config.datasets):
            if dataset.weight:
                for task, share in dataset.task_shares.items():
                    probability = share * dataset.weight / total
                    self.pools += _pools(index, dataset, task, videos[index], config.clip_length, probability)
        self._cumulative = np.cumsum([pool.probability for pool in self.pools])
        self._chunk_pools: list[int] = []
        self._chunk_ranks: list[int] = []  # how many earlier chunks were of the same pool
        self._counts: collections.Counter[int] = collections.Counter()
        self._lock = threading.Lock()  # samples are loaded by several threads
        self._order = functools.lru_cache(maxsize=64)(self._shuffled)

    def plan(self, step: int) -> BatchPlan:
        """The plan of a step (>= 0)."""
        config = self.config
        chunk, place = divmod(step, config.chunk_steps)
        with self._lock:
            self._extend(chunk)
        number = self._chunk_pools[chunk]
        pool = self.pools[number]
        first = (self._chunk_ranks[chunk] * config.chunk_steps + place) * config.batch_size
        epochs, positions = np.divmod(np.arange(first, first + config.batch_size), len(pool.items))
        rows = [
            self._order(number, epoch)[position] for epoch, position in zip(epochs.tolist(), positions, strict=True)
        ]
        size = int(self._rng(_SIZE, step).integers(len(pool.buckets)))
        min_dims = config.datasets[pool.dataset].min_dims
        return BatchPlan(step, pool, min_dims[size] if min_dims else None, pool.buckets[size], pool.items[rows])

    def _shuffled(self, number: int, epoch: int) -> np.ndarray:
        """The order in which a pool's items come in one epoch."""
        return self._rng(_EPOCH, number, epoch).permutation(len(self.pools[number].items))

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *purpose])

    def _extend(self, chunk: int) -> None:
        while len(self._chunk_pools) <= chunk:
            draws = self._rng(_CHUNK, len(self._chunk_pools) // _BLOCK).random(_BLOCK)
            numbers = np.searchsorted(self._cumulative, draws * self._cumulative[-1], side="right")
            for number in numbers.tolist():
                self._chunk_pools.append(number)
                self._chunk_ranks.append(self._counts[number])
                self._counts[number] += 1


def predicted_size(video: VideoRecord, config: DatasetConfig, task: str, min_dim: int | None) -> tuple[int, int]:
    """Size of a clip before padding: of the cropped clip, but of the whole frame in exemplar tasks.

    There the crop often fails (it must keep every object) and comes after the resizing; elsewhere it rarely does, and a
    clip that could not be cropped is shrunk to its bucket.
    """
    size = (video.height, video.width)
    if task != "exemplar" and config.crop != (1.0, 1.0):
        size = augment.crop_size(size, config.crop)
    return resized_size(size, min_dim, config.max_dim)


def smallest_bucket(size: tuple[int, int], buckets: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """The bucket of least area that holds `size`; if none does, the one that has it shrunk the least."""
    fitting = [bucket for bucket in buckets if size[0] <= bucket[0] and size[1] <= bucket[1]]
    if fitting:
        return min(fitting, key=lambda bucket: bucket[0] * bucket[1])
    return max(buckets, key=lambda bucket: min(bucket[0] / size[0], bucket[1] / size[1]))


def _pools(
    index: int, config: DatasetConfig, task: str, videos: Sequence[VideoRecord], clip_length: int, probability: float
) -> list[Pool]:
    """The pools of one dataset and task; their probabilities add up to `probability`."""
    if config.image_clips:  # all clips are of one size, and any image may be drawn for any task
        items = np.stack([np.arange(len(videos)), np.full(len(videos), -1)], 1)
        return [Pool(index, task, 0, config.buckets, items, probability)]
    groups: dict[tuple[tuple[int, int], ...], list[int]] = collections.defaultdict(list)
    for v, video in enumerate(videos):
        sizes = [predicted_size(video, config, task, min_dim) for min_dim in config.min_dims or (None,)]
        groups[tuple(smallest_bucket(size, config.buckets) for size in sizes)].append(v)
    pools = []
    if task == "exemplar":
        references = {v: clips.exemplar_references(video, clip_length) for v, video in enumerate(videos)}
        most = max((count for frames in references.values() for _, count in frames), default=0)
        # Every number of objects that occurs is drawn equally often; one object may be one of many.
        for num_objects in range(1, min(most, config.num_slots(task)) + 1):
            for buckets, members in sorted(groups.items()):
                items = [(v, t) for v in members for t, count in references[v] if count >= num_objects]
                pools.append((num_objects, buckets, items))
    else:
        for buckets, members in sorted(groups.items()):
            pools.append((0, buckets, [(v, -1) for v in members if any(videos[v].segmentations)]))
    pools = [pool for pool in pools if pool[2]]
    if not pools:
        raise ValueError(
            f"dataset {config.name}: none of its {len(videos)} videos has an object (followed by enough frames for "
            f"clips of {clip_length})"
        )
    items_per_count = collections.Counter()
    for num_objects, _, items in pools:
        items_per_count[num_objects] += len(items)
    return [
        Pool(
            dataset=index,
            task=task,
            num_objects=num_objects,
            buckets=buckets,
            items=np.asarray(items, np.int64),
            probability=probability / len(items_per_count) * len(items) / items_per_count[num_objects],
        )
        for num_objects, buckets, items in pools
    ]
