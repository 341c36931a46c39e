"""Losses and gradients of unequal clips are the reference's with one clip on each device, however they are split."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFERENCE = json.loads(pathlib.Path(__file__).with_name("unequal_clips.json").read_text())
# Both sides are float32 and add in different orders; gradients of single cells cancel in the random direction.
TERM_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def _start(num_devices: int, ways: list[str], **variables: str) -> subprocess.Popen:
    environment = os.environ | variables
    environment |= {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices} {xla_flags.QUICK}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.parallel.unequal_clips", *ways]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _finish(processes: list[subprocess.Popen]) -> dict:
    try:
        outputs = [process.communicate(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return json.loads(outputs[0][0].splitlines()[-1])


@pytest.fixture(scope="module")
def in_one_process():
    """Devices x microbatches."""
    return _finish([_start(4, ["1x4", "4x1", "2x2"])])


@pytest.fixture(scope="module")
def in_two_processes():
    """Two devices each; a microbatch has clips of both, which are not neighbors in the batch."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    shared = {
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    return _finish([_start(2, ["4x2"], JAX_PROCESS_ID=str(i), **shared) for i in range(2)])


def _assert_equals_the_reference(found: dict):
    for case, expected in REFERENCE.items():
        terms = {name: value for name, value in found["terms"].items() if name.startswith(f"{case}/")}
        assert set(terms) == {f"{case}/{name}" for name in expected["terms"]}
        for name, values in expected["terms"].items():
            found_values = terms[f"{case}/{name}"]
            np.testing.assert_allclose(found_values, values, rtol=TERM_TOLERANCE, atol=1e-7, err_msg=f"{case}/{name}")
        for name, values in expected["gradients"].items():
            found_values, values = np.array(found["gradients"][f"{case}/{name}"]), np.array(values)
            atol = GRADIENT_TOLERANCE * values[:, 0].max()  # of the norms
            np.testing.assert_allclose(found_values, values, rtol=0, atol=atol, err_msg=f"{case}/{name}")


def test_equals_the_reference_in_one_process(in_one_process):
    for found in in_one_process.values():
        _assert_equals_the_reference(found)


def test_equals_the_reference_in_two_processes(in_two_processes):
    (found,) = in_two_processes.values()
    _assert_equals_the_reference(found)


def test_draws_from_keys_do_not_depend_on_the_split(in_one_process, in_two_processes):
    first, *others = (in_one_process | in_two_processes).values()
    for found in others:
        for kind, tolerance in (("terms", TERM_TOLERANCE), ("gradients", GRADIENT_TOLERANCE)):
            for name, values in first[kind].items():
                if "_keyed/" in name:
                    np.testing.assert_allclose(found[kind][name], values, rtol=tolerance, atol=tolerance, err_msg=name)


def test_nothing_is_gathered_from_all_devices(in_one_process, in_two_processes):
    """Neither matching costs nor logits: each device matches and samples its own clips."""
    assert all(found["all_gathers"] == [] for found in (in_one_process | in_two_processes).values())
