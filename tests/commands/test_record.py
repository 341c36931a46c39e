"""Training from recorded batches needs what a GPU machine has, and gives the same bits as training from the data."""

import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tarvis_jax.train.metrics import read_metrics
from tarvis_jax.weights.checkpoints import Checkpoints
from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
NUM_STEPS = 3
BLOCKED = "import runpy; from tests import lean; lean.hide_packages(); runpy.run_path('main.py', run_name='__main__')"


def run_main(environment, *flags, blocked=False):
    command = [sys.executable, *(["-c", BLOCKED] if blocked else ["main.py"])]
    command += [f"--config=tests/train/tiny_config.py:{NUM_STEPS}", *flags]
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]


def weights(workdir):
    checkpoints = Checkpoints(workdir)
    assert checkpoints.latest_step == NUM_STEPS
    params, frozen = checkpoints.restore_weights()
    checkpoints.close()
    return params | frozen


@pytest.mark.slow
def test_recorded_run_equals_the_run_from_data(tmp_path):
    environment = os.environ | {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": xla_flags.QUICK,
        "JAX_PLATFORMS": "cpu",
    }
    recording = tmp_path / "batches.npz"
    run_main(environment, f"--workdir={tmp_path / 'data'}")
    run_main(environment, "--mode=record", f"--workdir={tmp_path / 'data'}", f"--output={recording}")
    # The recorded run has no videos at all.
    run_main(
        environment,
        f"--workdir={tmp_path / 'recorded'}",
        f"--config.data.recorded={recording}",
        "--config.synthetic.num_train=0",
        "--config.train.demo_davis=",
        blocked=True,
    )
    expected, found = weights(tmp_path / "data"), weights(tmp_path / "recorded")
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not np.array_equal(expected[name], found[name])]
    losses = [[entry["loss"] for entry in read_metrics(tmp_path / name)] for name in ("data", "recorded")]
    assert losses[0] == losses[1] and len(losses[0]) == NUM_STEPS
