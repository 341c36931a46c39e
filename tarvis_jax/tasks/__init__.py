"""One file per task, of the task's name: which queries it asks the network with, and what it trains them on."""

import importlib

from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective


def objectives(config: Config) -> dict[tuple[str, str], Objective]:
    """The objective of each kind of batch of a run, by (dataset, task); what is trained alike has the same."""
    return {
        (dataset.name, task): importlib.import_module(f"{__name__}.{task}").objective(config, dataset.name)
        for dataset in config.data.datasets
        for task in dataset.task_shares
    }
