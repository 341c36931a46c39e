"""Programs compiled ahead of time: one cache for training and inference, which counts and times what it compiles.

Within a process it is `Programs`; from one process to the next it is a folder, which `keep_between_runs` chooses.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import pathlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

_JAXLIB = importlib.metadata.version("jaxlib")
REPEAT_SECONDS = 30.0  # how often a long compilation is announced again
AUTO = "auto"  # as the folder of compiled programs: the user's own


@dataclasses.dataclass(frozen=True)
class Request:
    """A program to compile: its key, what traces and lowers it, and what the log calls it."""

    key: Hashable
    lower: Callable[[], jax.stages.Lowered]
    description: str


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

    def compile_all(self, requests: Sequence[Request]) -> None:
        """Compiles the programs that are not there yet side by side, as many at once as there are cores.

        Lowering is Python's work, so it happens in this thread, one program after the other; the compiler works in
        other threads meanwhile. The log of process 0 has a line for each program that is done.
        """
        missing = {request.key: request for request in requests if request.key not in self._compiled}
        if not missing:
            return
        start, total = time.monotonic(), len(missing)

        def compile_one(lowered: jax.stages.Lowered) -> tuple[Any, float]:
            since = time.monotonic()
            return lowered.compile(), time.monotonic() - since

        with _announced(f"{total} programs side by side"), ThreadPoolExecutor(num_cores()) as pool:
            try:
                running = {pool.submit(compile_one, each.lower()): each for each in missing.values()}
                for number, future in enumerate(as_completed(running), start=1):
                    request = running[future]
                    self._compiled[request.key], seconds = future.result()
                    self.num_compilations += 1
                    if jax.process_index() == 0:
                        logging.info("%d of %d compiled (%.1f s): %s", number, total, seconds, request.description)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self.compile_seconds += time.monotonic() - start


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_between_runs(folder: str = AUTO) -> None:
    """From here on JAX keeps compiled programs in a folder and takes them from there, also those of other processes.

    Several processes may share it: entries are found by a digest of the program, the compiler, its options and the
    device, of the processes of a run the first alone writes, and an entry that cannot be read is compiled anew.

    Args:
      folder: `AUTO`: that of the environment variable JAX_COMPILATION_CACHE_DIR, or else "tarvis_jax" in the user's
        folder for caches (XDG_CACHE_HOME, or ~/.cache). "": none. A folder that cannot be made is none, and a warning
        says so.
    """
    if folder == AUTO:
        caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path(caches) / "tarvis_jax")
    if folder and "://" not in folder:  # in a bucket there is nothing to make
        folder = str(pathlib.Path(folder).expanduser().absolute())
        try:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logging.warning("compiled programs are not kept for later runs: %s (train.compilation_cache)", error)
            folder = ""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", folder or None)
    if before not in (None, folder):
        compilation_cache.reset_cache()  # else JAX would stay with the folder that it has used


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


def network_compiler_options(platform: str) -> dict[str, int]:
    """Options for `jax.jit(compiler_options=...)` of a program that runs many times.

    On CPUs, LLVM optimizes at its first level: the others take more time and give no faster network.

    Args:
      platform: as in `quick_compiler_options`.
    """
    return {"xla_backend_optimization_level": 1} if platform == "cpu" else {}


def training_compiler_options(platform: str) -> dict[str, str | int]:
    """Options for `jax.jit(compiler_options=...)` of the programs of a training step: those of a network, and more.

    On CPUs, XLA gives sums and convolutions to a library that starts threads for each of them. The many small ones of a
    training step take longer that way than in XLA's own loops (docs/benchmarks.md); matrix products stay with it.

    Args:
      platform: as in `quick_compiler_options`.
    """
    options: dict[str, str | int] = {**network_compiler_options(platform)}
    if platform == "cpu" and _JAXLIB.startswith("0.10."):  # XLA refuses options that it does not know
        options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return options


def deterministic_compiler_options(platform: str) -> dict[str, bool]:
    """Options for `jax.jit(compiler_options=...)` of a program that gives the same bits in every run.

    On NVIDIA and AMD GPUs, XLA then takes no operation whose order of additions changes from run to run, and chooses
    algorithms without timing them. Programs on TPUs and CPUs are deterministic without an option.

    Args:
      platform: JAX's name of what is compiled for, such as "gpu" (`jax.Device.platform`).
    """
    return {"xla_gpu_deterministic_ops": True} if platform in ("gpu", "cuda", "rocm") else {}
