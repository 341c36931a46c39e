"""The original model in a process of its own, beside which the benchmarks time ours."""

import json
import os
import pathlib
import subprocess
from collections.abc import Sequence

import jax

_WORKER = pathlib.Path(__file__).with_name("reference_worker.py")


class Reference:
    """A process of `reference_worker.py`.

    Attributes:
      description: the version of PyTorch, whether the original's CUDA op is used, and the number of parameters.
    """

    def __init__(self, python: str, folder: str, options: Sequence[str], dtype: str):
        """RuntimeError if the model cannot be built or run once; its message is on the error output.

        Args:
          python: interpreter that has PyTorch.
          folder: made by `prepare_peers.sh`.
          options: of `reference_worker.py`, but for those that follow from the device and from `dtype`.
          dtype: "bfloat16" runs the original under autocast, its own way to mixed precision; "float32" does not.
        """
        device = "cuda" if jax.default_backend() == "gpu" else "cpu"
        command = [python, str(_WORKER), folder, *options, f"--device={device}"]
        command += [f"--threads={len(os.sched_getaffinity(0))}"]
        command += ["--autocast=bfloat16"] if dtype == "bfloat16" else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.description = self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the reference's process ended; its message is above")
        return json.loads(line)

    def run(self) -> tuple[float, float]:
        """As `common.time_of`, of one clip or one training step."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return tuple(self._read()["seconds"])

    def close(self) -> int:
        """Ends the process; returns its peak of memory in bytes."""
        self._process.stdin.close()
        peak = self._read()["peak_bytes"]
        self._process.wait()
        return peak
