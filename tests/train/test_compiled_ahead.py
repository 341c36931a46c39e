"""`--mode=compile` for TPUs and GPUs that are not here: step programs with our kernels, their memory and exchange."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from tarvis_jax.compiled import deterministic_compiler_options, training_compiler_options
from tarvis_jax.config import from_mapping
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.run_config import Config
from tarvis_jax.train.step import make_stepper
from tests.train import tiny_config

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
    # All gradients are summed, in float32. In the memory of a TPU small tensors take more than their bytes.
    assert sent >= 1 and memory["gradients"] * 0.7 < size < memory["gradients"] * 1.1
    assert memory["optimizer"] > memory["params"] > 0 and memory["temporaries"] > 0
    assert gradients["total_bytes"] == sum(memory.values()) < found["memory_bytes"]
    assert gradients["flops"] > 0 and gradients["seconds"]["compute"] > 0
    assert update["collectives"] == {}


@pytest.mark.tpu_aot
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_for_eight_tpus(tmp_path):
    found = compiled("v5e:2x4", tmp_path, JAX_OPTIMIZATION_LEVEL="O1")
    assert found["compiler"] == f"jax {jax.__version__}, optimization level O1"
    assert found["topology"] == "v5e:2x4" and found["memory_bytes"] == int(15.75 * 2**30)
    assert_devices_exchange_sums(found)
    assert found["programs"][0]["cycles"] > 0 and found["programs"][0]["accessed_bytes"] > 0


needs_cuda_packages = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None, reason='needs pip install "jax[cuda13]" (2.4 GB)'
)


@pytest.mark.slow
@needs_cuda_packages
def test_for_eight_gpus(tmp_path):
    assert_devices_exchange_sums(compiled("h100:8", tmp_path, TARVIS_MS_DEFORM_ATTN="triton"))


@pytest.mark.slow
@needs_cuda_packages
@pytest.mark.parametrize("deterministic", [False, True])
def test_deterministic_code_for_gpus_adds_in_no_changing_order(tmp_path, deterministic):
    """In machine code: additions to memory are atomic where their order is left to chance."""
    compiled(
        "h100:1",
        tmp_path,
        f"--config.train.deterministic={str(deterministic).lower()}",
        "--config.model.compute_dtype=bfloat16",
        XLA_FLAGS=f"--xla_dump_to={tmp_path}",
    )
    code = "".join(path.read_text() for path in tmp_path.glob("*.ptx"))
    assert ".visible .entry" in code
    assert bool(re.search(r"(?:atom|red)\.[\w.]*(?:add|cas)", code)) != deterministic


def test_deterministic_steps_take_no_kernel_that_is_not():
    config = from_mapping(Config, tiny_config.get_config("1"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, deterministic=True))
    model = make_stepper(config, make_mesh(jax.devices()[:1])).structure.config
    assert model.ms_deform_attn_deterministic and model.attention_backend == "xla"
    assert deterministic_compiler_options("gpu") == {"xla_gpu_deterministic_ops": True}
    assert deterministic_compiler_options("tpu") == {}  # whose compiler does not know the option


def test_sums_and_convolutions_of_steps_stay_in_xlas_own_loops_on_cpus():
    def smooth(image: jax.Array) -> jax.Array:
        return jax.lax.conv(image, jnp.ones((8, 8, 3, 3)), (1, 1), "SAME").sum((0, 1))

    compiled = jax.jit(smooth, compiler_options=training_compiler_options("cpu")).lower(jnp.ones((1, 8, 64, 64)))
    assert "ynn_fusion" not in compiled.compile().as_text()
    assert training_compiler_options("gpu") == training_compiler_options("tpu") == {}
