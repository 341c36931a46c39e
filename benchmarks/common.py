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

# Padded height and width of clips that these tasks often have in configs/finetune.py: YouTube-VIS, KITTI-STEP, BURST.
CLIP_SIZES = {"instance": (448, 832), "panoptic": (320, 768), "exemplar": (512, 960)}


def clip_size(dataset) -> tuple[int, int]:
    """Height and width of a dataset's clips: its first bucket, or `CLIP_SIZES` where they are found from the videos."""
    return dataset.buckets[0] if dataset.buckets else CLIP_SIZES[dataset.task]


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


def time_of(function: Callable[[], Any]) -> tuple[float, float]:
    """(wall time, processor time of all threads) of one call in seconds, until its arrays are there."""
    wall, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    return time.perf_counter() - wall, time.process_time() - processor


def alternate(runs: Mapping[str, Callable[[], tuple[float, float]]], repetitions: int) -> dict[str, dict[str, Any]]:
    """Calls the runs in turn, so that whatever else the machine does meets all of them alike.

    Args:
      runs: name -> a function that runs once and returns what `time_of` does; warmed up already.
      repetitions: of each.

    Returns:
      name -> {"median_s", "min_s", "median_processor_s", "seconds": wall times of all}. On one core and a busy machine,
      compare processor times; on several, a thread that waits may spin.
    """
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repetitions):
        for name, run in runs.items():
            times[name].append(run())
    result = {}
    for name, pairs in times.items():
        wall, processor = zip(*pairs, strict=True)
        result[name] = {
            "median_s": statistics.median(wall),
            "min_s": min(wall),
            "median_processor_s": statistics.median(processor),
            "seconds": [round(seconds, 6) for seconds in wall],
        }
    return result


def write_json(path: str | None, result: Mapping[str, Any]) -> None:
    """Writes `result` to `path` (folders are made), or nothing if there is no path.

    Call it after every figure: whoever is stopped half way leaves the file of the figure before.
    """
    if path:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(f"{path}.partial")
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(path)
