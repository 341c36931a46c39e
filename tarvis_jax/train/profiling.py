"""Traces of some steps for XProf (docs/troubleshooting.md says how to open them)."""

import pathlib

import jax
from absl import logging

FOLDER = "profile"  # in the workdir


class Profiler:
    """Writes a trace of the steps of a range; each process writes what its own host and devices do."""

    def __init__(self, steps: range, workdir: pathlib.Path):
        self._steps, self._folder = steps, workdir / FOLDER
        self._is_on = False

    def before(self, step: int) -> None:
        """To be called before a step is started, numbered from 0."""
        if step in self._steps and not self._is_on:
            jax.profiler.start_trace(self._folder)
            self._is_on = True

    def after(self, step: int, result: jax.Array) -> None:
        """To be called when the step has been started; `result`: of the step, which the last of the trace waits for."""
        if self._is_on and step == self._steps[-1]:
            jax.block_until_ready(result)
            self.close()
            logging.info("trace of steps %d to %d in %s", self._steps[0] + 1, self._steps[-1] + 1, self._folder)

    def close(self) -> None:
        """Writes what there is, if the range has not ended."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()
