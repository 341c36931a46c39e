"""Runs that are killed, and started again by another number of processes; and one that meets a value that is none.

tests/tools/kills.py does the same many times, at random moments.
"""

import json
import re
import types

import numpy as np
import pytest

from tarvis_jax.train.metrics import read_metrics
from tarvis_jax.weights.checkpoints import Checkpoints
from tests.parallel.processes import Run

NUM_STEPS = 24
SCALARS = ("loss", "grad_norm", "param_norm")


def curve(workdir) -> list[tuple]:
    return [(entry["step"], *(entry[name] for name in SCALARS)) for entry in read_metrics(workdir)]


def complete_steps(workdir) -> list[int]:
    """Of the checkpoints that are there now."""
    return sorted(int(path.name) for path in workdir.glob("checkpoints/*") if path.name.isdecimal())


def newest_weights(workdir) -> dict[str, np.ndarray]:
    checkpoints = Checkpoints(workdir)
    params, frozen = checkpoints.restore_weights()
    assert checkpoints.restore_config() == json.loads((workdir / "config.json").read_text())
    checkpoints.close()
    return params | frozen


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts main.py; all runs share one cache of compiled programs, as compiling would take most of the time."""
    folder = tmp_path_factory.mktemp("runs")

    def start(name: str, workdir: str, *flags: str, **processes: int) -> Run:
        flags = f"--config=tests/parallel/tiny_run.py:{NUM_STEPS}", *flags
        return Run(folder / name, folder / workdir, folder / "cache", *flags, **processes)

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def runs(start):
    """A run on two devices that was left alone; and one of two, one and four processes, one after the other."""
    every_third = "--config.train.log_steps=3"  # what is known of a step before its entry must survive, too
    whole, killed = start.folder / "whole", start.folder / "killed"
    run = start("log-whole", "whole", every_third, "--profile=3:5", devices=2)
    assert run.wait() == [0], run.log()

    two = start("log-two", "killed", every_third, count=2)
    two.wait_until(lambda: complete_steps(killed))
    two.processes[1].terminate()
    statuses = two.wait()
    saved = complete_steps(killed)[-1]

    one = start("log-one", "killed", every_third, devices=2)
    one.wait_until(lambda: complete_steps(killed)[-1] > saved)
    one.processes[0].kill()
    one.wait()
    of_equal_devices = curve(killed)

    four = start("log-four", "killed", every_third, count=4)
    assert four.wait() == [0] * 4, four.log()
    return types.SimpleNamespace(**locals())


@pytest.mark.slow
def test_sigterm_to_one_process_saves_and_ends_all(runs):
    assert runs.statuses == [143, 143], runs.two.log()
    assert "SIGTERM" in runs.two.log(1)
    for process in range(2):
        assert f"ended by SIGTERM at step {runs.saved}, which is saved" in runs.two.log(process)
    assert f"resumed from step {runs.saved} of" in runs.one.log()
    assert "process 1 of 2 (flags and environment): 1 local and 2 global devices" in runs.two.log(1)


@pytest.mark.slow
def test_runs_that_were_killed_equal_one_that_was_not(runs):
    expected, found = curve(runs.whole), curve(runs.killed)
    assert [step for step, *_ in found] == list(range(3, NUM_STEPS + 1, 3))
    # The same devices: the same bits, however many processes they are of. Kills change nothing.
    assert runs.of_equal_devices and runs.of_equal_devices == expected[: len(runs.of_equal_devices)]
    # Four devices add in another order. Were other clips in a microbatch, losses would differ in the third digit.
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    weights = newest_weights(runs.whole), newest_weights(runs.killed)
    assert weights[0].keys() == weights[1].keys()


@pytest.mark.slow
def test_the_trace_names_the_parts(runs):
    """Of the network, the loss and the step."""
    (trace,) = runs.whole.glob("profile/**/*.xplane.pb")
    content = trace.read_bytes()
    for scope in ("backbone", "neck", "object_encoder", "decoder", "mask_losses", "update"):
        assert f"/{scope}/".encode() in content or f"({scope})/".encode() in content, scope
    assert f"trace of steps 4 to 5 in {runs.whole / 'profile'}" in runs.run.log()


@pytest.mark.slow
def test_a_value_that_is_not_finite_ends_the_command(start, runs):
    """In two processes, from the weights of another run, which every step makes ten thousand times larger."""
    weights = f"--restore_weights={runs.whole}"
    explode = "--config.optimizer.learning_rate=100", "--config.optimizer.weight_decay=100"
    run = start("log-bad", "bad", weights, *explode, count=2)
    assert run.wait() == [3, 3], run.log()
    assert f"weights to start from: {runs.whole}" in run.log(1)
    for process in range(2):
        assert re.search(
            r"error: step \d+, dataset DAVIS: \w.* \S+ is not finite; .* last checkpoint is good", run.log(process)
        )
    assert all(np.isfinite(value).all() for value in newest_weights(start.folder / "bad").values())


@pytest.mark.slow
def test_a_failed_start_leaves_nothing(start):
    run = start("log-absent", "absent", "--config.synthetic.num_train=0")
    assert run.wait() == [2] and "workspace" in run.log()
    assert not (start.folder / "absent").exists()
