"""Programs compiled ahead of time: one cache for training and inference, which counts and times what it compiles."""

import time
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from absl import logging


class Programs:
    """Compiled programs by key.

    Attributes:
      num_compilations: so far. Once every shape was seen it must not grow any more.
      compile_seconds: wall time of compiling so far.
    """

    def __init__(self):
        self._compiled: dict[Hashable, Any] = {}
        self.num_compilations = 0
        self.compile_seconds = 0.0

    def get(self, key: Hashable, lower: Callable[[], jax.stages.Lowered], description: str = "") -> Callable:
        """The program of `key`, compiled from what `lower` returns when it is asked for the first time.

        `description` says in the log what is being compiled, before and after; "" logs nothing.
        """
        if key not in self._compiled:
            start = time.monotonic()
            if description:
                logging.info("compiling %s", description)
            self._compiled[key] = lower().compile()
            seconds = time.monotonic() - start
            self.num_compilations += 1
            self.compile_seconds += seconds
            if description:
                logging.info("compiled in %.1f s: %s", seconds, description)
        return self._compiled[key]


def shapes_of(arguments: Any) -> Hashable:
    """Shapes and dtypes of a pytree of arrays, as a key."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
