"""`--mode=compile` for TPUs and GPUs that are not here: step programs with our kernels, their memory and exchange."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def compiled(topology: str, folder: pathlib.Path, *flags: str, **environment: str) -> dict:
    """The JSON of the command, in a process of its own, which may load libtpu."""
    command = [sys.executable, "main.py", "--mode=compile", "--config=tests/train/tiny_config.py:1", *flags]
    command += [f"--topology={topology}", "--config.data.batch_size=8", f"--output={folder / 'steps.json'}"]
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr[-4000:]
    assert process.stdout.splitlines()[-1] == "fits"
    return json.loads((folder / "steps.json").read_text())


def assert_devices_exchange_sums(found: dict) -> None:
    """Every device has the whole state and its share of the batch."""
    gradients, update = found["programs"]
    assert gradients["program"].startswith("DAVIS exemplar 1x8x2x64x96")
    memory = gradients["memory"]
    sent, size = gradients["collectives"]["all-reduce"]
    assert sent >= 1 and size >= memory["gradients"] * 0.9  # all gradients are summed, in float32
    assert memory["optimizer"] > memory["params"] > 0 and memory["temporaries"] > 0
    assert gradients["total_bytes"] == sum(memory.values()) < found["memory_bytes"]
    assert gradients["flops"] > 0 and gradients["seconds"]["compute"] > 0
    assert update["collectives"] == {}


@pytest.mark.tpu_aot
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_for_eight_tpus(tmp_path):
    found = compiled("v5e:2x4", tmp_path)
    assert found["topology"] == "v5e:2x4" and found["memory_bytes"] == int(15.75 * 2**30)
    assert_devices_exchange_sums(found)
    assert found["programs"][0]["cycles"] > 0 and found["programs"][0]["accessed_bytes"] > 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason='needs pip install "jax[cuda13]" (2.4 GB)'
)
def test_for_eight_gpus(tmp_path):
    assert_devices_exchange_sums(compiled("h100:8", tmp_path, TARVIS_MS_DEFORM_ATTN="triton"))
