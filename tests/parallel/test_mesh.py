"""Splitting a batch over devices or in microbatches changes nothing but the order of sums."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_devices_and_microbatches_agree():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {xla_flags.QUICK}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.parallel.eight_devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout.splitlines()[-1])
    one_device, devices = results["8x1"], results["devices"]
    assert (one_device["microbatches"], devices["microbatches"]) == (8, 1)
    # The same sums in another order, in float32.
    np.testing.assert_allclose(devices["loss"], one_device["loss"], rtol=1e-6)
    np.testing.assert_allclose(devices["grad_norm"], one_device["grad_norm"], rtol=1e-4)
    assert devices["update_difference"] < 1e-4


def test_microbatches_hold_the_global_batch():
    mesh = make_mesh(jax.devices()[:1])
    assert num_microbatches(8, 0, mesh) == 1
    assert num_microbatches(8, 3, mesh) == 4  # 2 samples each: 3 does not divide 8
    with pytest.raises(ValueError, match="cannot be split evenly over 3 devices"):
        num_microbatches(8, 1, type("Mesh", (), {"size": 3}))


def test_batch_is_split_in_order():
    batch = put_batch({"x": np.arange(8)}, 4, make_mesh(jax.devices()[:1]))
    np.testing.assert_array_equal(batch["x"], np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(batch["place"], batch["x"])
