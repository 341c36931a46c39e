"""The training step compiled ahead for TPUs and GPUs: that it compiles, with our kernels, and what devices exchange."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


CONFIG = "tests/train/tiny_config.py:1"


def compiled(topology: str, **environment: str) -> list[dict]:
    """What the benchmark says of the gradients and the update; in a process of its own, which may load libtpu."""
    command = [sys.executable, "-m", "benchmarks.compile_train_step", f"--config={CONFIG}"]
    command += [f"--topology={topology}", "--batch_size=8"]
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=900
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return [json.loads(line) for line in process.stdout.splitlines() if line.startswith("{")]


def assert_devices_exchange_sums(gradients: dict, update: dict) -> None:
    """Every device has the whole state and its share of the batch."""
    # Costs of matching are gathered: every device solves all the problems.
    assert set(gradients["collectives"]) <= {"all-reduce", "all-gather"} and gradients["collectives"]["all-reduce"]
    assert update["collectives"] == {}
    # The new state takes the place of the old one.
    assert update["output_bytes"] <= update["argument_bytes"]


@pytest.mark.tpu_aot
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_for_eight_tpus():
    gradients, update = compiled("v5e:2x4")
    assert gradients["custom_calls"]["tpu_custom_call"] > 0
    assert_devices_exchange_sums(gradients, update)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason='needs pip install "jax[cuda13]" (2.4 GB)'
)
def test_for_eight_gpus():
    # No products by Triton: without a GPU to try them on, XLA finds no tiles for some of these tiny sizes.
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    gradients, update = compiled("h200:8", TARVIS_MS_DEFORM_ATTN="triton", XLA_FLAGS=flags)
    assert gradients["custom_calls"]["__gpu$xla.gpu.triton"] > 0
    assert_devices_exchange_sums(gradients, update)
