"""What the benchmarks share: where and with what they ran, alternating repetitions, JSON."""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def environment() -> dict[str, Any]:
    """Date, device, versions and commit: what a figure means nothing without."""
    root = pathlib.Path(__file__).resolve().parent.parent
    commit = subprocess.run(["git", "-C", root, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit.stdout.strip() or None,
    }


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of one call, until its arrays are there."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def alternate(runs: Mapping[str, Callable[[], float]], repetitions: int) -> dict[str, dict[str, Any]]:
    """Calls the runs in turn, so that whatever else the machine does meets all of them alike.

    Args:
      runs: name -> a function that runs once and returns its seconds; warmed up already.
      repetitions: of each.

    Returns:
      name -> {"median_s", "min_s", "seconds": all of them}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            seconds[name].append(run())
    return {
        name: {"median_s": statistics.median(values), "min_s": min(values), "seconds": [round(v, 6) for v in values]}
        for name, values in seconds.items()
    }


def write_json(path: str | None, result: Mapping[str, Any]) -> None:
    """Writes `result` to `path` (folders are made), or nothing if there is no path."""
    if path:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(json.dumps(result, indent=1) + "\n")
