"""A run that is killed and started again ends with the same bits as one that was not."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tarvis_jax.train.metrics import read_metrics
from tarvis_jax.weights.checkpoints import Checkpoints
from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_STEPS = 40


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    # One cache for all runs of this test, and no optimization: compiling would take most of the time.
    return os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": xla_flags.QUICK,
        "JAX_PLATFORMS": "cpu",
    }


def start(workdir, environment, *flags):
    command = [sys.executable, "main.py", f"--config=tests/train/tiny_config.py:{NUM_STEPS}", f"--workdir={workdir}"]
    command += flags
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(workdir, environment, *flags):
    process = start(workdir, environment, *flags)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return errors


def assert_has_scopes(workdir):
    """The trace that `--profile` wrote names the parts of the network and of the loss."""
    (trace,) = workdir.glob("profile/**/*.xplane.pb")
    content = trace.read_bytes()
    scopes = ("backbone", "neck", "object_encoder", "decoder", "mask_losses", "update")
    assert not [
        scope for scope in scopes if f"/{scope}/".encode() not in content and f"({scope})/".encode() not in content
    ]


def final_weights(workdir):
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest_step == NUM_STEPS
    params, frozen = checkpoints.restore_weights()
    checkpoints.close()
    return params | frozen


@pytest.mark.slow
def test_kill_and_resume(tmp_path, environment):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    errors = finish(whole, environment, "--profile=3:5")
    assert "2 of 2 compiled" in errors and f"trace of steps 4 to 5 in {whole / 'profile'}" in errors
    assert_has_scopes(whole)

    process = start(killed, environment)
    deadline = time.monotonic() + 500
    # Kill it between the first checkpoint (step 10) and the end.
    while not list(killed.glob("checkpoints/10/commit_success.txt")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    errors = finish(killed, environment)
    assert "resumed from step" in errors
    expected, found = final_weights(whole), final_weights(killed)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not np.array_equal(expected[name], found[name])]
    assert not different
    # The log goes on where the checkpoint was, without gaps or repetitions.
    assert [entry["step"] for entry in read_metrics(killed)] == list(range(1, NUM_STEPS + 1))
    losses = [[entry["loss"] for entry in read_metrics(folder)] for folder in (whole, killed)]
    assert losses[0] == losses[1]
    # The checkpoint and the workdir hold the resolved config.
    checkpoints = Checkpoints(killed)
    assert checkpoints.restore_config() == json.loads((killed / "config.json").read_text())
    checkpoints.close()
