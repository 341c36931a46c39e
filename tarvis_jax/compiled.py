"""Programs compiled ahead of time: one cache for training and inference, which counts and times what it compiles."""

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging

REPEAT_SECONDS = 30.0  # how often a long compilation is announced again


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

        `description` says in the log of process 0 what is being compiled: before, every `REPEAT_SECONDS` while it
        lasts, and after; "" logs nothing.
        """
        if key not in self._compiled:
            start = time.monotonic()
            with _announced(description):
                self._compiled[key] = lower().compile()
            self.num_compilations += 1
            self.compile_seconds += time.monotonic() - start
        return self._compiled[key]

    def all(self) -> list[jax.stages.Compiled]:
        """What was compiled so far, in this order."""
        return list(self._compiled.values())


@contextlib.contextmanager
def _announced(description: str) -> Iterator[None]:
    """Logs that `description` is being compiled inside the block; a thread repeats it, since compiling blocks."""
    if not description or jax.process_index() != 0:
        yield
        return
    start, is_done = time.monotonic(), threading.Event()

    def repeat() -> None:
        while not is_done.wait(REPEAT_SECONDS):
            logging.info("still compiling %s (%.0f s)", description, time.monotonic() - start)

    thread = threading.Thread(target=repeat, daemon=True)
    logging.info("compiling %s", description)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()
    logging.info("compiled in %.1f s: %s", time.monotonic() - start, description)


def shapes_of(arguments: Any) -> Hashable:
    """Shapes and dtypes of a pytree of arrays, as a key."""
    leaves, structure = jax.tree.flatten(arguments)
    return structure, tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)


def quick_compiler_options(platform: str) -> dict[str, int]:
    """Options for `jax.jit(compiler_options=...)` of a program that runs once, such as the drawing of weights.

    On CPUs, compiling without optimization is several times faster. No other platform has been tried.

    Args:
      platform: JAX's name of what is compiled for, such as "cpu" (`jax.Device.platform`).
    """
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
