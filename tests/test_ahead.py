"""Batches come ahead of the steps that take them: bounded, in order, with their errors in place."""

import itertools
import threading
import time

import pytest

from tarvis_jax.ahead import RunAhead


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert condition()


class Source:
    """Counts up; notes in which thread, and whether it was closed."""

    def __init__(self, fails_at: int = -1, ends_at: int = -1):
        self.taken, self.fails_at, self.ends_at, self.is_closed, self.threads = 0, fails_at, ends_at, False, set()

    def __iter__(self):
        return self

    def __next__(self) -> int:
        self.threads.add(threading.current_thread().name)
        if self.taken == self.fails_at:
            raise ValueError(f"batch {self.taken} is bad")
        if self.taken == self.ends_at:
            raise StopIteration
        self.taken += 1
        return self.taken - 1

    def close(self) -> None:
        self.is_closed = True


def test_a_slow_step_finds_its_batches_ready_and_no_more_than_two():
    source, moved = Source(), []
    with RunAhead(source, lambda item: moved.append(item) or item * 10, size=2) as batches:
        for step in range(5):
            wait_until(lambda step=step: len(moved) == step + 2)  # nobody has asked for them
            time.sleep(0.005)
            assert source.taken == step + 2 == len(moved) and batches.num_ready <= 2
            assert next(batches) == step * 10
    assert source.threads == {"batches"} and source.is_closed
    assert "batches" not in {thread.name for thread in threading.enumerate()}


def test_a_slow_loader_works_while_a_step_runs():
    """Loading and stepping take turns without it: by the clock of who waits for whom, not by the time of day."""
    is_loading, may_load = threading.Event(), threading.Event()

    def source():
        for number in itertools.count():
            is_loading.set()
            assert may_load.wait(60)
            yield number

    with RunAhead(source(), lambda item: item) as batches:
        assert is_loading.wait(60)  # before the first step asks
        may_load.set()
        assert [next(batches) for _ in range(100)] == list(range(100))


@pytest.mark.parametrize("place", ["source", "prepare"])
def test_an_error_is_raised_at_its_step(place):
    source = Source(fails_at=3 if place == "source" else -1)

    def prepare(item: int) -> int:
        if place == "prepare" and item == 3:
            raise ValueError("batch 3 is bad")
        return item

    with RunAhead(source, prepare) as batches:
        wait_until(lambda: source.taken == 2)
        assert [next(batches) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(ValueError, match="batch 3 is bad"):
                next(batches)
    assert source.is_closed


def test_the_end_of_the_source_and_an_error_of_the_step():
    source = Source(ends_at=4)
    with RunAhead(source, lambda item: item) as batches:
        assert list(batches) == [0, 1, 2, 3]
    source = Source()
    with pytest.raises(KeyboardInterrupt), RunAhead(source, lambda item: item) as batches:
        next(batches)
        raise KeyboardInterrupt
    assert source.is_closed and "batches" not in {thread.name for thread in threading.enumerate()}
