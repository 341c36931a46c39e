"""Starts main.py as one or several processes of one run, on the CPU."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests import xla_flags

ROOT = pathlib.Path(__file__).resolve().parents[2]
LIMIT = 600.0  # seconds that a run may take


class Run:
    """The processes of a run; their logs are log-<number>.txt in `folder`."""

    def __init__(
        self, folder: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path, *flags: str, count: int = 1, devices=1
    ):
        """`cache`: compiled programs, for all runs; `devices`: of each process."""
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} {xla_flags.QUICK}",
        }
        folder.mkdir(parents=True, exist_ok=True)
        self.logs = [folder / f"log-{i}.txt" for i in range(count)]
        address = f"--coordinator_address=localhost:{free_port()}"
        self.processes = []
        for i, log in enumerate(self.logs):
            command = [sys.executable, "main.py", *flags, f"--workdir={workdir}"]
            if count > 1:
                command += [address, f"--num_processes={count}", f"--process_id={i}"]
            with log.open("w") as file:
                self.processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file))

    def wait(self, limit: float = LIMIT) -> list[int]:
        """Exit statuses of all processes; it is an error if one still runs after `limit` seconds."""
        end = time.monotonic() + limit
        try:
            return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
                process.wait()

    def log(self, process: int = 0) -> str:
        """What a process has said so far."""
        return self.logs[process].read_text(errors="replace")

    def wait_until(self, condition: Callable[[], Any], limit: float = LIMIT) -> None:
        """Returns when `condition()` is true; it is an error if a process ends before."""
        end = time.monotonic() + limit
        while not condition():
            ended = [i for i, process in enumerate(self.processes) if process.poll() is not None]
            assert not ended, f"process {ended[0]} ended:\n{self.log(ended[0])[-3000:]}"
            assert time.monotonic() < end, f"still waiting after {limit} s:\n{self.log()[-3000:]}"
            time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
