"""A config of a run of small noise batches from a file, and the file: training it takes seconds once compiled."""

import pathlib

import ml_collections
import numpy as np

from input_pipeline.batches import BatchInfo
from input_pipeline.recorded import record_batches
from tests import tiny
from tests.train import tiny_config

BATCH_SIZE = 4
NUM_BATCHES = 3


def get_config(arg: str) -> ml_collections.ConfigDict:
    """`arg`: the file of the batches."""
    config = tiny_config.get_config("8")
    (dataset,) = config.data.datasets
    config.data.datasets = (dict(dataset) | {"buckets": ((32, 32),), "max_instances": 2},)
    config.data.recorded = arg
    config.data.batch_size = BATCH_SIZE
    config.synthetic.num_train = 0
    config.train.max_samples_per_device = 1
    config.train.checkpoint_steps = 2
    config.train.demo_davis = ""
    return config


def write_batches(path: pathlib.Path, bad_step: int | None = None) -> None:
    """Records the batches; that of `bad_step` has a coordinate that is no number."""

    def batches():
        for step in range(NUM_BATCHES):
            batch = tiny.make_batch("exemplar", BATCH_SIZE, seed=step)
            masks = batch.pop("masks")
            batch["bit_planes"] = np.packbits(masks, axis=1, bitorder="little")
            if step == bad_step:
                batch["points_yx"][:] = np.nan
            yield BatchInfo("DAVIS", "exemplar", step), batch

    record_batches(path, batches(), NUM_BATCHES)
