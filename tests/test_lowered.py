"""Lowered programs that are kept: taken again where nothing has changed, and made anew where anything has."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from tarvis_jax import lowered

ARGUMENTS = ({"x": jax.ShapeDtypeStruct((3,), jnp.float32)}, [jax.ShapeDtypeStruct((3,), jnp.float32)])
VALUES = ({"x": np.arange(3, dtype=np.float32)}, [np.ones(3, np.float32)])
DONATES = {"donate_argnums": 1}


class Function:
    """x + y and its sum; counts how often it is traced."""

    __name__ = "add"

    def __init__(self):
        self.num_traces = 0

    def __call__(self, first, second):
        self.num_traces += 1
        total = first["x"] + second[0]
        return [total], {"sum": total.sum()}


@pytest.fixture
def warnings(monkeypatch):
    found: list[str] = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: found.append(text % values))
    return found


def kept(programs_folder):
    return sorted(programs_folder.glob("lowered-*"))


def assert_adds(program: jax.stages.Lowered) -> None:
    values = jax.tree.map(jnp.asarray, VALUES)
    [total], sums = program.compile()(*values)
    np.testing.assert_array_equal(total, [1, 2, 3])
    assert sums["sum"] == 6
    assert values[1][0].is_deleted() and not values[0]["x"].is_deleted()


def test_a_program_is_traced_once_for_all_processes(programs_folder, warnings):
    first, second = Function(), Function()
    assert_adds(lowered.lower(first, ARGUMENTS, DONATES, "origin"))
    assert_adds(lowered.lower(second, ARGUMENTS, DONATES, "origin"))
    assert first.num_traces == 1 and second.num_traces == 0
    assert len(kept(programs_folder)) == 1 and not warnings


def test_the_compiler_is_given_the_same_program_again(programs_folder):
    programs = [lowered.lower(Function(), ARGUMENTS, DONATES, "origin").as_text() for _ in range(2)]
    assert programs[0] == programs[1] and "module @jit_add" in programs[0]


CHANGES = {
    "origin": {"origin": "other"},
    "shapes": {"arguments": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((4,), leaf.dtype), ARGUMENTS)},
    "options": {"options": {}},
}


@pytest.mark.parametrize("what", [*CHANGES, "code", "version", "setting", "environment", "name"])
def test_whatever_changes_it_is_made_anew(programs_folder, monkeypatch, what):
    arguments = {"arguments": ARGUMENTS, "options": DONATES, "origin": "origin"}
    lowered.lower(Function(), **arguments)
    function = Function()
    if what == "code":
        monkeypatch.setattr(lowered, "_code", lambda: "other")
    elif what == "version":
        monkeypatch.setattr(lowered.importlib.metadata, "version", lambda name: "9")
    elif what == "environment":
        monkeypatch.setenv("TARVIS_MS_DEFORM_ATTN", "xla")
    elif what == "name":
        function.__name__ = "other"
    if what == "setting":
        with jax.default_matmul_precision("highest"):
            lowered.lower(function, **arguments)
    else:
        lowered.lower(function, **arguments | CHANGES.get(what, {}))
    assert function.num_traces == 1 and len(kept(programs_folder)) == 2


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content * 2])
def test_a_damaged_file_is_replaced(programs_folder, warnings, damage):
    lowered.lower(Function(), ARGUMENTS, DONATES, "origin")
    [file] = kept(programs_folder)
    file.write_bytes(damage(file.read_bytes()))
    functions = [Function(), Function()]
    for function in functions:
        assert_adds(lowered.lower(function, ARGUMENTS, DONATES, "origin"))
    assert warnings == [f"{file}: a kept program is damaged, it is made anew"] and kept(programs_folder) == [file]
    assert [function.num_traces for function in functions] == [1, 0]


def test_a_folder_that_takes_no_files_is_said(programs_folder, warnings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "absent"))
    assert_adds(lowered.lower(Function(), ARGUMENTS, DONATES, "origin"))
    assert len(warnings) == 1 and "a program cannot be kept for later runs" in warnings[0]


def test_what_is_code(programs_folder, tmp_path, monkeypatch):
    """A user's module that is loaded counts, also once it is edited; libraries do not. A lost one is not known."""
    digests = []
    for content in (None, "x = 1", "x = 2"):
        if content is not None:
            (tmp_path / "of_user.py").write_text(content)
            monkeypatch.setitem(sys.modules, "of_user", types.SimpleNamespace(__file__=str(tmp_path / "of_user.py")))
        lowered._code.cache_clear()
        digests.append(lowered._code())
    assert len(set(digests)) == 3
    monkeypatch.setitem(sys.modules, "of_library", types.SimpleNamespace(__file__=json.__file__))
    lowered._code.cache_clear()
    assert lowered._code() == digests[-1]
    (tmp_path / "of_user.py").unlink()
    lowered._code.cache_clear()
    assert lowered._code() is None
    monkeypatch.delitem(sys.modules, "of_user")
    monkeypatch.setitem(sys.modules, "__main__", types.SimpleNamespace())  # a notebook
    lowered._code.cache_clear()
    assert lowered._code() is None


@pytest.mark.parametrize("why", ["no origin", "no folder", "bucket", "off", "notebook"])
def test_where_nothing_is_kept(programs_folder, monkeypatch, why):
    if why == "notebook":
        monkeypatch.setattr(lowered, "_code", lambda: None)
    elif why == "off":
        jax.config.update("jax_enable_compilation_cache", False)
    elif why != "no origin":
        jax.config.update("jax_compilation_cache_dir", None if why == "no folder" else "gs://bucket/programs")
    for _ in range(2):
        function = Function()
        lowered.lower(function, ARGUMENTS, DONATES, None if why == "no origin" else "origin")
        assert function.num_traces == 1
    assert not kept(programs_folder)
