"""Training batches: samples stacked, ordered and made ahead by threads.

`train_batches` yields the batch contract of docs/architecture.md.
"""

import collections
import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import cv2
import numpy as np

from input_pipeline import mixture, readers, samples, targets, workers
from input_pipeline.bad_records import SKIP, LeftOut
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord
from input_pipeline.shards import videos as shards
from tarvis_jax.datasets import TASKS

Batch = dict[str, np.ndarray]


_KEYS = {
    "images": np.uint8,
    "id_map": np.uint8,
    "bit_planes": np.uint8,
    "classes": np.int32,
    "valid_instances": np.bool_,
    "class_map": np.uint8,
    "reference_frame": np.int32,
    "points_yx": np.float32,
}


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What travels with a batch on the host: names of dataset and task, and the step it is for."""

    dataset: str
    task: str
    step: int

    @property
    def kind(self) -> tuple[str, str]:
        """(dataset, task): what decides how a batch is trained."""
        return self.dataset, self.task


def batch_keys(task: str) -> tuple[str, ...]:
    """Names of the arrays that a batch of a task can have: its masks are `id_map` or `bit_planes`."""
    extra = {key for keys in TASKS.values() for key in keys} - set(TASKS[task])
    return tuple(key for key in _KEYS if key not in extra)


def batch_shapes(
    config: DataConfig, dataset: DatasetConfig, bucket: tuple[int, int], task: str | None = None
) -> dict[str, tuple[tuple[int, ...], type]]:
    """(shape, dtype) of each array of a whole batch of a dataset in one of its buckets, as the compiled step takes it.

    `task` is one of those that the dataset is trained on; None: its own.
    """
    task = task or dataset.task
    b, t, n = config.batch_size, config.clip_length, dataset.num_slots(task)
    shapes = {
        "images": (b, t, *bucket, 3),
        "bit_planes": (b, targets.num_planes(n), t, *bucket),
        "classes": (b, n),
        "valid_instances": (b, n),
        "class_map": (b, t, *bucket),
        "reference_frame": (b,),
        "points_yx": (b, n, 2),
    }
    return {key: (shapes[key], _KEYS[key]) for key in batch_keys(task) if key in shapes}


def require_data(config: DataConfig) -> None:
    """Raises ValueError where files that training reads are absent; a matter of moments, since nothing is read."""
    if not config.shards:
        readers.require_training_files([each for each in config.datasets if each.weight], config.workspace)


def read_videos(config: DataConfig, left_out: LeftOut | None = None) -> list[list[VideoRecord]]:
    """The records of each dataset of the mixture, in the config's order; none of a dataset without weight.

    Args:
      config: the mixture.
      left_out: where bad videos are noted if `config.on_bad_record` says so; None: they are logged.
    Raises:
      ValueError: workspace or annotations are missing or wrong.
    """
    left_out = left_out or LeftOut()
    require_data(config)
    return [_training_videos(dataset, config, left_out) if dataset.weight else [] for dataset in config.datasets]


def train_batches(
    config: DataConfig,
    *,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    videos: list[list[VideoRecord]] | None = None,
    plans: mixture.Mixture | None = None,
    left_out: LeftOut | None = None,
) -> Iterator[tuple[BatchInfo, Batch]]:
    """Endless batches from `start_step` on, or some samples of each.

    Starting at step k gives exactly what an uninterrupted run gives from step k on.

    Args:
      config: the mixture.
      start_step: the first step.
      rows: numbers, 0..batch_size-1, of the samples of each batch that this process loads; None: all.
      videos: the records of each dataset, in the config's order; read from files if None.
      plans: of `config` and `videos`; made if None.
      left_out: where bad records are noted if `config.on_bad_record` says so; None: they are logged.
    Yields:
      `BatchInfo` and a dict of numpy arrays: `images` uint8 [B, T, H, W, 3] RGB, padded with 128; the masks of N
      targets as `id_map` uint8 [B, T, H, W] (slot + 1, 0 where none) or, where targets overlap, as `bit_planes` uint8
      [B, ceil(N / 8), T, H, W] (see `targets.pack_masks`); `classes` int32 [B, N] (1..K, 0 where invalid and in
      exemplar batches); `valid_instances` bool [B, N]; panoptic: `class_map` uint8 [B, T, H, W] (0..K-1, 255 where
      ignored and in the padding); exemplar: `reference_frame` int32 [B], `points_yx` float32 [B, N, 2], normalized to
      the padded image, 0 where invalid.
    Raises:
      ValueError: at once for settings, workspace and annotations; while iterating for unreadable frames.
      WorkerError: while iterating, a worker process ended.
    """
    rows = range(config.batch_size) if rows is None else rows
    if not rows or not set(rows) <= set(range(config.batch_size)):
        raise ValueError(f"rows: expected numbers from 0 to {config.batch_size - 1}, found {list(rows)}")
    if start_step < 0:
        raise ValueError(f"start_step should be >= 0, found {start_step}")
    left_out = left_out or LeftOut()
    if videos is None:
        videos = read_videos(config, left_out)
    return _iterate(config, plans or mixture.Mixture(config, videos), videos, start_step, rows, left_out)


def _training_videos(dataset: DatasetConfig, config: DataConfig, left_out: LeftOut) -> list[VideoRecord]:
    if config.shards:
        return shards.training_videos(dataset, config.shards)
    return readers.training_videos(dataset, config.workspace, left_out if config.on_bad_record == SKIP else None)


def _iterate(
    config: DataConfig,
    plans: mixture.Mixture,
    videos: list[list[VideoRecord]],
    start_step: int,
    rows: Sequence[int],
    left_out: LeftOut,
) -> Iterator[tuple[BatchInfo, Batch]]:
    cv2.setNumThreads(1)  # samples already run in parallel
    # With workers, one batch more than they can fill, so that none of them waits for the last sample of a batch.
    at_once = 1 if config.num_parallel <= 1 else 1 + -(-config.num_parallel // len(rows))
    with contextlib.ExitStack() as stack:  # ends from the bottom up
        threads = stack.enter_context(ThreadPoolExecutor(at_once))
        load_samples = _sample_source(config, plans, videos, stack, left_out)
        stack.callback(functools.partial(threads.shutdown, wait=False, cancel_futures=True))
        del videos  # worker processes have them

        def load(step: int) -> tuple[BatchInfo, Batch]:
            plan = plans.plan(step)
            batch = targets.stack_samples(load_samples(plan, rows))
            info = BatchInfo(config.datasets[plan.pool.dataset].name, plan.pool.task, step)
            return info, {key: batch[key] for key in _KEYS if key in batch}

        ahead: collections.deque[Future[tuple[BatchInfo, Batch]]] = collections.deque()
        for step in itertools.count(start_step):
            ahead.append(threads.submit(load, step))
            if len(ahead) == at_once + config.prefetch:
                yield ahead.popleft().result()


def _sample_source(
    config: DataConfig,
    plans: mixture.Mixture,
    videos: list[list[VideoRecord]],
    stack: contextlib.ExitStack,
    left_out: LeftOut,
) -> Callable[[mixture.BatchPlan, Sequence[int]], list[Batch]]:
    """What loads samples of a batch; `stack` ends what was started for it."""
    if config.num_parallel <= 1:
        loader = samples.SampleLoader(config, videos, left_out)
        return lambda plan, rows: [loader.load(plan, row) for row in rows]
    threads = stack.enter_context(ThreadPoolExecutor(config.num_parallel))  # each waits for one worker
    pool = workers.WorkerPool(config, plans.pools, videos, left_out)
    stack.callback(pool.close)  # before the threads end: those that wait are set free
    return lambda plan, rows: list(threads.map(lambda row: pool.load(plan, row), rows))
