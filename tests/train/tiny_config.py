"""A config whose training takes seconds once compiled: one exemplar dataset, a model of one layer of each kind."""

import ml_collections

from configs import quickstart
from tests import tiny


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: the number of steps."""
    config = quickstart.get_config()
    config.data.datasets = tuple(d for d in config.data.datasets if d["name"] == "DAVIS")
    config.data.batch_size = 2
    config.data.clip_length = 2
    config.data.prefetch = 1
    config.synthetic.num_train = 4
    config.synthetic.num_val = 1
    config.synthetic.num_frames = 4
    config.model.update({name: getattr(tiny.TRAINED, name) for name in config.model})
    config.model.semantic_classes = ()  # DAVIS has no classes
    config.loss.num_points = 16
    config.optimizer.warmup_steps = 1
    config.train.num_steps = int(arg)
    config.train.checkpoint_steps = 10
    config.train.log_steps = 1
    config.train.tensorboard = False
    config.train.final_eval = False
    config.train.demo_videos = 0
    return config
