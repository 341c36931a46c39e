"""Batches written to one compressed file, for machines without TensorFlow or without the data."""

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from input_pipeline.batches import Batch, BatchInfo, batch_shapes
from input_pipeline.config import DataConfig

_INFO = "info"


def record_batches(path: pathlib.Path | str, batches: Iterable[tuple[BatchInfo, Batch]], count: int) -> None:
    """Writes the first `count` of `batches` to `path` (.npz), as they are.

    Raises:
      ValueError: `batches` ends before.
    """
    arrays, infos = {}, []
    for i, (info, batch) in enumerate(itertools.islice(batches, count)):
        infos.append({"dataset": info.dataset, "task": info.task, "step": info.step, "keys": list(batch)})
        arrays |= {f"{i}/{key}": value for key, value in batch.items()}
    if len(infos) < count:
        raise ValueError(f"{path}: asked to record {count} batches, but there were only {len(infos)}")
    arrays[_INFO] = np.frombuffer(json.dumps(infos).encode(), np.uint8)
    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def read_recorded_batches(
    path: pathlib.Path | str,
    *,
    config: DataConfig | None = None,
    start_step: int = 0,
    rows: Sequence[int] | None = None,
    repeat: bool = True,
) -> Iterator[tuple[BatchInfo, Batch]]:
    """The iterator of `train_batches`, from a recorded file.

    Args:
      path: what `record_batches` wrote.
      config: what the batches must fit: datasets, batch size, clip length, targets. None accepts any.
      start_step: the first step; step s takes record s modulo their number.
      rows: numbers of the samples of each batch that are given; None: all.
      repeat: go on from the start when the records end; otherwise stop there.
    Raises:
      ValueError: the file is absent or is no such recording, does not fit `config`, or has no such `rows`.
    """
    path = pathlib.Path(path)
    try:
        with np.load(path) as file:
            stored = {key: file[key] for key in file.files}
        infos = json.loads(stored[_INFO].tobytes())
        records = [(info, {key: stored[f"{i}/{key}"] for key in info["keys"]}) for i, info in enumerate(infos)]
    except Exception as error:
        raise _no_recording(path, error) from error
    if config is not None:
        _check_fits(path, records, config)
    size = len(records[0][1]["images"])
    rows = range(size) if rows is None else rows
    if not rows or not set(rows) <= set(range(size)):
        raise ValueError(f"{path}: its batches have {size} samples; expected rows of those, found {list(rows)}")
    return _replay(records, start_step, list(rows), repeat)


def with_recorded_buckets(config: DataConfig) -> DataConfig:
    """`config` with the sizes of its recorded batches as buckets; the weight of a dataset that has no batch is 0.

    Only the headers of the arrays are read.

    Raises:
      ValueError: the file is absent or is no such recording.
    """
    buckets = collections.defaultdict(set)
    try:
        with np.load(config.recorded) as file:
            for i, info in enumerate(json.loads(file[_INFO].tobytes())):
                with file.zip.open(f"{i}/images.npy") as member:
                    np.lib.format.read_magic(member)
                    buckets[info["dataset"]].add(np.lib.format.read_array_header_1_0(member)[0][2:4])
    except Exception as error:
        raise _no_recording(config.recorded, error) from error
    datasets = [
        dataclasses.replace(
            dataset,
            buckets=tuple(sorted(buckets.get(dataset.name, ()))),
            weight=dataset.weight if dataset.name in buckets else 0.0,
        )
        for dataset in config.datasets
    ]
    return dataclasses.replace(config, datasets=tuple(datasets))


def _no_recording(path: pathlib.Path | str, error: Exception) -> ValueError:
    return ValueError(f"{path}: expected a file written by record_batches ({type(error).__name__}: {error})")


def _check_fits(path: pathlib.Path, records: list[tuple[dict, Batch]], config: DataConfig) -> None:
    """ValueError for the first batch that a run with this config would not have made."""
    datasets = {dataset.name: dataset for dataset in config.datasets}
    for i, (info, batch) in enumerate(records):
        dataset = datasets.get(info["dataset"])
        if dataset is None or info["task"] not in dataset.task_shares:
            raise ValueError(
                f"{path}: batch {i} is of {info['dataset']} ({info['task']}); data.datasets has "
                f"{sorted((d.name, task) for d in config.datasets for task in d.task_shares)}"
            )
        bucket = batch["images"].shape[2:4]
        expected = {key: shape for key, (shape, _) in batch_shapes(config, dataset, bucket, info["task"]).items()}
        if "id_map" in batch:
            expected["id_map"] = batch["images"].shape[:-1]
            del expected["bit_planes"]
        found = {key: value.shape for key, value in batch.items()}
        fits = bucket in dataset.buckets if dataset.buckets else not any(side % config.size_divisor for side in bucket)
        if not fits or found != expected:
            allowed = f"one of {dataset.buckets}" if dataset.buckets else f"multiples of {config.size_divisor}"
            raise ValueError(
                f"{path}: batch {i} of {dataset.name} has the shapes {found}; by the config they are {expected}, "
                f"height and width {allowed}"
            )


def _replay(records, start_step, rows, repeat) -> Iterator[tuple[BatchInfo, Batch]]:
    for step in itertools.count(start_step) if repeat else range(start_step, len(records)):
        info, batch = records[step % len(records)]
        yield BatchInfo(info["dataset"], info["task"], step), {key: value[rows] for key, value in batch.items()}
