"""SIGTERM ends a run in good order: after the step at hand all processes save, at the same step, and exit.

Whoever takes a machine away says so by SIGTERM first: Slurm, Kubernetes, a TPU that is preempted (JAX's own preemption
notice is this signal, too). One process that gets it is enough.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh

from tarvis_jax.parallel.mesh import put, replicated, split_over_devices


class InterruptedRun(RuntimeError):
    """The run was asked to end by SIGTERM; its state is saved."""

    exit_status = 128 + signal.SIGTERM  # 143, as of any program that ends for SIGTERM: launchers know it


class _CutShort(BaseException):
    """Leaves what `Interruption.may_cut_short` surrounds."""


class Interruption:
    """Listens for SIGTERM while it is used as a context manager, from `listen` on.

    Before `listen`, and at a second SIGTERM, the process ends at once.
    """

    def __init__(self, mesh: Mesh):
        """`mesh`: the devices of all processes, by which they agree."""
        self._mesh = mesh
        self._is_asked = self._may_raise = False
        self._reader: int | None = None
        self._answer: jax.Array | None = None  # whether one was asked when the step before had been started
        self._is_any = jax.jit(jnp.any, out_shardings=replicated(mesh))

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._handler_before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return self

    def listen(self) -> None:
        """From now on there is something to save. Only Python's main thread can listen; in another, nothing changes."""
        if self._reader is not None or threading.current_thread() is not threading.main_thread():
            return
        # The main thread may be waiting for devices in a library: a thread reads what has come.
        self._reader, writer = os.pipe()
        os.set_blocking(writer, False)
        self._wakeup_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_main_thread)
        threading.Thread(target=self._read, args=(self._reader,), daemon=True).start()

    def __exit__(self, *_) -> None:
        if self._reader is not None:
            os.close(signal.set_wakeup_fd(self._wakeup_before))  # the thread reads the end, and ends
            self._reader = None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler_before or signal.SIG_DFL)  # None: not of Python

    def has_been_asked(self) -> bool:
        """Whether this process got a SIGTERM."""
        return self._is_asked

    def all_agree(self) -> bool:
        """Whether a process has got a SIGTERM: the same answer in all of them, which call this once after each step.

        In a run of several processes the answer is the one to the question of the step before, so that nobody waits.
        """
        if jax.process_count() == 1:
            return self._is_asked
        sharding = split_over_devices(self._mesh)
        asked = np.full(self._mesh.size, self._is_asked)
        answer, self._answer = self._answer, self._is_any(put(asked, asked.dtype, sharding))
        return answer is not None and bool(answer)

    @contextlib.contextmanager
    def may_cut_short(self) -> Iterator[None]:
        """Around what takes long and can be done again, such as an evaluation: SIGTERM leaves it."""
        try:
            self._may_raise = True
            yield
        except _CutShort:
            logging.info("cut short by SIGTERM")
        finally:
            self._may_raise = False

    def _read(self, reader: int) -> None:
        number = 0
        with os.fdopen(reader, "rb", buffering=0) as file:
            while data := file.read(1):
                if data[0] != signal.SIGTERM:
                    continue
                number += 1
                if number > 1:
                    logging.warning("second SIGTERM: ending at once, nothing is saved")
                    os._exit(InterruptedRun.exit_status)
                self._is_asked = True
                logging.info("SIGTERM: saving after the step at hand, then ending; a second one ends at once")

    def _on_main_thread(self, *_) -> None:
        self._is_asked = True
        if self._may_raise:
            self._may_raise = False
            raise _CutShort
