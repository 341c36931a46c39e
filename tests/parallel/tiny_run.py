"""The tiny config for runs of several processes: a step of four small clips takes a moment once compiled."""

import ml_collections

from tests.train import tiny_config


def get_config(arg: str) -> ml_collections.ConfigDict:
    """`arg`: the number of steps."""
    config = tiny_config.get_config(arg)
    (dataset,) = config.data.datasets
    config.data.datasets = (dict(dataset) | {"buckets": ((32, 32),), "max_instances": 2},)
    config.data.batch_size = 4
    config.synthetic.num_frames = 3
    config.synthetic.num_val = 2
    config.synthetic.height = config.synthetic.width = 32
    config.train.max_samples_per_device = 1
    config.train.checkpoint_steps = 2
    return config
