"""The devices of a process share the videos of an evaluation; tests/train/test_resume.py does it in a training."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", ["colors", pytest.param("network", marks=pytest.mark.long)])
def test_two_devices_give_what_one_gives(tmp_path, kind):
    """Scores and tracks are the same, to the bit; each device has a video, and uses the weights that lie on it."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count=2 {xla_flags.QUICK}",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "tests.evaluation.two_devices", str(tmp_path), kind]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one, two = found["evaluations"]
    assert one["scores"] == two["scores"] and 0 < one["scores"]["DAVIS"]["J&F-Mean"] < 1
    assert one["tracks"] == two["tracks"] and len(one["tracks"]) == 4
    assert any('"counts"' in tracks for tracks in one["tracks"].values())
    assert one["videos"] == {"0": 4} and set(two["videos"]) == {"0", "1"} and sum(two["videos"].values()) == 4
    assert found["is_state"] == [True, True]
