"""What a run says of itself while it trains: a table with one line per interval, and the time that is left."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from absl import logging

from tarvis_jax.compiled import Programs
from tarvis_jax.run_config import Config

HEADER_LINES = 20  # the header is repeated after so many lines


class Progress:
    """The clock of a run and the lines of its log.

    A line has the mean loss of every dataset of the mixture, in the config's order ("-" for one without a step since
    the line before), the norm of the gradient, the learning rate, steps per second, the share of the time that the loop
    waited for data, and the time that is left.
    """

    def __init__(self, config: Config, programs: Programs, now: Callable[[], float] = time.monotonic):
        """`programs`: those that the run compiles; `now`: seconds of a clock that never goes back."""
        self._num_steps = config.train.num_steps
        self._datasets = [dataset.name for dataset in config.data.datasets]
        self._labels = short_names(self._datasets)
        self._programs, self._now = programs, now
        self._num_lines = 0
        self._steps, self._busy = 0, 0.0  # of all intervals so far
        self._start, self._waited, self._paused, self._compiled = now(), 0.0, 0.0, programs.compile_seconds

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for data."""
        start = self._now()
        yield
        self._waited += self._now() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Around what is no training, such as an evaluation."""
        start = self._now()
        yield
        self._paused += self._now() - start

    def rates(self, num_steps: int) -> dict[str, float]:
        """Metrics of the `num_steps` steps since the last call: steps per second, without compiling and pauses, the
        percentage of the time that the loop waited for data, the number of compilations of the whole run, and the
        seconds spent in steps and in compiling."""
        now = self._now()
        compiling = self._programs.compile_seconds - self._compiled
        busy = max(now - self._start - self._paused - compiling, 1e-9)
        rates = {
            "steps_per_sec": num_steps / busy,
            "data_wait_percent": 100.0 * self._waited / busy,
            "num_compilations": float(self._programs.num_compilations),
            "train_seconds": busy,
            "compile_seconds": compiling,
        }
        self._steps, self._busy = self._steps + num_steps, self._busy + busy
        self._start, self._waited, self._paused, self._compiled = now, 0.0, 0.0, self._programs.compile_seconds
        return rates

    def seconds_left(self, step: int) -> float:
        """From `step` to the last step at the mean time of the steps so far, without evaluations."""
        return (self._num_steps - step) * self._busy / max(self._steps, 1)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes a line for `step`; `scalars`: the metrics of the interval, those of `rates` among them."""
        if self._num_lines % HEADER_LINES == 0:
            logging.info("%s", self.header())
        self._num_lines += 1
        logging.info("%s", self.line(step, scalars))

    def header(self) -> str:
        """What the columns are; the names of datasets stand over their losses."""
        return self._row("step", self._labels, "grad", "lr", "steps/s", "wait", "left")

    def line(self, step: int, scalars: Mapping[str, float]) -> str:
        """The columns of one interval."""
        losses = [scalars.get(f"train/{name}/loss") for name in self._datasets]
        return self._row(
            str(step),
            ["-" if loss is None else f"{loss:.2f}" for loss in losses],
            f"{scalars['grad_norm']:.1e}",
            f"{scalars['learning_rate']:.1e}",
            f"{scalars['steps_per_sec']:.2f}",
            f"{scalars['data_wait_percent']:.0f}%",
            duration(self.seconds_left(step)),
        )

    def _row(self, step: str, losses: list[str], *others: str) -> str:
        cells = [f"{step:>{max(len(str(self._num_steps)), 4)}}"]
        cells += [f"{loss:>{max(len(label), 6)}}" for loss, label in zip(losses, self._labels, strict=True)]
        widths = (7, 7, 7, 4, 8)
        return "  ".join(cells + [f"{text:>{width}}" for text, width in zip(others, widths, strict=True)])


def short_names(names: list[str]) -> list[str]:
    """Names of datasets up to their first "_", where that tells them apart: YOUTUBE for YOUTUBE_VIS."""
    stems = Counter(name.partition("_")[0] for name in names)
    return [stem if stems[stem := name.partition("_")[0]] == 1 else name for name in names]


def duration(seconds: float) -> str:
    """ "1:02:03" as hours, minutes and seconds; "3d04:05" from a day on."""
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, of_day = divmod(hours, 24)
    return f"{days}d{of_day:02}:{minutes:02}" if days else f"{hours}:{minutes:02}:{whole:02}"
