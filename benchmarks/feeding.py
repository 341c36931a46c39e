"""How long a device waits for the host: the real training loop with a fake loader, a fake transfer and a fake step.

    python -m benchmarks.feeding

The fakes sleep. A row gives milliseconds for a step: to load and move a batch, to start a step on the host, to compute
it on the device; and what the loop takes with a thread that runs ahead and without one.
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from configs import quickstart
from input_pipeline.batches import BatchInfo
from tarvis_jax.ahead import RunAhead
from tarvis_jax.compiled import Programs
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tarvis_jax.train import loop
from tarvis_jax.train.profiling import Profiler
from tarvis_jax.train.progress import Progress

LOG_STEPS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    steps = parser.parse_args().steps
    for row in ((5, 5, 5, 40), (20, 10, 15, 40), (25, 10, 25, 40), (60, 5, 10, 40)):
        times = dict(zip(("load", "move", "start", "compute"), row, strict=True))
        found = {name: _milliseconds(**times, steps=steps, is_ahead=name == "ahead") for name in ("ahead", "in_line")}
        print(json.dumps(times | found), flush=True)


def _milliseconds(load: int, move: int, start: int, compute: int, steps: int, is_ahead: bool) -> float:
    """Of a step, from the first to the last; the times in milliseconds."""

    def source() -> Iterator[tuple[BatchInfo, dict]]:
        for step in range(steps):
            time.sleep(load / 1000)
            yield BatchInfo("YOUTUBE_VIS", "instance", step), {}

    def prepare(item: tuple[BatchInfo, dict]) -> tuple[BatchInfo, dict]:
        time.sleep(move / 1000)
        return item

    config = from_mapping(Config, quickstart.get_config())
    train = dataclasses.replace(config.train, num_steps=steps, log_steps=LOG_STEPS, checkpoint_steps=0)
    config = dataclasses.replace(config, train=train)
    ahead = RunAhead(source(), prepare) if is_ahead else contextlib.nullcontext(map(prepare, source()))
    log = loop._Log(config, _Nothing(), Progress(config, Programs()), loop.LeftOut(), [])
    with ahead as batches, _Stepper(start / 1000, compute / 1000) as stepper:
        begin = time.perf_counter()
        loop._run_steps(
            config, stepper, _State(), batches, _Nothing(), None, log, _Nothing(), Profiler(range(0), pathlib.Path())
        )
        return round((time.perf_counter() - begin) * 1000 / steps, 1)


class _Value:
    """What a step will have computed: asking for it waits."""

    def __init__(self, future: Future, value: float):
        self._future, self._value = future, value

    def __bool__(self) -> bool:
        self._future.result()
        return bool(self._value)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        self._future.result()
        return np.asarray(self._value)


class _Stepper:
    """Returns before the step is done; its device computes one step after the other."""

    def __init__(self, start_seconds: float, seconds: float):
        self._start_seconds, self._seconds, self._device = start_seconds, seconds, ThreadPoolExecutor(1)

    def __call__(self, kind: tuple[str, str], state: "_State", batch: dict) -> tuple["_State", dict[str, _Value]]:
        time.sleep(self._start_seconds)
        future = self._device.submit(time.sleep, self._seconds)
        names = ("loss", "grad_norm", "param_norm", "learning_rate", "is_finite")
        return state, {name: _Value(future, 1.0) for name in names}

    def __enter__(self) -> "_Stepper":
        return self

    def __exit__(self, *_: object) -> None:
        self._device.shutdown()


@dataclasses.dataclass
class _State:
    step: int = 0
    params: dict = dataclasses.field(default_factory=dict)
    frozen: dict = dataclasses.field(default_factory=dict)
    ema: dict = dataclasses.field(default_factory=dict)
    opt_state: tuple = ()
    is_healthy: bool = True


class _Nothing:
    """A writer, checkpoints and an interruption that do nothing."""

    def write(self, *_: object) -> None:
        pass

    def save(self, *_: object) -> None:
        pass

    def listen(self) -> None:
        pass

    def all_agree(self) -> bool:
        return False


if __name__ == "__main__":
    main()
