"""The progress table and the time that is left, by a clock that only the test moves."""

import pytest
from absl import logging

from configs import finetune, quickstart
from tarvis_jax.compiled import Programs
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tarvis_jax.train.progress import HEADER_LINES, Progress, duration, short_names


class Clock:
    seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def config():
    return from_mapping(Config, quickstart.get_config("steps=1000"))


def compile_for(programs: Programs, seconds: float, clock: Clock) -> None:
    programs.num_compilations += 1
    programs.compile_seconds += seconds
    clock.seconds += seconds


def test_rates_and_time_left(config):
    clock, programs = Clock(), Programs()
    compile_for(programs, 40.0, clock)  # before the first step
    progress = Progress(config, programs, clock)
    clock.seconds += 50.0  # 100 steps
    compile_for(programs, 10.0, clock)
    with progress.waiting():
        clock.seconds += 5.0
    with progress.paused():
        clock.seconds += 300.0  # an evaluation
    rates = progress.rates(100)
    assert rates == {
        "steps_per_sec": pytest.approx(100 / 55),
        "data_wait_percent": pytest.approx(100 * 5 / 55),
        "num_compilations": 2.0,
        "train_seconds": pytest.approx(55.0),
        "compile_seconds": pytest.approx(10.0),
    }
    assert progress.seconds_left(100) == pytest.approx(900 * 0.55) and progress.seconds_left(1000) == 0.0
    # At the mean of both intervals.
    clock.seconds += 45.0
    assert progress.rates(100)["data_wait_percent"] == 0.0
    assert progress.seconds_left(200) == pytest.approx(800 * 0.5)


SCALARS = {"grad_norm": 0.0123, "learning_rate": 1e-4, "steps_per_sec": 1.5, "data_wait_percent": 3.2}


def test_datasets_keep_the_order_of_the_config():
    config = from_mapping(Config, finetune.get_config())
    clock = Clock()
    progress = Progress(config, Programs(), clock)
    clock.seconds += 10
    progress.rates(20)
    header = progress.header()
    names = ["YOUTUBE", "OVIS", "KITTI", "CITYSCAPES", "VIPSEG", "BURST", "DAVIS"]
    assert header.split() == ["step", *names, "grad", "lr", "steps/s", "wait", "left"]
    # As the losses arrive: in another order, some missing.
    lines = [
        progress.line(20, SCALARS | {"train/DAVIS/loss": 101.234, "train/OVIS/loss": 20.5}),
        progress.line(90_000, SCALARS | {"train/OVIS/loss": 3.0, "train/YOUTUBE_VIS/loss": 7.0}),
    ]
    assert lines[0].split()[1:8] == ["-", "20.50", "-", "-", "-", "-", "101.23"]
    assert lines[1].split() == ["90000", "7.00", "3.00", *"-----", "1.2e-02", "1.0e-04", "1.50", "3%", "0:00:00"]
    # Columns stand below each other, and with the time of day all fits in 120 characters.
    assert len({len(line) for line in (header, *lines)}) == 1 and len(header) + len("16:41:19 ") <= 120
    assert [header.index(name) + len(name) for name in names] == [
        end for end in range(len(header)) if lines[0][end - 1] != " " and lines[0][end] == " " and end < 75 and end > 6
    ]


def test_the_header_is_repeated(config, monkeypatch):
    found = []
    monkeypatch.setattr(logging, "info", lambda text, *values: found.append(text % values))
    progress = Progress(config, Programs(), Clock())
    for step in range(1, HEADER_LINES + 2):
        progress.log(step, SCALARS)
    headers = [i for i, line in enumerate(found) if line == progress.header()]
    assert headers == [0, HEADER_LINES + 1] and len(found) == HEADER_LINES + 3


def test_short_names():
    assert short_names(["YOUTUBE_VIS", "DAVIS"]) == ["YOUTUBE", "DAVIS"]
    names = ["CITYSCAPES_VPS", "CITYSCAPES", "KITTI_STEP"]
    assert short_names(names) == ["CITYSCAPES_VPS", "CITYSCAPES", "KITTI"]


def test_durations():
    expected = {0: "0:00:00", 59.6: "0:01:00", 3723: "1:02:03", 86399: "23:59:59", 86400 * 3 + 4 * 3600: "3d04:00"}
    assert {seconds: duration(seconds) for seconds in expected} == expected
