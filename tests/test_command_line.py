"""How commands end: whose error it is, what is printed, the exit status."""

import argparse
import logging as python_logging
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from absl import logging

from input_pipeline import synthetic
from tarvis_jax import command_line
from tarvis_jax.convert import __main__ as convert
from tarvis_jax.train.loop import NotFiniteError

ROOT = pathlib.Path(__file__).resolve().parents[1]


def raising(error: BaseException):
    def main(arguments):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (
            ValueError("clip_length: expected at least 1, found 0"),
            2,
            "error: clip_length: expected at least 1, found 0",
        ),
        (ValueError("two problems:\n  a\n  b"), 2, "error: two problems:\n  a\n  b"),
        (FileNotFoundError(2, "No such file or directory", "a.json"), 2, "error: a.json: No such file or directory"),
        (OSError("cannot identify image file"), 2, "error: cannot identify image file"),
        (ModuleNotFoundError("No module named 'clu'", name="clu.metrics"), 2, "error: this needs .* 'clu.metrics', .*"),
        (NotFiniteError("step 3: gradient of x is not finite"), 3, "error: step 3: gradient of x is not finite"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_the_user_is_told(error, status, message, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "_OURS", (*command_line._OURS, __name__.partition(".")[0]))
    assert command_line.run(raising(error), []) == status
    captured = capsys.readouterr()
    assert captured.out == "" and re.fullmatch(f"{message}\n", captured.err)
    # With --debug, the traceback stands before.
    if status != command_line.INTERRUPTED:
        assert command_line.run(raising(error), ["--debug"]) == status
        lines = capsys.readouterr().err
        assert lines.startswith("Traceback (most recent call last)") and "raise error" in lines
        assert lines.endswith(captured.err)


def values_of_different_lengths(arguments):
    np.zeros(3) + np.zeros(4)  # numpy raises a ValueError of its own


@pytest.mark.parametrize(
    "main",
    [
        values_of_different_lengths,
        raising(TypeError("missing 1 required positional argument")),
        raising(RuntimeError("no such state")),
        raising(ModuleNotFoundError("No module named 'tarvis_jax.x'", name="tarvis_jax.x")),
    ],
)
def test_bugs_are_raised(main):
    with pytest.raises((ValueError, TypeError, RuntimeError, ImportError)):
        command_line.run(main, [])


def test_arguments_reach_the_command_without_debug():
    found = []
    assert command_line.run(found.extend, ["--a=1", "--debug", "b"]) == 0
    assert found == ["--a=1", "b"]


def test_parser_errors_are_one_line():
    parser = command_line.Parser()
    parser.add_argument("--workdir", type=int)
    for arguments, message in (
        (["--wrkdir=3"], r"^unknown argument --wrkdir; did you mean --workdir\? \(--help lists the flags\)$"),
        (["--work=3"], r"^unknown argument --work;"),  # no abbreviations
        (["x"], r"^unknown argument x \(--help"),
        (["--workdir=x"], "^argument --workdir: invalid int value: 'x'"),
    ):
        with pytest.raises(ValueError, match=message):
            parser.parse_args(arguments)
    assert parser.parse_args(["--workdir=3"]) == argparse.Namespace(workdir=3)


def test_convert_and_synthetic_follow_the_rule(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for main, arguments, message in (
        (convert.main, ["to-jpeg"], "error: argument command: invalid choice: 'to-jpeg'"),
        (convert.main, ["to-jax", str(tmp_path / "a.pth"), str(tmp_path / "b")], "error: "),
        (convert.main, ["to-pytorch", "a", "b", "--channel"], "error: unknown argument --channel"),
        (synthetic.main, [str(tmp_path), "--num-train=0"], "error: expected num_train and num_val >= 1"),
        (synthetic.main, [str(tmp_path / "file" / "x"), "--num-train=1"], f"error: {tmp_path / 'file' / 'x'}"),
        (synthetic.main, [], "error: the following arguments are required: out"),
    ):
        assert command_line.run(main, arguments) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith(message) and captured.err.count("\n") == 1, captured.err


def test_log_lines(capsys):
    root, level = python_logging.getLogger(), logging.get_verbosity()
    handlers = list(root.handlers)
    try:
        command_line.start_logging(0)
        record = python_logging.LogRecord("absl", python_logging.INFO, "loop.py", 3, "step %d", (7,), None)
        warning = python_logging.LogRecord("absl", python_logging.WARNING, "loop.py", 3, "slow", (), None)
        handler = logging.get_absl_handler()
        assert handler.format(record)[8:] == " step 7" and handler.format(warning)[8:] == " warning: slow"
        step = python_logging.LogRecord("absl", python_logging.INFO, "a/orbax/b.py", 3, "saving", (), None)
        assert handler.filter(record) and not handler.filter(step)
    finally:
        root.handlers[:] = handlers
        logging.set_verbosity(level)


def test_as_a_process(tmp_path):
    """Modules are run as a user runs them."""
    command = [sys.executable, "-m", "input_pipeline.synthetic", str(tmp_path), "--num-vla=3"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr == "error: unknown argument --num-vla; did you mean --num-val? (--help lists the flags)\n"


def test_an_interrupted_process_does_not_wait_for_its_threads():
    code = (
        "import threading, time; from tarvis_jax import command_line\n"
        "def main(arguments):\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    raise KeyboardInterrupt\n"
        "command_line.run_and_exit(main)"
    )
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (process.returncode, process.stderr) == (130, "interrupted\n")
