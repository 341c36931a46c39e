"""One device for several visitors: their clips go through the network one at a time, first come, first served."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from tarvis_jax.inference.predictor import ClassClip, Predictor


class Turns:
    """A lock that is given in the order in which it was asked for (threading.Lock promises no order)."""

    def __init__(self):
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()  # the first one has the turn

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until all who asked before are done."""
        mine = threading.Event()
        with self._guard:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.set()
        mine.wait()
        try:
            yield
        finally:
            with self._guard:
                self._waiting.popleft()
                if self._waiting:
                    self._waiting[0].set()


class PredictorInTurns:
    """A predictor that several sessions use at once: it segments one clip at a time, in the order of the calls.

    A visitor with a long video so waits for at most one clip of every other visitor before each of their own, and the
    memory of the device need only suffice for one clip. All else is the predictor's own.
    """

    def __init__(self, predictor: Predictor):
        self._predictor = predictor
        self._turns = Turns()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._predictor, name)

    def segment_classes(self, *args: Any, **kwargs: Any) -> ClassClip:
        with self._turns.turn():
            return self._predictor.segment_classes(*args, **kwargs)

    def segment_objects(self, *args: Any, **kwargs: Any) -> Any:
        with self._turns.turn():
            return self._predictor.segment_objects(*args, **kwargs)
