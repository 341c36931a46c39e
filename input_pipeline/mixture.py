"""Which videos every training step takes: a pure function of (seed, step), the same on every host.

The steps are cut in chunks. A chunk is of one pool: one dataset, one of its tasks, one number of objects and either
cropped or whole clips (exemplar datasets), and one group of videos that are padded to the same size. Every pool goes
through its items in shuffled epochs.

The probability of a pool is that of its clips in plain sampling: every video alike, or, in exemplar datasets, every
number of objects alike, then every frame that has as many, then any of its objects.

Differs from the reference: it pads each clip by itself; here clips that need the same bucket form a group, because
shapes are static. Exemplar pools take every frame that has enough objects, not the first ones of the list.
"""

import collections
import dataclasses
import functools
import threading
from collections.abc import Iterable, Sequence

import numpy as np

from input_pipeline import augment, clips
from input_pipeline.buckets import Size, clip_size, find_buckets, smallest_bucket
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord

# Purposes of random draws: no two of them share a stream.
_CHUNK, _EPOCH, _SIZE, SAMPLE, _KIND = range(5)
BLOCK = 256  # chunks drawn at a time: every pool with a probability of 2 / BLOCK or more is in each block
_RARE = 0.02  # cropped or whole clips below this share of the clips of a size have no pool
_DRAWS = 4096  # draws of objects, per number of objects, that tell how many clips can be cropped


@dataclasses.dataclass(frozen=True)
class Pool:
    """Items that can stand in one batch.

    Attributes:
      dataset: index into the config's datasets.
      task: what its batches are trained on.
      num_objects: of every clip; 0 where clips have any number.
      cropped: whether clips are cropped. In exemplar datasets this depends on the objects that are drawn, and an item
        is passed over where they are not of this kind; elsewhere it is true, unless there is no crop at all.
      buckets: (height, width) per entry of the dataset's `min_dims` (one entry if that is empty).
      items: int [n, 2]: index of the video, reference frame (-1: free choice).
      probability: of a chunk to be of this pool.
    """

    dataset: int
    task: str
    num_objects: int
    cropped: bool
    buckets: tuple[Size, ...]
    items: np.ndarray
    probability: float


@dataclasses.dataclass(frozen=True)
class BatchPlan:
    """What one step takes: pool, resize target (None: no resizing), padded size, and B rows of `pool.items`."""

    step: int
    pool: Pool
    min_dim: int | None
    bucket: Size
    items: np.ndarray


class Mixture:
    """Plans of all steps; `plan(step)` may be called in any order and from any host."""

    def __init__(self, config: DataConfig, videos: list[Sequence[VideoRecord]]):
        """`videos`: the records of each dataset of the config, in its order."""
        total = sum(dataset.weight for dataset in config.datasets)
        if total <= 0:
            raise ValueError("data.datasets: expected at least one dataset with a weight above 0")
        groups = [
            _groups(config, index, videos[index]) if dataset.weight and not dataset.image_clips else []
            for index, dataset in enumerate(config.datasets)
        ]
        self.config = _with_buckets(config, groups)
        self.pools: list[Pool] = []
        for index, dataset in enumerate(self.config.datasets):
            if dataset.image_clips and dataset.weight:
                self.pools += _image_pools(index, dataset, len(videos[index]), dataset.weight / total)
            else:
                self.pools += _pools(index, dataset, groups[index], dataset.weight / total)
        self._cumulative = np.cumsum([pool.probability for pool in self.pools])
        self._chunk_pools: list[int] = []
        self._chunk_ranks: list[int] = []  # how many earlier chunks were of the same pool
        self._counts: collections.Counter[int] = collections.Counter()
        self._lock = threading.Lock()  # samples are loaded by several threads
        self._order = functools.lru_cache(maxsize=64)(self._shuffled)

    def plan(self, step: int) -> BatchPlan:
        """The plan of a step (>= 0)."""
        config = self.config
        number = self._pool_number(step)
        pool = self.pools[number]
        chunk, place = divmod(step, config.chunk_steps)
        first = (self._chunk_ranks[chunk] * config.chunk_steps + place) * config.batch_size
        epochs, positions = np.divmod(np.arange(first, first + config.batch_size), len(pool.items))
        rows = [
            self._order(number, epoch)[position] for epoch, position in zip(epochs.tolist(), positions, strict=True)
        ]
        size = self._size_number(step, pool)
        min_dims = config.datasets[pool.dataset].min_dims
        return BatchPlan(step, pool, min_dims[size] if min_dims else None, pool.buckets[size], pool.items[rows])

    def shapes(self, steps: Iterable[int]) -> set[tuple[str, str, Size]]:
        """(dataset, task, bucket) of the batches of some steps: what these steps need programs for."""
        names = [dataset.name for dataset in self.config.datasets]
        possible = {(names[pool.dataset], pool.task, size) for pool in self.pools for size in pool.buckets}
        found: set[tuple[str, str, Size]] = set()
        for step in steps:
            pool = self.pools[self._pool_number(step)]
            found.add((names[pool.dataset], pool.task, pool.buckets[self._size_number(step, pool)]))
            if found == possible:
                break
        return found

    def _pool_number(self, step: int) -> int:
        chunk = step // self.config.chunk_steps
        with self._lock:
            self._extend(chunk)
        return self._chunk_pools[chunk]

    def _size_number(self, step: int, pool: Pool) -> int:
        return int(self._rng(_SIZE, step).integers(len(pool.buckets)))

    def _shuffled(self, number: int, epoch: int) -> np.ndarray:
        """The order in which a pool's items come in one epoch."""
        return self._rng(_EPOCH, number, epoch).permutation(len(self.pools[number].items))

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, *purpose])

    def _extend(self, chunk: int) -> None:
        while len(self._chunk_pools) <= chunk:
            # One draw in each of equal parts of 0..1, in random order: every block keeps to the probabilities, as the
            # reference keeps to its numbers of samples.
            rng = self._rng(_CHUNK, len(self._chunk_pools) // BLOCK)
            draws = (rng.permutation(BLOCK) + rng.random(BLOCK)) / BLOCK
            numbers = np.searchsorted(self._cumulative, draws * self._cumulative[-1], side="right")
            for number in numbers.tolist():
                self._chunk_pools.append(number)
                self._chunk_ranks.append(self._counts[number])
                self._counts[number] += 1


@dataclasses.dataclass(frozen=True)
class _Group:
    """Items of clips that have the same sizes before padding; `share` of the dataset's clips are of it."""

    num_objects: int
    cropped: bool
    sizes: tuple[Size, ...]
    items: list[tuple[int, int]]
    share: float


def with_buckets(config: DataConfig, videos: list[list[VideoRecord]]) -> DataConfig:
    """`config` with the buckets of the datasets that leave them open, found from their videos.

    Args:
      videos: the records of each dataset of the config, in its order; those of datasets without weight are not used.
    Raises:
      ValueError: a dataset with weight has no video with an object.
    """
    groups = [
        _groups(config, index, videos[index]) if dataset.weight and not dataset.buckets else []
        for index, dataset in enumerate(config.datasets)
    ]
    return _with_buckets(config, groups)


def _with_buckets(config: DataConfig, groups: list[list[_Group]]) -> DataConfig:
    datasets = list(config.datasets)
    for index, dataset in enumerate(datasets):
        if groups[index] and not dataset.buckets:
            sizes: collections.Counter[Size] = collections.Counter()
            for group in groups[index]:
                for size in group.sizes:
                    sizes[size] += group.share / len(group.sizes)
            buckets = find_buckets(sizes, config.size_divisor, dataset.max_padding)
            datasets[index] = dataclasses.replace(dataset, buckets=buckets)
    return dataclasses.replace(config, datasets=tuple(datasets))


def _groups(config: DataConfig, index: int, videos: list[VideoRecord]) -> list[_Group]:
    """All clips of a dataset, as groups; their shares add up to 1."""
    dataset = config.datasets[index]
    if dataset.task == "exemplar":
        groups = _exemplar_groups(config, index, videos)
    else:
        of_size = _by_sizes(videos, [(v, -1) for v, video in enumerate(videos) if any(video.segmentations)])
        count = sum(map(len, of_size.values()))
        groups = [
            _Group(0, cropped, _sizes(dataset, size, cropped), items, len(items) / count)
            for cropped in (dataset.crop != (1.0, 1.0),)
            for size, items in sorted(of_size.items())
        ]
    if not groups:
        raise ValueError(
            f"dataset {dataset.name}: none of its {len(videos)} videos has an object (followed by enough frames for "
            f"clips of {config.clip_length})"
        )
    return groups


def _exemplar_groups(config: DataConfig, index: int, videos: list[VideoRecord]) -> list[_Group]:
    dataset = config.datasets[index]
    references = {
        (v, t): count
        for v, video in enumerate(videos)
        for t, count in clips.exemplar_references(video, config.clip_length)
    }
    boxes = {}
    if dataset.crop != (1.0, 1.0):
        boxes = {(v, t): np.stack(list(clips.object_boxes(videos[v], t).values())) for v, t in references}
    groups = []
    # Every number of objects that occurs is drawn equally often; one object may be one of many.
    counts = range(1, min(max(references.values(), default=0), dataset.max_instances) + 1)
    for num_objects in counts:
        of_count = [item for item, count in references.items() if count >= num_objects]
        rng = np.random.default_rng([config.seed, _KIND, index, num_objects])
        for size, items in sorted(_by_sizes(videos, of_count).items()):
            share = len(items) / len(of_count) / len(counts)
            croppable = 0.0
            if boxes:
                window = augment.crop_size(size, dataset.crop)
                draws = -(-_DRAWS // len(items))
                croppable = clips.share_inside([boxes[item] for item in items], num_objects, window, draws, rng)
                croppable = 0.0 if croppable < _RARE else 1.0 if croppable > 1 - _RARE else croppable
            for cropped, part in ((True, croppable), (False, 1 - croppable)):
                if part:
                    sizes = _sizes(dataset, size, cropped)
                    groups.append(_Group(num_objects, cropped, sizes, items, share * part))
    return groups


def _by_sizes(videos: list[VideoRecord], items: list[tuple[int, int]]) -> dict[Size, list[tuple[int, int]]]:
    """Items by the size of their frames."""
    result = collections.defaultdict(list)
    for v, t in items:
        result[videos[v].height, videos[v].width].append((v, t))
    return result


def _sizes(dataset: DatasetConfig, size: Size, cropped: bool) -> tuple[Size, ...]:
    """Sizes of clips before padding, one per entry of `min_dims`."""
    return tuple(clip_size(size, dataset, min_dim, cropped) for min_dim in dataset.min_dims or (None,))


def _pools(index: int, config: DatasetConfig, groups: list[_Group], probability: float) -> list[Pool]:
    """The pools of one dataset; their probabilities add up to `probability`."""
    merged: dict[tuple, list[_Group]] = collections.defaultdict(list)
    for group in groups:
        buckets = tuple(smallest_bucket(size, config.buckets) for size in group.sizes)
        merged[group.num_objects, group.cropped, buckets].append(group)
    return [
        Pool(
            dataset=index,
            task=config.task,
            num_objects=num_objects,
            cropped=cropped,
            buckets=buckets,
            items=np.asarray(sorted(item for group in members for item in group.items), np.int64),
            probability=probability * sum(group.share for group in members),
        )
        for (num_objects, cropped, buckets), members in sorted(merged.items())
    ]


def _image_pools(index: int, config: DatasetConfig, num_images: int, probability: float) -> list[Pool]:
    """A pool of all images for each task, since their clips are of one size and serve any; see `_pools`."""
    items = np.stack([np.arange(num_images), np.full(num_images, -1)], 1)
    return [
        Pool(index, task, 0, True, config.buckets, items, probability * share)
        for task, share in config.task_shares.items()
    ]
