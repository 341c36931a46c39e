"""One cache of programs: what is compiled is counted, timed and announced."""

import time

import pytest
from absl import logging

from tarvis_jax import compiled


class FakeLowered:
    """Takes `seconds` to compile, into a program that returns `value`."""

    def __init__(self, value: int, seconds: float):
        self._value, self._seconds = value, seconds

    def compile(self):
        time.sleep(self._seconds)
        return lambda: self._value


@pytest.fixture
def lines(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(logging, "info", lambda text, *values: found.append(text % values))
    return found


def test_each_program_is_compiled_once(lines):
    programs = compiled.Programs()
    for _ in range(2):
        assert programs.get("a", lambda: FakeLowered(1, 0.01), "the first")() == 1
        assert programs.get("b", lambda: FakeLowered(2, 0.01))() == 2
    assert programs.num_compilations == 2 and programs.compile_seconds >= 0.02
    assert lines[0] == "compiling the first" and lines[1].startswith("compiled in 0.0 s: the first") and len(lines) == 2


def test_a_long_compilation_is_announced_again(lines, monkeypatch):
    monkeypatch.setattr(compiled, "REPEAT_SECONDS", 0.1)
    compiled.Programs().get("a", lambda: FakeLowered(1, 0.5), "the update")
    repeated = [line for line in lines if line.startswith("still compiling the update (")]
    assert 2 <= len(repeated) <= 4 and lines[0] == "compiling the update" and lines[-1].startswith("compiled in 0.")


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
