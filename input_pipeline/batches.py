"""Training batches: samples stacked, ordered and prefetched by a tf.data graph.

`train_batches` yields the batch contract of docs/architecture.md. TensorFlow is imported inside the functions, so that
everything else here works on machines without it.
"""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

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
_FOREVER = 2**62


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
    if not (config.shards or config.recorded):
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
    left_out: LeftOut | None = None,
) -> Iterator[tuple[BatchInfo, Batch]]:
    """Endless batches from `start_step` on, or some samples of each.

    Starting at step k gives exactly what an uninterrupted run gives from step k on.

    Args:
      config: the mixture.
      start_step: the first step.
      rows: numbers, 0..batch_size-1, of the samples of each batch that this process loads; None: all.
      videos: the records of each dataset, in the config's order; read from files if None.
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
    plans = mixture.Mixture(config, videos)
    return _iterate(config, plans, videos, start_step, rows, left_out)


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
    errors: dict[int, Exception] = {}
    calls = _Calls()
    with contextlib.ExitStack() as stack:
        stack.callback(calls.wait)  # last of all
        load_samples, at_once = _sample_source(config, plans, videos, len(rows), stack, left_out)
        stack.callback(calls.stop)  # first of all
        del videos  # worker processes have them

        def load(step: np.ndarray) -> list[np.ndarray]:
            # tf.data would wrap an exception in a long text of its own; it is kept aside and raised by the consumer.
            batch: Batch = {}
            try:
                with calls.one():
                    if not calls.are_stopped:
                        batch = targets.stack_samples(load_samples(plans.plan(int(step)), rows))
            except Exception as error:
                errors[int(step)] = error
                if not calls.are_stopped:  # then there is no consumer, and tf.data would print the exception
                    raise
            return [np.asarray(batch.get(key, np.zeros(0, dtype)), dtype) for key, dtype in _KEYS.items()]

        stream = iter(_graph(config, load, start_step, at_once))
        step = start_step
        while True:
            try:
                arrays = next(stream)
            except Exception:
                if errors:
                    raise errors[min(errors)] from None
                raise
            pool = plans.plan(step).pool
            info = BatchInfo(config.datasets[pool.dataset].name, pool.task, step)
            yield info, {key: array for key, array in zip(_KEYS, arrays, strict=True) if array.size}
            step += 1


class _Calls:
    """Counts calls that run, so that the end of the iterator can wait for them.

    A thread of TensorFlow that is in Python code while the interpreter is taken down aborts the process.
    """

    def __init__(self):
        self._changed = threading.Condition()
        self._running = 0
        self.are_stopped = False

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """From now on nobody asks for what calls return."""
        self.are_stopped = True

    def wait(self) -> None:
        """Returns when no call runs."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)


def _sample_source(
    config: DataConfig,
    plans: mixture.Mixture,
    videos: list[list[VideoRecord]],
    batch_size: int,
    stack: contextlib.ExitStack,
    left_out: LeftOut,
) -> tuple[Callable[[mixture.BatchPlan, Sequence[int]], list[Batch]], int]:
    """(loads samples of a batch, how many batches to load at once); `stack` ends what was started for it."""
    if config.num_parallel <= 1:
        loader = samples.SampleLoader(config, videos, left_out)
        return lambda plan, rows: [loader.load(plan, row) for row in rows], 1
    threads = stack.enter_context(ThreadPoolExecutor(config.num_parallel))  # each waits for one worker
    pool = workers.WorkerPool(config, plans.pools, videos, left_out)
    stack.callback(pool.close)  # first of all: threads that wait are set free

    def load_samples(plan: mixture.BatchPlan, rows: Sequence[int]) -> list[Batch]:
        return list(threads.map(lambda row: pool.load(plan, row), rows))

    # One batch more than the workers can fill, so that none of them waits for the last sample of a batch.
    return load_samples, 1 + -(-config.num_parallel // batch_size)


def _graph(config: DataConfig, load, start_step: int, at_once: int):
    import cv2

    try:
        import tensorflow as tf
    except ImportError as error:
        raise ValueError(
            f"batches of videos need the package tensorflow ({error}): run `pip install tensorflow-cpu`, "
            "or train from recorded batches (data.recorded)"
        ) from error

    cv2.setNumThreads(1)  # samples already run in parallel
    tf.config.set_visible_devices([], "GPU")
    types = [tf.as_dtype(dtype) for dtype in _KEYS.values()]
    graph = tf.data.Dataset.range(start_step, _FOREVER)
    graph = graph.map(
        lambda step: tf.numpy_function(load, [step], types, stateful=False),
        num_parallel_calls=at_once,
        deterministic=True,
    )
    graph = graph.prefetch(config.prefetch)
    options = tf.data.Options()
    options.threading.private_threadpool_size = at_once
    # Nothing is left to tune, and its thread would keep the process for up to a minute at the end.
    options.autotune.enabled = False
    return graph.with_options(options).as_numpy_iterator()
