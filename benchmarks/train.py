"""Speed and memory of a training step on random clips: no data, no TensorFlow.

    python -m benchmarks.train --config=configs/finetune.py --batch_size=8 --samples_at_once=1,4 --out=train.json
    python -m benchmarks.train --config=configs/quickstart.py --batch_size=2 --steps=2       # a smoke test

Gradients and update of the real step (`tarvis_jax/train/step.py`) at one shape per task (`benchmarks.common.clip_size`
of its first dataset).
"""

import argparse
import dataclasses
import json
import runpy
import statistics
import time
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.common import clip_size, environment, write_json
from input_pipeline.batches import batch_shapes
from input_pipeline.config import DataConfig, DatasetConfig
from tarvis_jax.config import from_mapping
from tarvis_jax.parallel.mesh import make_mesh, num_microbatches, put_batch
from tarvis_jax.run_config import Config, settle
from tarvis_jax.train.state import TrainState
from tarvis_jax.train.step import TrainStepper, make_stepper


def random_batch(config: DataConfig, dataset: DatasetConfig, task: str) -> dict[str, np.ndarray]:
    """Noise with four rectangles to segment in every clip, of the size `clip_size`."""
    rng = np.random.default_rng(0)
    shapes = batch_shapes(config, dataset, clip_size(dataset), task)
    batch = {key: np.zeros(shape, dtype) for key, (shape, dtype) in shapes.items()}
    batch["images"] = rng.integers(0, 256, shapes["images"][0], np.uint8)
    height, width = clip_size(dataset)
    for n in range(min(4, dataset.num_slots(task))):
        top, left = n * height // 8, n * width // 8
        batch["bit_planes"][:, n // 8, :, top : top + height // 4, left : left + width // 4] |= 1 << n % 8
        batch["valid_instances"][:, n] = True
        if task != "exemplar":
            batch["classes"][:, n] = 1 + n % dataset.num_classes
        if "points_yx" in batch:
            batch["points_yx"][:, n] = (top + height / 8) / height, (left + width / 8) / width
    return batch


def benchmark(config: Config, samples_at_once: int, steps: int) -> Iterator[dict]:
    """One row per task: median seconds of a step, clips/s, peak of the device's memory so far; or what went wrong."""
    mesh = make_mesh()
    datasets = {}
    for dataset in config.data.datasets:
        for task in dataset.task_shares:
            datasets.setdefault(task, dataset)
    data = dataclasses.replace(config.data, datasets=tuple({each.name: each for each in datasets.values()}.values()))
    stepper = make_stepper(dataclasses.replace(config, data=data), mesh)
    microbatches = num_microbatches(config.data.batch_size, samples_at_once, mesh)
    state = None
    for task, dataset in datasets.items():
        row = {
            "task": task,
            "dataset": dataset.name,
            "clip": [config.data.clip_length, *clip_size(dataset)],
            "batch_size": config.data.batch_size,
            "samples_at_once": samples_at_once,
            "compute_dtype": config.model.compute_dtype,
        }
        compiled_before = stepper.programs.compile_seconds
        try:
            batch = put_batch(random_batch(config.data, dataset, task), microbatches, mesh)
            state = state or stepper.pack(stepper.initial_state())
            state, seconds = _time_steps(stepper, (dataset.name, task), state, batch, steps)
        except Exception as error:  # out of memory, a compiler's: any kind
            state = None  # a step that failed may have given its memory away
            yield row | {"error": f"{type(error).__name__}: {error}"[:1000]}
            continue
        memory = jax.devices()[0].memory_stats() or {}
        yield row | {
            "compile_s": round(stepper.programs.compile_seconds - compiled_before, 1),
            "median_s": statistics.median(seconds[1:]),
            "clips_per_s": config.data.batch_size / statistics.median(seconds[1:]),
            "peak_bytes": memory.get("peak_bytes_in_use"),
        }


def _time_steps(
    stepper: TrainStepper, kind: tuple[str, str], state: TrainState, batch, steps: int
) -> tuple[TrainState, list]:
    """(the last state, seconds of each step, the first with its compilation included).

    Raises:
      RuntimeError: gradients are not finite.
    """
    seconds = []
    for _ in range(1 + steps):
        start = time.perf_counter()
        state, metrics = stepper(kind, state, batch)
        is_finite = bool(jax.block_until_ready(metrics["is_finite"]))
        seconds.append(time.perf_counter() - start)
        if not is_finite:
            raise RuntimeError(f"{' '.join(kind)}: {stepper.first_bad_tensor(kind, state, batch)} not finite")
    return state, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune.py", help="file.py or file.py:argument")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--samples_at_once", default="1", help="clips on a device at once; several: comma-separated")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    file, _, argument = args.config.partition(":")
    config = settle(from_mapping(Config, runpy.run_path(file)["get_config"](argument)))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=args.batch_size))
    result = {"environment": environment(), "config": args.config, "rows": []}
    print(json.dumps(result["environment"]))
    for samples in map(int, args.samples_at_once.split(",")):
        for row in benchmark(config, samples, args.steps):
            result["rows"].append(row)
            write_json(args.out, result)
            print(json.dumps(row), flush=True)
    if any("error" in row for row in result["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
