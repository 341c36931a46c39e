"""A process of two that train together, where one meets a bug: python -m tests.parallel.lost ADDRESS NUMBER

The training is a sum over both, again and again. Process 1 gives the compiler an option that does not exist.
"""

import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from tarvis_jax import command_line
from tarvis_jax.commands import train
from tarvis_jax.parallel import distributed


def steps(config, workdir):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        multihost_utils.process_allgather(jnp.ones(2))
        if jax.process_index() == 1:
            jax.jit(jnp.sin).lower(1.0).compile({"no_such_option": 1})


if __name__ == "__main__":
    train.train = steps
    distributed.SHUTDOWN_SECONDS = 1
    address, number = sys.argv[1:]
    command_line.run_and_exit(
        lambda _: train.run_training(
            object(), "unused", coordinator_address=address, num_processes=2, process_id=int(number)
        ),
        distributed.finish,
    )
