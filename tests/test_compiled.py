"""One cache of programs: what is compiled is counted, timed and announced."""

import re
import time
from collections.abc import Callable

import pytest
from absl import logging

from tarvis_jax import compiled


class FakeLowered:
    """Compiles into a program that returns `value`, as soon as `is_done` says so."""

    def __init__(self, value: int, is_done: Callable[[], bool] = lambda: True):
        self._value, self._is_done = value, is_done

    def compile(self):
        deadline = time.monotonic() + 60
        while not self._is_done() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.01)
        return lambda: self._value


@pytest.fixture
def lines(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *values: found.append(text % values))
    return found


def test_each_program_is_compiled_once(lines):
    programs = compiled.Programs()
    for _ in range(2):
        assert programs.get("a", lambda: FakeLowered(1), "the first")() == 1
        assert programs.get("b", lambda: FakeLowered(2))() == 2
    assert programs.num_compilations == 2 and programs.compile_seconds >= 0.02
    assert len(lines) == 2 and lines[0] == "compiling the first"
    assert re.fullmatch(r"compiled in \d+\.\d s: the first", lines[1])


def test_a_long_compilation_is_announced_again(lines, monkeypatch):
    monkeypatch.setattr(compiled, "REPEAT_SECONDS", 0.02)
    # The compilation ends when it was announced three times.
    compiled.Programs().get("a", lambda: FakeLowered(1, lambda: len(lines) >= 3), "the update")
    assert lines[0] == "compiling the update" and lines[-1].startswith("compiled in ")
    repeated = lines[1:-1]
    assert len(repeated) >= 2 and all(re.fullmatch(r"still compiling the update \(\d+ s\)", line) for line in repeated)
    time.sleep(0.1)
    assert lines[-1].startswith("compiled in ")  # the thread has ended


def test_a_compilation_that_fails_is_not_announced_further(lines, monkeypatch):
    monkeypatch.setattr(compiled, "REPEAT_SECONDS", 0.05)
    programs = compiled.Programs()

    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        programs.get("a", fail, "the update")
    time.sleep(0.15)
    assert lines == ["compiling the update"] and programs.num_compilations == 0


def test_unoptimized_on_cpus_only():
    assert compiled.quick_compiler_options("cpu") == {"xla_backend_optimization_level": 0}
    assert compiled.quick_compiler_options("gpu") == compiled.quick_compiler_options("tpu") == {}
