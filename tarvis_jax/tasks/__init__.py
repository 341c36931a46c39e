"""One file per task, of the task's name: which queries it asks the network with, and what it trains them on."""

import importlib

from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective


def objectives(config: Config) -> dict[str, Objective]:
    """The objective of each dataset of a run, by name; datasets that are trained alike have the same."""
    return {
        dataset.name: importlib.import_module(f"{__name__}.{dataset.task}").objective(config, dataset.name)
        for dataset in config.data.datasets
    }
