"""Writes a run's batches to a file, to train elsewhere: on a machine without TensorFlow or without the data."""

import pathlib

from absl import logging

from input_pipeline.batches import train_batches
from input_pipeline.recorded import record_batches
from input_pipeline.synthetic import prepare_data
from tarvis_jax.run_config import Config


def record(config: Config, workdir: pathlib.Path | str, path: pathlib.Path | str, count: int) -> None:
    """Writes the first `count` batches that `train(config, workdir)` would take; `data.recorded` takes the file.

    Raises:
      ValueError: the config or the data do not fit, as in training.
    """
    if count < 1:
        raise ValueError(f"batches to record: expected at least 1, found {count}")
    data_config = prepare_data(config.data, config.synthetic, workdir)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    record_batches(path, train_batches(data_config), count)
    logging.info("%d batches in %s (%.1f MB)", count, path, path.stat().st_size / 1e6)
