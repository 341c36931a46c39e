"""Result files appear when they are whole; what killed processes leave is swept."""

import os
import platform
import signal
import subprocess
import sys

import pytest

from tarvis_jax.results.formats import files

_IS_KILLED = """
import os, pathlib, signal, sys
from tarvis_jax.results.formats import files
with files.whole_folder(pathlib.Path(sys.argv[1]) / "results") as folder, \\
     files.whole_file(pathlib.Path(sys.argv[1]) / "results.zip") as file:
    (folder / "half").write_text("x")
    file.write_text("x")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept(tmp_path):
    """And nothing else: neither of processes that run, nor of other machines, nor files of another name."""
    killed = subprocess.run([sys.executable, "-c", _IS_KILLED, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
    node, dead = platform.node(), max(int(path.name.rpartition("-")[2]) for path in tmp_path.iterdir())
    kept = {
        f"results.partial-{node}-{os.getppid()}",
        f"results.partial-{node}-1",
        f"results.partial-another-{dead}",
        f"other.partial-{node}-{dead}",
        f"results.partial-{node}-{dead}.txt",
        f"results.partial-{node}-0",
        "results.partial-mine",
        "results.partial",
    }
    for name in kept:
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    (tmp_path / f"results.partial-{node}-{os.getpid()}").symlink_to(tmp_path / "elsewhere")
    with files.whole_folder(tmp_path / "results") as folder, files.whole_file(tmp_path / "results.zip") as file:
        (folder / "whole").write_text("y")
        file.write_text("y")
    assert {path.name for path in tmp_path.iterdir()} == kept | {"results", "results.zip", "elsewhere"}
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["whole"]
    assert (tmp_path / "elsewhere/file").read_text() == "x"


def test_errors_leave_what_was_there(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results/old").write_text("old")
    with pytest.raises(KeyError), files.whole_folder(tmp_path / "results") as folder:
        (folder / "new").write_text("new")
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["results", "old"]
