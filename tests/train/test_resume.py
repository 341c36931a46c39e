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
from tarvis_jax.weights.pytorch.reference import load_reference_checkpoint
from tests.parallel import finetuned_run
from tests.parallel.processes import Run
from tests.weights.pytorch import mini

NUM_STEPS = 12
SCALARS = ("loss", "grad_norm", "param_norm")


def curve(workdir) -> list[tuple]:
    entries = [entry for entry in read_metrics(workdir) if "loss" in entry]
    return [(entry["step"], *(entry[name] for name in SCALARS)) for entry in entries]


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
    """A run on two devices that was left alone; and one of two, one and two processes, one after the other."""
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

    last = start("log-last", "killed", every_third, "--config.train.final_eval=True", count=2)
    assert last.wait() == [0, 0], last.log()
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
    """The same devices: the same bits, however many processes they are of. Kills change nothing."""
    expected, found = curve(runs.whole), curve(runs.killed)
    assert [step for step, *_ in found] == list(range(3, NUM_STEPS + 1, 3))
    assert found == expected
    weights = newest_weights(runs.whole), newest_weights(runs.killed)
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, name)


@pytest.mark.slow
def test_processes_share_the_videos_of_an_evaluation(runs):
    """Each segments one of the two; the first one scores both."""
    for process in range(2):
        assert "DAVIS: 1 of 1 videos, 3 of 3 frames" in runs.last.log(process)
    assert "evaluated 2 videos of DAVIS" in runs.last.log(0) and "evaluated" not in runs.last.log(1)
    scores = json.loads((runs.killed / "eval/final/scores.json").read_text())
    assert len(scores["DAVIS"]["per_video"]) == 2 and "DAVIS" in (runs.killed / "scores.txt").read_text()
    assert any("eval/DAVIS/J&F-Mean" in entry for entry in read_metrics(runs.killed))


@pytest.mark.long
def test_four_processes_train_as_one(start, runs):
    """On four devices sums have another order. Were other clips in a microbatch, the third digit would differ."""
    four = start("log-four", "four", "--config.train.log_steps=3", count=4)
    assert four.wait() == [0] * 4, four.log()
    np.testing.assert_allclose(curve(start.folder / "four"), curve(runs.whole), rtol=2e-4)


@pytest.mark.long
def test_two_processes_start_from_a_checkpoint_of_the_reference(start, monkeypatch):
    """With the losses of one process on two devices; and the frozen statistics of the backbone are the file's."""
    checkpoint = start.folder / "reference" / "000100.pth"
    checkpoint.parent.mkdir()
    mini.register(monkeypatch)
    finetuned_run.write_checkpoint(checkpoint)
    flags = "--config=tests/parallel/finetuned_run.py:4", f"--finetune_from={checkpoint}"
    one, two = (
        Run(start.folder / f"log-pth-{count}", start.folder / f"pth-{count}", start.folder / "cache", *flags, **given)
        for count, given in ((1, {"devices": 2}), (2, {"count": 2}))
    )
    assert one.wait() == [0] and two.wait() == [0, 0], one.log() + two.log() + two.log(1)
    assert all(f"weights to start from: {checkpoint}" in two.log(process) for process in range(2))
    expected, found = curve(start.folder / "pth-1"), curve(start.folder / "pth-2")
    assert len(expected) == 4 and found == expected
    _, variables = load_reference_checkpoint(checkpoint)
    weights = newest_weights(start.folder / "pth-2")
    frozen = [name for name in variables if name.startswith("backbone/") and name.endswith("/norm/mean")]
    assert frozen
    for name in frozen:
        np.testing.assert_array_equal(weights[name], variables[name], name)


@pytest.mark.slow
def test_the_trace_names_the_parts(runs):
    """Of the network, the loss and the step."""
    (trace,) = runs.whole.glob("profile/**/*.xplane.pb")
    content = trace.read_bytes()
    for scope in ("backbone", "neck", "object_encoder", "decoder", "mask_losses", "update"):
        assert f"/{scope}/".encode() in content or f"({scope})/".encode() in content, scope
    assert f"trace of steps 4 to 5 in {runs.whole / 'profile'}" in runs.run.log()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_value_that_is_not_finite_ends_the_command(start, runs, count):
    """On two devices, from the weights of another run, which every step makes ten thousand times larger."""
    weights = f"--restore_weights={runs.whole}"
    explode = "--config.optimizer.learning_rate=100", "--config.optimizer.weight_decay=100"
    run = start(f"log-bad-{count}", f"bad-{count}", weights, *explode, count=count, devices=2 // count)
    assert run.wait() == [3] * count, run.log()
    assert f"weights to start from: {runs.whole}" in run.log()
    for process in range(count):
        assert re.search(
            r"error: step \d+, dataset DAVIS: \w.* \S+ is not finite; .* last checkpoint is good", run.log(process)
        )
    assert all(np.isfinite(value).all() for value in newest_weights(start.folder / f"bad-{count}").values())


@pytest.mark.slow
def test_a_failed_start_leaves_nothing(start):
    run = start("log-absent", "absent", "--config.synthetic.num_train=0")
    assert run.wait() == [2] and "workspace" in run.log()
    assert not (start.folder / "absent").exists()
