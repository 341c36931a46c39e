"""The network with its batch split over eight devices."""

import json
import os
import pathlib
import subprocess
import sys

from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_clips_stay_on_their_devices():
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=8 {xla_flags.QUICK}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.model.eight_devices"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["collectives"] == []
    assert max(result["differences"]) < 1e-4, result
