"""Speed and memory of a training step on random clips, beside the original's where it is at hand.

It needs no data and no TensorFlow.

    python -m benchmarks.train --config=configs/finetune.py --batch_size=8 --samples_at_once=1,4 --out=train.json
    python -m benchmarks.train --config=configs/finetune.py:backbone=SwinTiny --batch_size=4 --samples_at_once=4 \\
        --dtype=float32 --tasks=instance --reference=/tmp/peers
    python -m benchmarks.train --config=configs/quickstart.py --batch_size=2 --steps=2       # a smoke test

Gradients and update of the real step (`tarvis_jax/train/step.py`) at one shape per task (`benchmarks.common.clip_size`
of its first dataset). `--reference` is a folder made by `prepare_peers.sh`: the original's model, losses and optimizer
take clips of the same sizes, as many at once, in a process of their own; the two take steps in turn. The peak of ours
is that of all rows so far, so that memory is compared in a run of one row.
"""

import argparse
import dataclasses
import json
import runpy
import sys
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.common import alternate, clip_size, environment, time_of, write_json
from benchmarks.reference import Reference
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


def benchmark(config: Config, samples_at_once: int, args: argparse.Namespace) -> Iterator[dict]:
    """One row per task: median seconds of a step, clips/s, peak of the device's memory so far; or what went wrong.

    With a reference, each row comes a second time, beside its figures.
    """
    mesh = make_mesh()
    datasets = {}
    for dataset in config.data.datasets:
        for task in dataset.task_shares:
            if not args.tasks or task in args.tasks.split(","):
                datasets.setdefault(task, dataset)
    if not datasets:
        raise SystemExit(f"--tasks={args.tasks}: {args.config} has none of these")
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
            "deterministic": config.train.deterministic,
        }
        compiled_before = stepper.programs.compile_seconds
        try:
            batch = put_batch(random_batch(config.data, dataset, task), microbatches, mesh)
            state = state or stepper.pack(stepper.initial_state())
            step = _Steps(stepper, (dataset.name, task), state, batch)
            step()  # compiles
            times = alternate({"ours": step}, args.steps)["ours"]
        except Exception as error:  # out of memory, a compiler's: any kind
            state = None  # a step that failed may have given its memory away
            yield row | {"error": f"{type(error).__name__}: {error}"[:1000]}
            continue
        memory = jax.devices()[0].memory_stats() or {}
        row |= {
            "compile_s": round(stepper.programs.compile_seconds - compiled_before, 1),
            "median_s": times["median_s"],
            "clips_per_s": config.data.batch_size / times["median_s"],
            "peak_bytes": memory.get("peak_bytes_in_use"),
        }
        yield row
        if args.reference:
            options = [f"--dataset={dataset.name}", f"--backbone={config.model.backbone}", "--train", f"--task={task}"]
            frames, height, width = row["clip"]
            options += [f"--frames={frames}", f"--height={height}", f"--width={width}"]
            options += [f"--clips={samples_at_once}", f"--microbatches={microbatches}"]
            try:
                reference = Reference(args.reference_python, args.reference, options, config.model.compute_dtype)
                times = alternate({"ours": step, "reference": reference.run}, args.steps)
                times["reference"] |= reference.description | {"peak_bytes": reference.close()}
            except RuntimeError as error:
                yield row | {"error": str(error)[:1000]}
            else:
                yield row | _compared(row, times)
        state = step.state


def _compared(row: dict, times: dict[str, dict]) -> dict:
    """What the reference adds to a row: its times and ours, measured in turn, and ratios; above 1, ours is better."""
    ours, reference = times["ours"], times["reference"]
    ratios = {"speedup": reference["median_s"] / ours["median_s"]}
    ratios["processor_time_ratio"] = reference["median_processor_s"] / ours["median_processor_s"]
    if row["peak_bytes"]:
        ratios["memory_ratio"] = reference["peak_bytes"] / row["peak_bytes"]
    return {"beside": ours, "reference": reference, **ratios}


class _Steps:
    """Steps on one batch; a call takes one and times it as `benchmarks.common.time_of`.

    Attributes:
      state: the last one.
    """

    def __init__(self, stepper: TrainStepper, kind: tuple[str, str], state: TrainState, batch):
        self._stepper, self._kind, self.state, self._batch = stepper, kind, state, batch

    def __call__(self) -> tuple[float, float]:
        """RuntimeError if gradients are not finite."""
        times = time_of(self._take)
        if not self._is_finite:
            bad = self._stepper.first_bad_tensor(self._kind, self.state, self._batch)
            raise RuntimeError(f"{' '.join(self._kind)}: {bad} not finite")
        return times

    def _take(self) -> jax.Array:
        self.state, metrics = self._stepper(self._kind, self.state, self._batch)
        self._is_finite = metrics["is_finite"]
        return self._is_finite


def _adjusted(config: Config, args: argparse.Namespace) -> Config:
    """With what the command line says."""
    data = dataclasses.replace(config.data, batch_size=args.batch_size)
    if args.size:
        height, width = map(int, args.size.split("x"))
        datasets = tuple(dataclasses.replace(each, buckets=((height, width),)) for each in data.datasets)
        data = dataclasses.replace(data, datasets=datasets)
    model = dataclasses.replace(config.model, compute_dtype=args.dtype or config.model.compute_dtype)
    train = dataclasses.replace(config.train, deterministic=config.train.deterministic or args.deterministic)
    return dataclasses.replace(config, data=data, model=model, train=train)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune.py", help="file.py or file.py:argument")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--samples_at_once", default="1", help="clips on a device at once; several: comma-separated")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tasks", help="some of instance, panoptic and exemplar, comma-separated; default: all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of activations; default: the config's")
    parser.add_argument("--size", help="height and width of the clips, as 64x128; default: a common one of each task")
    parser.add_argument("--deterministic", action="store_true", help="the same bits in every run (train.deterministic)")
    parser.add_argument("--reference", help="folder with the original, prepared by prepare_peers.sh")
    parser.add_argument("--reference-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    file, _, argument = args.config.partition(":")
    config = settle(_adjusted(from_mapping(Config, runpy.run_path(file)["get_config"](argument)), args))
    result = {"environment": environment(), "config": args.config, "rows": []}
    print(json.dumps(result["environment"]))
    for samples in map(int, args.samples_at_once.split(",")):
        rows: dict[str, dict] = {}
        for row in benchmark(config, samples, args):
            rows[row["task"]] = row  # what is beside the reference takes the place of what was alone
            write_json(args.out, result | {"rows": result["rows"] + list(rows.values())})
            print(json.dumps(row), flush=True)
        result["rows"] += rows.values()
    if any("error" in row for row in result["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
