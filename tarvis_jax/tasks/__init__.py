"""One file per task: which queries it asks the network with, and what it trains them on."""

from tarvis_jax.datasets import EXEMPLAR, INSTANCE, PANOPTIC
from tarvis_jax.run_config import Config
from tarvis_jax.tasks import exemplar, instance, panoptic
from tarvis_jax.tasks.objective import Objective

_MODULES = {INSTANCE: instance, PANOPTIC: panoptic, EXEMPLAR: exemplar}


def objectives(config: Config) -> dict[str, Objective]:
    """The objective of each dataset of a run, by name; datasets that are trained alike have the same."""
    return {dataset.name: _MODULES[dataset.task].objective(config, dataset.name) for dataset in config.data.datasets}
