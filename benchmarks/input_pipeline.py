"""Speed and memory of the input pipeline, beside the original's own loaders in the same run where they are at hand.

    python -m tests.rehearsal TREE                                             # files of the official sizes
    python -m benchmarks.input_pipeline --workspace=TREE/workspace
    python -m benchmarks.input_pipeline --workspace=TREE/workspace --reference=FOLDER --reference_python=PYTHON
    python -m benchmarks.input_pipeline --workspace=TREE/workspace --parts=scaling,memory --workers=0,1,2

Parts: `clips` is one clip of each dataset in one process on one core, ours and the original's in turn; `stages` says
where our time goes; `bytes` is the size of a clip as it crosses to the device, and of the arrays it stands for;
`scaling` is the whole pipeline with worker processes; `memory` follows the memory of all its processes over many steps.
The first three are run by themselves: their process has the settings of memory that a worker has.

The files lie in the memory of the machine after the first round: a disk is not measured.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import runpy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from benchmarks.common import alternate, environment, write_json
from input_pipeline import (
    augment,
    batches,
    id_layers,
    images,
    mixture,
    points,
    readers,
    records,
    samples,
    targets,
    workers,
)
from input_pipeline.config import DataConfig
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config

AS_A_WORKER = ("clips", "stages", "bytes")  # parts in which this process does what a worker does


class Reference:
    """The original's datasets in a process of their own; see `reference_loader.py`."""

    def __init__(self, args: argparse.Namespace, names: list[str]):
        command = [args.reference_python, str(pathlib.Path(__file__).with_name("reference_loader.py"))]
        command += [args.reference, args.workspace, f"--datasets={','.join(names)}"]
        variables = os.environ | {"PYTHONPATH": args.reference_path, "OMP_NUM_THREADS": "1"}
        for name in workers.KEEP_FREED_MEMORY:  # of our workers; the original runs as it is
            variables.pop(name, None)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        self.description = self._read()
        self.targets: list[float] = []  # mean number, by round

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process of the original ended; its message is above")
        return json.loads(line)

    def run(self, name: str, count: int) -> tuple[float, float]:
        """(wall, processor) seconds of `count` clips."""
        self._process.stdin.write(f"{name} {count}\n")
        self._process.stdin.flush()
        answer = self._read()
        self.targets.append(answer["targets"])
        return tuple(answer["seconds"])

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


class Ours:
    """Clips of one dataset, made in this process."""

    def __init__(self, config: DataConfig, name: str):
        dataset = next(dataset for dataset in config.datasets if dataset.name == name)
        config = dataclasses.replace(config, datasets=(dataset,), batch_size=1, chunk_steps=1, cache_records=False)
        videos = [readers.training_videos(dataset, config.workspace)]
        self.dataset = dataset
        self._plans = mixture.Mixture(config, videos)
        self._loader = samples.SampleLoader(config, videos)
        self._step = itertools.count()
        self.targets: list[float] = []  # mean number, by round

    def clip(self) -> dict[str, np.ndarray]:
        return self._loader.load(self._plans.plan(next(self._step)), 0)

    def run(self, count: int) -> tuple[float, float]:
        """(wall, processor) seconds of `count` clips."""
        wall, processor, found = time.perf_counter(), time.process_time(), 0
        for _ in range(count):
            found += int(self.clip()["valid_instances"].sum())
        self.targets.append(found / count)
        return time.perf_counter() - wall, time.process_time() - processor


def clips(args: argparse.Namespace, config: DataConfig) -> Iterator[dict]:
    """One row per dataset: milliseconds of a core for a clip, and the ratio; medians over rounds."""
    names = [dataset.name for dataset in config.datasets]
    reference = Reference(args, names) if args.reference else None
    if reference:
        yield {"reference": reference.description}
    for name in names:
        ours = Ours(config, name)
        runs: dict[str, Callable[[], tuple[float, float]]] = {"ours": functools.partial(ours.run, args.clips)}
        if reference:
            reference.targets.clear()
            runs["reference"] = functools.partial(reference.run, name, args.clips)
        for run in runs.values():
            run()
        times = alternate(runs, args.rounds)
        row = {"dataset": name, "clips": args.clips, "rounds": args.rounds, "load": os.getloadavg()[0]}
        for who, found in times.items():
            row[f"{who}_ms"] = round(1e3 * found["median_processor_s"] / args.clips, 2)
            row[f"{who}_wall_ms"] = round(1e3 * found["median_s"] / args.clips, 2)
            row[f"{who}_clips_per_s"] = round(args.clips / found["median_processor_s"], 1)
        if reference:
            row["ratio"] = round(row["reference_ms"] / row["ours_ms"], 2)
            row["targets"] = [round(statistics.mean(who.targets), 1) for who in (ours, reference)]
        yield row
    if reference:
        reference.close()


# Stage -> (object, name) of the functions that are it.
STAGES = {
    "decode images": [(images, "read_frame")],
    "decode masks": [
        (id_layers.IdLayers, "of_segments"),
        (id_layers.IdLayers, "of_id_maps"),
        (records.VideoRecord, "panoptic_map"),
        (records.VideoRecord, "semantic_map"),
    ],
    "crop and flip": [
        (augment, "flip"),
        (augment, "crop"),
        (augment, "containing_crop"),
        (augment, "preserving_crop"),
        (id_layers.IdLayers, "union"),
        (id_layers.IdLayers, "areas"),
    ],
    "resize": [(augment, "resize")],
    "colors": [(augment, "jitter_colors")],
    "points": [(points, "mask_to_point")],
    "pack and pad": [(targets, "padded_targets")],
}


def stages(args: argparse.Namespace, config: DataConfig) -> Iterator[dict]:
    """One row per dataset: milliseconds of a core for each stage of a clip."""
    spent = dict.fromkeys(STAGES, 0.0)
    inside = [0.0]

    def timed(stage: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arguments, **options):
            start, before = time.thread_time(), inside[0]
            try:
                return function(*arguments, **options)
            finally:
                seconds = time.thread_time() - start
                spent[stage] += seconds - (inside[0] - before)  # a stage inside of a stage counts once
                inside[0] = before + seconds

        return call

    originals = [(stage, owner, name, getattr(owner, name)) for stage, all_ in STAGES.items() for owner, name in all_]
    for dataset in config.datasets:
        ours = Ours(config, dataset.name)
        ours.run(args.clips)
        for stage, owner, name, function in originals:
            setattr(owner, name, timed(stage, function))
        try:
            for stage in spent:
                spent[stage] = 0.0
            _, processor = ours.run(args.rounds * args.clips)
        finally:
            for _, owner, name, function in originals:
                setattr(owner, name, function)
        count = args.rounds * args.clips
        row = {stage: round(1e3 * seconds / count, 2) for stage, seconds in spent.items()}
        yield {"dataset": dataset.name, **row, "rest": round(1e3 * (processor - sum(spent.values())) / count, 2)}


def expanded_bytes(batch: dict[str, np.ndarray]) -> int:
    """Size of the arrays that the losses take: a byte for each pixel of each mask slot, 5 for each of the class map."""
    small = ("id_map", "bit_planes", "class_map")
    pixels = batch["images"].size // 3
    rest = sum(array.nbytes for key, array in batch.items() if key not in small)
    return rest + pixels * batch["classes"].shape[-1] + ("class_map" in batch) * pixels * 5


def sizes(args: argparse.Namespace, config: DataConfig) -> Iterator[dict]:
    """One row per dataset: mean megabytes of a clip, expanded and as it crosses, and how many clips have bit planes."""
    for dataset in config.datasets:
        ours = Ours(config, dataset.name)
        found = [ours.clip() for _ in range(args.clips)]
        before = statistics.mean(expanded_bytes(clip) for clip in found) / 1e6
        after = statistics.mean(sum(array.nbytes for array in clip.values()) for clip in found) / 1e6
        yield {
            "dataset": dataset.name,
            "slots": dataset.max_instances,
            "mean_targets": round(statistics.mean(int(clip["valid_instances"].sum()) for clip in found), 1),
            "expanded_mb": round(before, 2),
            "crosses_mb": round(after, 2),
            "ratio": round(before / after, 1),
            "bit_planes": statistics.mean("bit_planes" in clip for clip in found),
        }


def processes() -> list[int]:
    """This process and all that descend from it."""
    parents = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory_mb() -> float:
    """Resident memory of all processes but files: data, and once each what several of them share."""
    total = 0
    for pid in processes():
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        # Not the code of libraries: its share of a process changes when a stranger's process ends.
        lines = [line.split() for line in text.splitlines()]
        total += sum(int(line[1]) for line in lines if line[0] in ("Pss_Anon:", "Pss_Shmem:"))
    return total / 1024


def processor_s() -> float:
    """Seconds of processor time of this process and its workers so far."""
    ticks = 0
    for pid in processes():
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def scaling(args: argparse.Namespace, config: DataConfig) -> Iterator[dict]:
    """One row per number of workers and round: clips/s of the whole pipeline, and processor time of a clip."""
    for _ in range(args.rounds):
        for count in map(int, args.workers.split(",")):
            settings = dataclasses.replace(config, num_parallel=count, batch_size=args.batch_size)
            stream = batches.train_batches(settings)
            for _ in range(2 + config.prefetch):
                next(stream)
            wall, own, processor = time.perf_counter(), time.process_time(), processor_s()
            for _ in range(args.steps):
                next(stream)
            own, processor = time.process_time() - own, processor_s() - processor
            wall = time.perf_counter() - wall
            made = args.steps * args.batch_size
            yield {
                "workers": count,
                "clips_per_s": round(made / wall, 1),
                "processor_ms_per_clip": round(1e3 * processor / made, 2),
                "of_this_process_ms": round(1e3 * own / made, 2),  # with workers: taking over and stacking
                "cores_busy": round(processor / wall, 2),
                "memory_mb": round(memory_mb()),
                "load": os.getloadavg()[0],
            }
            stream.close()


def memory(args: argparse.Namespace, config: DataConfig) -> Iterator[dict]:
    """Memory over many steps: megabytes at the start and the end, and the slope of a line through the second half."""
    count = max(map(int, args.workers.split(",")))
    settings = dataclasses.replace(config, num_parallel=count, batch_size=args.batch_size)
    start, found = time.monotonic(), []
    stream = batches.train_batches(settings)
    for step in range(args.memory_steps):
        next(stream)
        if step % 10 == 0:
            found.append((step, memory_mb()))
        if time.monotonic() - start > args.memory_minutes * 60:
            break
    stream.close()
    half = np.array(found[len(found) // 2 :])
    slope = np.polyfit(half[:, 0], half[:, 1], 1)[0] if len(half) > 1 else float("nan")
    yield {
        "workers": count,
        "batch_size": args.batch_size,
        "steps": step + 1,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "mb": [round(megabytes) for _, megabytes in found[:: max(1, len(found) // 8)]],
        "max_mb": round(max(megabytes for _, megabytes in found)),
        "mb_per_1000_steps": round(1000 * slope, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--config", default="configs/finetune.py", help="file.py or file.py:argument")
    parser.add_argument("--datasets", help="comma-separated; all of the config unless given")
    parser.add_argument("--parts", default=",".join(AS_A_WORKER), help="comma-separated")
    parser.add_argument("--clips", type=int, default=12, help="of a dataset in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", default="0,1,2", help="numbers of worker processes")
    parser.add_argument("--steps", type=int, default=12, help="of a round of `scaling`")
    parser.add_argument("--batch_size", type=int, default=8, help="of `scaling` and `memory`")
    parser.add_argument("--memory_steps", type=int, default=2000)
    parser.add_argument("--memory_minutes", type=float, default=5)
    parser.add_argument("--reference", help="folder of the original (tarvis/, configs/)")
    parser.add_argument(
        "--reference_python", default=sys.executable, help="interpreter that the original's loaders need"
    )
    parser.add_argument("--reference_path", default="", help="PYTHONPATH of that interpreter, for a detectron2")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    parts = args.parts.split(",")
    if set(parts) <= set(AS_A_WORKER) and not workers.KEEP_FREED_MEMORY.items() <= os.environ.items():
        command = [sys.executable, "-m", "benchmarks.input_pipeline", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | workers.KEEP_FREED_MEMORY)
    file, _, argument = args.config.partition(":")
    data = from_mapping(Config, runpy.run_path(file)["get_config"](argument)).data
    if args.datasets:
        chosen = args.datasets.split(",")
        data = dataclasses.replace(data, datasets=tuple(d for d in data.datasets if d.name in chosen))
    data = dataclasses.replace(data, workspace=args.workspace)
    cv2.setNumThreads(1)
    result: dict[str, Any] = {"environment": environment() | {"opencv": cv2.__version__}}
    print(json.dumps(result["environment"]))
    functions = {"clips": clips, "stages": stages, "bytes": sizes, "scaling": scaling, "memory": memory}
    for part in parts:
        result[part] = []
        for row in functions[part](args, data):
            result[part].append(row)
            write_json(args.out, result)
            print(part, json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
