"""Splitting a batch over devices or in microbatches changes nothing but the order of sums."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tarvis_jax.parallel.sharding import partition_spec
from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]


OPTIMIZER, PARAMETERS = "optimizer 2x2", "parameters 2x4"


@pytest.fixture(scope="module", params=[PARAMETERS, pytest.param(OPTIMIZER, marks=pytest.mark.long)])
def other(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def ways(tmp_path_factory, other) -> dict:
    """What tests/parallel/eight_devices.py prints."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {xla_flags.QUICK}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.parallel.eight_devices", str(tmp_path_factory.mktemp("run")), other]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_meshes_and_microbatches_agree(ways, other):
    one_device, several = ways["8x1"], ways[other]
    assert one_device["microbatches"] == 8 and several["microbatches"] == (1 if other == PARAMETERS else 2)
    # The same sums in another order, in float32.
    np.testing.assert_allclose(several["loss"], one_device["loss"], rtol=1e-6)
    np.testing.assert_allclose(several["grad_norm"], one_device["grad_norm"], rtol=1e-4)
    assert several["update_difference"] < 1e-4


@pytest.mark.slow
def test_state_is_split_as_asked(ways, other):
    assert set(ways["8x1"]["held"].values()) == {1.0}
    held = ways[other]["held"]
    assert held["opt_state"] == held["ema"]
    if other == OPTIMIZER:
        assert held["params"] == 1.0 and 0.5 < held["opt_state"] < 0.6  # small tensors lie whole
    else:
        assert 0.25 < held["params"] == held["opt_state"] < 0.4
        # Split parameters are gathered; activations are not moved from device to device for their sake.
        assert ways[other]["all_gathers"] >= 9  # as many parameters are large enough
        assert ways[other]["all_to_alls"] == 0


@pytest.mark.slow
def test_checkpoint_of_one_mesh_restores_on_another(ways):
    moved = ways["moved"]
    assert moved.pop("weights_equal")  # as inference reads them
    for name, found in moved.items():
        assert found["equal"] and found["lies"], name
        np.testing.assert_allclose(found["loss"], moved["8x1"]["loss"], rtol=1e-5)


@pytest.mark.parametrize(
    ("path", "shape", "shard", "expected"),
    [
        ("params/decoder/kernel", (256, 2048), "parameters", (None, "fsdp")),
        ("params/decoder/kernel", (256, 2048), "optimizer", ()),
        ("opt_state/1/mu/decoder/kernel", (2048, 256), "optimizer", ("fsdp",)),
        ("grads/backbone/conv", (3, 3, 256, 256), "optimizer", (None, None, None, "fsdp")),
        ("ema/queries", (128, 258), "optimizer", ("fsdp",)),  # 8 does not divide 258
        ("ema/odd", (129, 257), "parameters", ()),
        ("opt_state/1/nu/bias", (2048,), "parameters", ()),  # too small
        ("frozen/mean", (256, 2048), "parameters", ()),
        ("opt_state/1/mu/decoder/kernel", (2048, 256), "none", ()),
    ],
)
def test_rules(path, shape, shard, expected):
    assert partition_spec(path, shape, shard, 8) == PartitionSpec(*expected)
    assert partition_spec(path, shape, shard, 1) == PartitionSpec()


def test_devices_that_cannot_be_grouped():
    with pytest.raises(ValueError, match="train.fsdp_devices: 1 devices cannot be grouped by 2; expected a divisor of"):
        make_mesh(jax.devices()[:1], 2)


def test_microbatches_hold_the_global_batch():
    mesh = make_mesh(jax.devices()[:1])
    assert num_microbatches(8, 0, mesh) == 1
    assert num_microbatches(8, 3, mesh) == 4  # 2 samples each: 3 does not divide 8
    for devices, batch_size, largest in ((3, 8, 2), (64, 32, 32)):
        with pytest.raises(ValueError, match=f"cannot be split evenly over {devices} devices; use {largest} of them"):
            num_microbatches(batch_size, 1, type("Mesh", (), {"size": devices}))


def test_batch_is_split_in_order():
    batch = put_batch({"x": np.arange(8)}, 4, make_mesh(jax.devices()[:1]))
    np.testing.assert_array_equal(batch["x"], np.arange(8).reshape(4, 2))
    np.testing.assert_array_equal(batch["place"], batch["x"])
