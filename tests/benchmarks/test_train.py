import argparse
import json
import sys

import pytest

from benchmarks import summary, train
from benchmarks.reference import Reference
from configs import quickstart
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config


def test_a_row_beside_the_reference():
    times = {
        "ours": {"median_s": 0.5, "median_processor_s": 1.0},
        "reference": {"median_s": 1.5, "median_processor_s": 2.5, "peak_bytes": 8 * 2**30},
    }
    row = train._compared({"peak_bytes": 4 * 2**30}, times)
    assert (row["speedup"], row["processor_time_ratio"], row["memory_ratio"]) == (3.0, 2.5, 2.0)
    assert "memory_ratio" not in train._compared({"peak_bytes": None}, times)  # a CPU has no figure of its own


def test_the_summary_of_training(tmp_path):
    row = {
        "task": "instance",
        "clip": [3, 448, 832],
        "compute_dtype": "bfloat16",
        "samples_at_once": 8,
        "deterministic": False,
    }
    rows = [
        row | {"clips_per_s": 12.5, "peak_bytes": 4 * 2**30, "speedup": 3.0, "memory_ratio": 2.0},
        row | {"clips_per_s": 12.5, "peak_bytes": None, "error": "the reference's process ended"},
        row | {"error": "RuntimeError: out of memory\nmore"},
    ]
    (tmp_path / "train_ResNet50.json").write_text(json.dumps({"config": "configs/finetune.py", "rows": rows}))
    start = "train     configs/finetune.py instance [3, 448, 832] bfloat16, 8 at once:"
    assert list(summary.training(tmp_path)) == [
        f"{start} 12.50 clips/s, peak 4.0 GiB, 3.00 times the original's speed, 0.50 of its memory",
        f"{start} 12.50 clips/s FAILED: the reference's process ended",
        f"{start} FAILED: RuntimeError: out of memory",
    ]


def test_a_reference_that_cannot_start(tmp_path):
    options = ["--dataset=YOUTUBE_VIS", "--frames=1", "--height=64", "--width=64", "--train"]
    with pytest.raises(RuntimeError, match="the reference's process ended"):
        Reference(sys.executable, str(tmp_path), options, "float32")


def test_tasks_that_the_config_has_not():
    config = from_mapping(Config, quickstart.get_config())
    args = argparse.Namespace(tasks="depth", config="configs/quickstart.py", reference=None, steps=1)
    with pytest.raises(SystemExit, match="--tasks=depth: configs/quickstart.py has none of these"):
        list(train.benchmark(config, 1, args))
