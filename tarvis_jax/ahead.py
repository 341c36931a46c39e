"""A thread that prepares what another one takes: batches for training steps, frames of a video for clips."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from absl import logging

Item = TypeVar("Item")
Result = TypeVar("Result")

_CLOSE_SECONDS = 60.0  # that a source may take to return what it is at


class RunAhead(Generic[Result]):
    """Iterates over `prepare(item)` of the items of a source, which a thread computes ahead and in order.

    At most `size` results exist that nobody has taken, the one being made included: that is what bounds memory. What
    the source or `prepare` raises is raised where its result would have been taken, after all results before it.

    Used as a context manager: on leaving, for whatever reason, the thread ends and closes the source if it is a
    generator.
    """

    def __init__(self, source: Iterator[Item], prepare: Callable[[Item], Result], size: int = 2, name: str = "batches"):
        """`name` is the thread's, for debuggers and profilers."""
        self._source, self._prepare = source, prepare
        self._results: queue.SimpleQueue[tuple[Result | None, BaseException | None]] = queue.SimpleQueue()
        self._free = threading.Semaphore(size)
        self._stopped = threading.Event()
        # A daemon: a source that never returns must not keep the process.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __enter__(self) -> "RunAhead[Result]":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._free.release()
        self._thread.join(_CLOSE_SECONDS)
        self._results.put((None, StopIteration()))  # for another thread that may be waiting for a result
        if self._thread.is_alive():
            logging.warning(
                "%s: the thread has not ended after %g s; going on without it", self._thread.name, _CLOSE_SECONDS
            )

    def __iter__(self) -> Iterator[Result]:
        return self

    @property
    def num_ready(self) -> int:
        """How many results (an error or the end counts as one) can be taken without waiting."""
        return self._results.qsize()

    def __next__(self) -> Result:
        result, error = self._results.get()
        if error is not None:
            self._results.put((None, error))  # and again, for whoever asks again
            raise error
        self._free.release()
        return result

    def _work(self) -> None:
        try:
            while not self._is_stopped_when_free():
                self._results.put((self._prepare(next(self._source)), None))
        except BaseException as error:  # StopIteration too
            self._results.put((None, error))
        finally:
            if hasattr(self._source, "close"):
                self._source.close()

    def _is_stopped_when_free(self) -> bool:
        self._free.acquire()
        return self._stopped.is_set()
