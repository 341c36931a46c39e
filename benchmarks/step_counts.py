"""What a training step costs on this machine: operations, bytes, compile time and seconds, for each task.

    python -m benchmarks.step_counts                                     # one clip of 3x512x960, 5 targets
    python -m benchmarks.step_counts --tasks=instance --targets=40

The data and the losses are those of `configs/finetune.py` (64 slots, 12544 points), the network is that of
`configs/davis240.py` with 128 instance queries: so small that the losses are most of a step. Prints one JSON object
per task; seconds are pairs of wall time and processor time, with tracing where it is compiled. The compiler counts the
body of a loop once, however often it runs.
"""

import argparse
import dataclasses
import json
import statistics
import time

import jax
import numpy as np

from benchmarks.common import environment, time_of
from configs import davis240, finetune
from input_pipeline.batches import batch_shapes
from tarvis_jax import tasks
from tarvis_jax.config import from_mapping
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh, put_batch
from tarvis_jax.run_config import Config, settle
from tarvis_jax.train.step import make_gradients, random_key

DATASETS = {"instance": "OVIS", "panoptic": "VIPSEG", "exemplar": "BURST"}


def make_config(size: tuple[int, int]) -> Config:
    """`configs/finetune.py` with the network of `configs/davis240.py`; every dataset has one bucket, `size`."""
    mapping = finetune.get_config()
    classes = mapping.model.semantic_classes
    mapping.model = davis240.get_config().model
    mapping.model.semantic_classes = classes
    mapping.model.num_instance_queries = 128
    mapping.train.init_from = "random"
    mapping.data.batch_size = 1
    mapping.data.datasets = tuple({**dataset, "buckets": (size,)} for dataset in mapping.data.datasets)
    return settle(from_mapping(Config, mapping))


def make_batch(config: Config, dataset, task: str, num_targets: int) -> dict[str, np.ndarray]:
    """One clip of noise with `num_targets` overlapping rectangles, or as many as there are slots."""
    rng = np.random.default_rng(0)
    (size,) = dataset.buckets
    height, width = size
    shapes = batch_shapes(config.data, dataset, size, task)
    batch = {key: np.zeros(shape, dtype) for key, (shape, dtype) in shapes.items()}
    batch["images"] = rng.integers(0, 256, shapes["images"][0], np.uint8)
    for n in range(min(num_targets, dataset.num_slots(task))):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        batch["bit_planes"][:, n // 8, :, top : top + height // 4, left : left + width // 4] |= np.uint8(1 << n % 8)
        batch["valid_instances"][:, n] = True
        if task != "exemplar":
            batch["classes"][:, n] = 1 + n % dataset.num_classes
        else:
            batch["points_yx"][:, n] = (top + height / 8) / height, (left + width / 8) / width
    return batch


def measure(config: Config, task: str, num_targets: int, steps: int) -> dict:
    """Compiles and runs the gradients of one task."""
    (dataset,) = (each for each in config.data.datasets if each.name == DATASETS[task])
    structure, mesh = ModelStructure(config.model), make_mesh(jax.devices()[:1])
    params, frozen = jax.jit(structure.initialize)(jax.random.key(0))
    batch = put_batch(make_batch(config, dataset, task, num_targets), 1, mesh)
    arguments = params, frozen, batch, random_key(0, mesh), np.int32(0)
    function = make_gradients(structure, tasks.objectives(config)[dataset.name, task])
    wall, processor = time.perf_counter(), time.process_time()
    with jax.set_mesh(mesh):
        lowered = jax.jit(function).lower(*arguments)
        compiled = lowered.compile()
    compile_seconds = time.perf_counter() - wall, time.process_time() - processor
    _, loss, _ = compiled(*arguments)
    seconds = [time_of(lambda: compiled(*arguments)) for _ in range(steps)]
    cost = compiled.cost_analysis()
    return {
        "task": task,
        "dataset": dataset.name,
        "images": list(batch["images"].shape[1:-1]),
        "targets": [num_targets, dataset.num_slots(task)],
        "loss": float(loss),
        "step_s": [round(statistics.median(column), 2) for column in zip(*seconds, strict=True)],
        "compile_s": [round(each, 1) for each in compile_seconds],
        "gflops": round(cost["flops"] / 1e9, 1),
        "gbytes": round(cost["bytes accessed"] / 1e9, 2),
        "temp_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6),
        "stablehlo_lines": lowered.as_text().count("\n"),
        "hlo_lines": compiled.as_text().count("\n"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(DATASETS), help="comma-separated")
    parser.add_argument("--targets", type=int, default=5, help="real targets in the clip")
    parser.add_argument("--size", default="512x960", help="height x width of the clip")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="compute dtype")
    options = parser.parse_args()
    config = make_config(tuple(map(int, options.size.split("x"))))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, compute_dtype=options.dtype))
    print(json.dumps(environment()))
    for task in options.tasks.split(","):
        print(json.dumps(measure(config, task, options.targets, options.steps)), flush=True)


if __name__ == "__main__":
    main()
