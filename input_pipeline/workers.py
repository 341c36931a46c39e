"""Samples made in processes of their own, so that decoding and augmentation use as many cores as there are.

A worker is a fresh interpreter, started with `subprocess`: it inherits neither the threads of JAX and TensorFlow nor
the caller's main module, and it never imports either library. Records are packed once, each pickled by itself, into
memory that all workers share; a worker unpacks the one that a sample needs. Samples come back through shared memory,
one block a worker. All of this memory is anonymous (it has no name in a file system), so nothing can be left behind,
whichever process is killed, and no limit of /dev/shm applies.
"""

import ctypes
import dataclasses
import itertools
import mmap
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import traceback
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

import cv2
import numpy as np

from input_pipeline import mixture, samples
from input_pipeline.bad_records import LeftOut
from input_pipeline.config import DataConfig
from input_pipeline.records import VideoRecord

_ALIGNMENT = 64  # bytes, of arrays in shared memory
# What a worker frees stays with it for its next sample: glibc would map the arrays of every sample anew, and the system
# would clear each of their pages. After so many samples it is given back all the same, because the gaps between arrays
# would slowly grow.
KEEP_FREED_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_TOP_PAD_": str(2**26)}
TRIM_EVERY = 50


class WorkerError(RuntimeError):
    """A worker process ended, or met an error that is a bug of ours."""

    exit_status = 1  # of a command that stops for it


class WorkerPool:
    """Worker processes that load the samples of a mixture; safe to use from several threads."""

    def __init__(
        self,
        config: DataConfig,
        pools: Sequence[mixture.Pool],
        videos: list[list[VideoRecord]],
        left_out: LeftOut | None = None,
    ):
        """Starts `config.num_parallel` workers.

        Args:
          config: of the mixture; the workers share out `cache_megabytes`.
          pools: of the mixture.
          videos: the records of each dataset of the config, in its order. They are not kept.
          left_out: where samples that were drawn again because a file is bad are noted.
        """
        self._pools = {id(pool): number for number, pool in enumerate(pools)}
        self._pools_themselves = pools  # so that ids stay theirs
        count = config.num_parallel
        config = dataclasses.replace(config, cache_megabytes=config.cache_megabytes // count)
        self._workers: list[_Worker] = []
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._finalizer = weakref.finalize(self, _terminate, self._workers)
        records, places = _pack(videos)
        with records:
            for _ in range(count):
                self._workers.append(_Worker(records.fileno(), left_out or LeftOut()))
        for worker in self._workers:
            worker.connection.send((config, list(pools), places))
            self._idle.put(worker)

    def load(self, plan: mixture.BatchPlan, index: int) -> dict[str, np.ndarray]:
        """Sample `index` of a batch, as `SampleLoader.load` gives it, made by whichever worker is idle.

        Raises:
          ValueError: what the loader raises.
          WorkerError: the worker is gone, or raised anything else.
        """
        plan = dataclasses.replace(plan, pool=self._pools[id(plan.pool)])
        worker = self._idle.get()
        try:
            return worker.load(plan, index)
        finally:
            self._idle.put(worker)

    @property
    def process_ids(self) -> list[int]:
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """Ends the workers; a `load` that waits for one raises WorkerError."""
        self._finalizer()


class _Worker:
    """One process: its pipe, and the memory that samples come back in."""

    def __init__(self, records: int, left_out: LeftOut):
        self._left_out = left_out
        self._file = _shared_file()
        self._memory = None
        self.connection, theirs = Pipe()
        fds = (theirs.fileno(), self._file.fileno(), records)
        path = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from input_pipeline import workers; workers.serve{fds}"],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
            env=os.environ | KEEP_FREED_MEMORY | {"PYTHONPATH": path},
        )
        theirs.close()  # the pipe ends when the worker does

    def load(self, plan: mixture.BatchPlan, index: int) -> dict[str, np.ndarray]:
        try:
            self.connection.send((plan, index))
            is_good, reply, bad_records = self.connection.recv()
        except (EOFError, OSError):
            raise WorkerError(f"a process of the input pipeline {_end_of(self.process)}") from None
        for record in bad_records:
            self._left_out.add(record)
        if not is_good:
            is_users, message = reply
            raise ValueError(message) if is_users else WorkerError(f"in a process of the input pipeline: {message}")
        layout, size = reply
        if self._memory is None or len(self._memory) < size:
            self._memory = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        return {key: np.array(array) for key, array in _arrays(self._memory, layout).items()}  # copies


def _terminate(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.process.wait()


def _end_of(process: subprocess.Popen) -> str:
    try:
        status = process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        return f"(pid {process.pid}) does not answer"
    if status == -signal.SIGKILL:
        return f"(pid {process.pid}) was killed (signal 9), as the system does when memory runs out"
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"(pid {process.pid}) {how}; what it printed stands above"


# In the worker process.


def serve(pipe: int, memory: int, records: int) -> None:
    """The life of a worker: answers requests until the other end of the pipe is closed. Arguments: file descriptors."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes of a terminal; the caller decides
    cv2.setNumThreads(1)  # processes already run in parallel
    connection, file = Connection(pipe), os.fdopen(memory, "r+b")
    try:
        config, pools, places = connection.recv()
        left_out = LeftOut(logs=False)  # the caller logs
        loader = samples.SampleLoader(config, [_PackedRecords(records, place) for place in places], left_out)
        view = None
        for number in itertools.count(1):
            plan, index = connection.recv()
            if number % TRIM_EVERY == 0:
                _trim()
            try:
                sample = loader.load(dataclasses.replace(plan, pool=pools[plan.pool]), index)
                layout, size = _layout(sample)
                if view is None or len(view) < size:
                    file.truncate(size)
                    view = mmap.mmap(file.fileno(), size)
                for key, array in _arrays(view, layout).items():
                    array[...] = sample[key]
                answer = True, (layout, size)
            except ValueError as error:
                answer = False, (True, str(error))
            except Exception:
                answer = False, (False, traceback.format_exc())
            connection.send((*answer, left_out.take_new()))
    except (EOFError, OSError):
        return  # the caller is gone


def _trim() -> None:
    """Gives memory that is free back to the system, where the C library is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim:
        trim(0)


class _PackedRecords(Sequence):
    """The records of a dataset, unpacked one at a time from the memory that all workers share."""

    def __init__(self, file: int, ends: np.ndarray):
        """`ends`: int64 [n + 1], where each record begins and the last one ends."""
        self._ends = ends
        self._memory = mmap.mmap(file, 0, access=mmap.ACCESS_READ) if ends[-1] else b""

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> VideoRecord:
        # Written by our own process into memory without a name: nobody else can have put anything there.
        return pickle.loads(memoryview(self._memory)[self._ends[index] : self._ends[index + 1]])


# On both sides.


def _pack(videos: list[list[VideoRecord]]) -> tuple[Any, list[np.ndarray]]:
    """(file of all records, for each dataset where in it they lie)."""
    file, places = _shared_file(), []
    for records in videos:
        ends = [file.tell()]
        for record in records:
            file.write(pickle.dumps(record, pickle.HIGHEST_PROTOCOL))
            ends.append(file.tell())
        places.append(np.asarray(ends, np.int64))
    file.flush()
    return file, places


def _shared_file() -> Any:
    """An empty file in memory that only those see to whom its descriptor is given; gone with the last of them."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tarvis_jax"), "w+b")
    return tempfile.TemporaryFile()


def _layout(arrays: dict[str, np.ndarray]) -> tuple[list[tuple[str, str, tuple[int, ...], int]], int]:
    """((name, dtype, shape, first byte) of each array in a block of memory, size of the block)."""
    layout, size = [], 0
    for key, value in arrays.items():
        value = np.asarray(value)
        layout.append((key, value.dtype.str, value.shape, size))
        size += -(-value.nbytes // _ALIGNMENT) * _ALIGNMENT
    return layout, size


def _arrays(memory: Any, layout: Sequence[tuple[str, str, tuple[int, ...], int]]) -> dict[str, np.ndarray]:
    """The arrays that lie in a block of memory, as views."""
    return {key: np.ndarray(shape, dtype, memory, start) for key, dtype, shape, start in layout}
