"""One cache of programs: what is compiled is counted, timed and announced."""

import re
import time
import types
from collections.abc import Callable

import jax
import pytest
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

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


def test_programs_are_compiled_side_by_side(lines, monkeypatch):
    monkeypatch.setattr(compiled, "num_cores", lambda: 2)
    begun: list[int] = []

    class Waiting(FakeLowered):
        """Is compiled when the other one is being compiled, too."""

        def __init__(self, value: int):
            super().__init__(value, lambda: len(begun) == 2)

        def compile(self):
            begun.append(self._value)
            return super().compile()

    programs = compiled.Programs()
    programs.get("c", lambda: FakeLowered(3))
    requests = [compiled.Request(key, lambda v=v: Waiting(v), f"number {v}") for v, key in enumerate("ab")]
    requests += [requests[0], compiled.Request("c", lambda: pytest.fail("it is there"), "")]
    programs.compile_all(requests)
    programs.compile_all(requests)  # nothing is left to do
    assert programs.num_compilations == 3 and sorted(begun) == [0, 1]
    assert [programs.get(key, pytest.fail)() for key in "abc"] == [0, 1, 3]
    assert lines[0] == "compiling 2 programs side by side" and lines[-1].endswith("s: 2 programs side by side")
    assert sorted(re.fullmatch(r"(\d) of 2 compiled \(\d+\.\d s\): number \d", line)[1] for line in lines[1:-1]) == [
        "1",
        "2",
    ]


def test_a_program_that_cannot_be_compiled_ends_the_others(lines):
    def fail():
        raise RuntimeError("out of memory")

    programs = compiled.Programs()
    lowered = types.SimpleNamespace(compile=fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        programs.compile_all([compiled.Request("a", lambda: lowered, "the update")])
    assert programs.num_compilations == 0


@pytest.fixture
def cache_setting():
    """Of the folder; the cache is on, and takes programs that compile in no time."""
    changes = {"jax_enable_compilation_cache": True, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: getattr(jax.config, name) for name in ("jax_compilation_cache_dir", *changes)}
    for name, value in changes.items():
        jax.config.update(name, value)
    yield lambda: jax.config.jax_compilation_cache_dir
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_where_programs_are_kept(tmp_path, monkeypatch, cache_setting):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    compiled.keep_between_runs()
    assert cache_setting() == str(tmp_path / "caches" / "tarvis_jax") and (tmp_path / "caches" / "tarvis_jax").is_dir()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "of_jax"))
    compiled.keep_between_runs()
    assert cache_setting() == str(tmp_path / "of_jax")
    compiled.keep_between_runs(str(tmp_path / "given"))
    assert cache_setting() == str(tmp_path / "given") and (tmp_path / "given").is_dir()
    # Each folder gets what is compiled while it is chosen.
    jax.jit(lambda x: x + 1)(1)
    compiled.keep_between_runs(str(tmp_path / "other"))
    jax.jit(lambda x: x + 2)(1)
    assert list((tmp_path / "given").glob("*-cache")) and list((tmp_path / "other").glob("*-cache"))
    compiled.keep_between_runs("gs://bucket/programs")
    assert cache_setting() == "gs://bucket/programs"
    compiled.keep_between_runs("")
    assert cache_setting() is None
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warnings.append(text % values))
    (tmp_path / "file").touch()
    compiled.keep_between_runs(str(tmp_path / "file" / "folder"))
    assert cache_setting() is None and "compiled programs are not kept for later runs" in warnings[0]


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
