"""The TPU kernel compiled for chips that are not here: that it compiles, and limits on its schedule.

libtpu is loaded in processes of their own, of the benchmark that prints the same figures as a table.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.tpu_aot,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu"),
]

# Milliseconds by schedule of 3 frames of 512 x 896 on a v5e, about a tenth above what the kernel needs today (libtpu
# 0.0.51). The best form in plain XLA needs 24 to 29 ms for a forward pass, estimated in the same way.
LIMITS_V5E = {
    ("bfloat16", "forward"): 2.0,
    ("bfloat16", "backward"): 4.8,
    ("float32", "forward"): 3.8,
    ("float32", "backward"): 9.9,
}


def schedules(*arguments: str) -> list[dict]:
    command = [sys.executable, "-m", "benchmarks.tpu_schedule", "--json", *arguments]
    process = subprocess.run(command, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True, timeout=1800)
    assert process.returncode == 0, process.stderr[-4000:]
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def assert_good(rows: list[dict]) -> None:
    assert rows
    for row in rows:
        assert row["gathers"] == row["scatters"] == 0, row
        if row["chip"] == "v5e":
            assert row["ms"] < LIMITS_V5E[row["dtype"], row["pass"]], row
        # What XLA does around the kernels must not cost more than they do.
        assert row["xla_ms"] < row["ms"] / 4, row


@pytest.mark.parametrize("chips", ["v5e", pytest.param("v4,v5p,v6e", marks=pytest.mark.long)])
def test_bfloat16_on_all_chips(chips):
    rows = schedules(f"--chips={chips}", "--dtypes=bfloat16")
    assert len(rows) == 2 * len(chips.split(","))
    assert_good(rows)


def test_float32():
    rows = schedules("--chips=v5e", "--dtypes=float32")
    assert len(rows) == 2
    assert_good(rows)


@pytest.mark.long
def test_sizes_that_do_not_fill_tiles():
    """448 x 832: levels of 14 x 26, 28 x 52 and 56 x 104."""
    rows = schedules("--chips=v6e", "--dtypes=bfloat16", "--image=448x832")
    assert_good(rows)


def test_batch_split_over_eight_chips_needs_no_communication():
    rows = schedules("--chips=", "--sharded=v5e:2x4", "--image=128x192")
    assert [row["pass"] for row in rows] == ["forward", "backward"]
    assert all(row["collectives"] == {} for row in rows), rows
