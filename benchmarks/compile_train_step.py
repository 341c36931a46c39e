"""The training step compiled ahead for TPUs or GPUs that are not here: memory and communication.

    python -m benchmarks.compile_train_step                               # configs/finetune.py on v5e:4x4
    python -m benchmarks.compile_train_step --config=configs/quickstart.py --topology=v5e:2x4
    python -m benchmarks.compile_train_step --topology=h200:8             # eight GPUs of one machine

Prints one JSON object per task (its first dataset at `benchmarks.common.clip_size`) and one for the update: bytes on
one chip, collectives, and kernels and gathers in the program. TPUs need libtpu, and 15 minutes of half a core for each
task of configs/finetune.py; GPUs need what `kernels/aot/gpu.py` says, and two minutes of a core.
"""

import argparse
import collections
import dataclasses
import json
import re
import runpy
import time

from kernels.aot import gpu, tpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/finetune.py", help="file.py or file.py:argument")
    parser.add_argument("--topology", default="v5e:4x4", help='of TPUs, or "h200:N"')
    parser.add_argument("--batch_size", type=int, help="of all chips together; the configuration's unless given")
    parser.add_argument("--samples_at_once", type=int, default=1, help="clips on a chip at once")
    parser.add_argument("--tasks", help="comma-separated; all of the configuration unless given")
    options = parser.parse_args()
    tpu.prepare()
    file, _, argument = options.config.partition(":")
    mapping = runpy.run_path(file)["get_config"](argument)
    for row in measure(mapping, options):
        print(json.dumps(row), flush=True)


def measure(mapping, options):
    """Yields one row per program."""
    import jax
    import jax.numpy as jnp

    from benchmarks.common import clip_size
    from input_pipeline.batches import batch_shapes
    from tarvis_jax.config import from_mapping
    from tarvis_jax.model.structure import ModelStructure
    from tarvis_jax.parallel.mesh import make_mesh, microbatch_sharding, num_microbatches, replicated
    from tarvis_jax.run_config import Config, settle
    from tarvis_jax.tasks import objectives
    from tarvis_jax.train.optimizer import learning_rate_at, make_optimizer
    from tarvis_jax.train.state import new_state
    from tarvis_jax.train.step import make_gradients, make_update

    config = settle(from_mapping(Config, mapping))
    if options.batch_size:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=options.batch_size))
    name, _, number = options.topology.partition(":")
    is_gpu = name == "h200"
    mesh = make_mesh(gpu.devices(int(number or 1)) if is_gpu else tpu.topology_devices(options.topology))
    whole, split = replicated(mesh), microbatch_sharding(mesh)
    structure = ModelStructure(config.model)
    optimizer = make_optimizer(config.optimizer, structure.params)
    state = jax.eval_shape(
        lambda key: new_state(*structure.initialize(key), optimizer, config.optimizer.ema_decay > 0), jax.random.key(0)
    )
    microbatches = num_microbatches(config.data.batch_size, options.samples_at_once, mesh)

    def compiled(function, shardings, *arguments, **jit_options):
        start = time.monotonic()
        with jax.set_mesh(mesh):
            jitted = jax.jit(function, in_shardings=shardings, out_shardings=whole, **jit_options)
            report = tpu.report_of(
                jitted.trace(*arguments).lower(lowering_platforms=("cuda" if is_gpu else "tpu",)).compile()
            )
        return report, time.monotonic() - start

    def row(report: tpu.Report, seconds: float, **what) -> dict:
        return what | {
            "topology": options.topology,
            "argument_bytes": report.argument_bytes,
            "output_bytes": report.output_bytes,
            "temp_bytes": report.temp_bytes,
            "collectives": report.collectives,
            "custom_calls": collections.Counter(re.findall(r'custom_call_target="([^"]+)"', report.hlo)),
            "gathers": report.count("gather"),
            "scatters": report.count("scatter"),
            "compile_s": round(seconds, 1),
        }

    tasks = options.tasks and options.tasks.split(",")
    seen, all_objectives = set(), objectives(config)
    for dataset, task in [(each, task) for each in config.data.datasets for task in each.task_shares]:
        if task in seen or (tasks and task not in tasks):
            continue
        seen.add(task)
        objective = all_objectives[dataset.name, task]
        shapes = batch_shapes(config.data, dataset, clip_size(dataset), task)
        shapes["place"] = (config.data.batch_size,), jnp.int32
        batch = {
            name: jax.ShapeDtypeStruct((microbatches, shape[0] // microbatches, *shape[1:]), dtype)
            for name, (shape, dtype) in shapes.items()
        }
        key = jax.eval_shape(lambda: jax.random.key(0))
        arguments = (state.params, state.frozen, batch, key, state.step)
        report, seconds = compiled(
            make_gradients(structure, objective), (whole, whole, split, whole, whole), *arguments
        )
        images = [microbatches, *batch["images"].shape[1:]]
        yield row(report, seconds, program="gradients", task=task, images=images)
    update = make_update(optimizer, lambda step: learning_rate_at(config.optimizer, step), config.optimizer.ema_decay)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    report, seconds = compiled(update, whole, state, state.params, loss, donate_argnums=0)
    yield row(report, seconds, program="update")


if __name__ == "__main__":
    main()
