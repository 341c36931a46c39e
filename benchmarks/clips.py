"""What overlapping clips, many clips and many objects cost, and how many programs videos of many sizes need.

    python -m benchmarks.clips [--height=128 --width=192 --length=6 --overlap=3 --backbone=ResNet50 --reps=3]
    python -m benchmarks.clips --target=h100 --height=448 --width=832 --length=12 --overlap=6 --dtype=bfloat16

The weights are random, and a JSON line is printed for each figure. FLOPs are those that the compiler counts in the
program; it counts the loop over new frames once, which is right for all clips but the first.

With `--target`, nothing runs: the lines say what memory clips need that go through the network at once, as the compiler
plans it for a GPU that is not here.
"""

import argparse
import json
from collections.abc import Iterator

import jax
import numpy as np
from flax import nnx

from benchmarks.common import alternate, time_of
from kernels.aot import gpu
from tarvis_jax import api
from tarvis_jax.inference import network
from tarvis_jax.inference.clips import plan_geometry
from tarvis_jax.inference.config import default_inference
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory, Predictor
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.model.config import PYRAMID_STRIDES, ModelConfig
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.variables import abstract_model, fill

# Sizes (height, width) as they occur in data sets of videos from the web.
VIDEO_SIZES = (
    *((720, 1280), (1080, 1920), (360, 640), (480, 854), (480, 640), (480, 720), (540, 960), (720, 960), (1080, 1440)),
    *((1280, 720), (1920, 1080), (640, 360), (640, 480), (720, 406), (720, 720), (480, 480), (544, 1280), (640, 1280)),
)

_FEATURES = 1  # a predictor's first program makes empty maps, the second the features of a clip


def flops(predictor: Predictor, index: int) -> float:
    """Of one of the programs, by its place in the order of compilation."""
    costs = predictor.programs.all()[index].cost_analysis()
    return (costs[0] if isinstance(costs, list) else costs)["flops"]


def seconds_of(timing: dict) -> list[float]:
    """Wall and processor time."""
    return [round(timing[key], 3) for key in ("median_s", "median_processor_s")]


def shared_frames(args: argparse.Namespace, model: api.Model) -> dict:
    """A clip of VIS whose first frames are known from the clip before, and the same clip without such a clip."""
    predictor, names = model.predictor, ("clip with shared frames", "clip alone")
    images = np.random.default_rng(0).integers(0, 256, (args.length, args.height, args.width, 3), np.uint8)
    step = args.length - args.overlap
    memory = FrameMemory()
    place = lambda first, memory: ClipPlace(first, args.length, args.overlap, None, memory)  # noqa: E731
    predictor.segment_classes(images, "YOUTUBE_VIS", place(0, memory))
    maps = memory.maps

    def run(is_shared: bool) -> None:
        memory = FrameMemory()
        memory.maps, memory.first = maps, step if is_shared else -1
        predictor.segment_classes(images, "YOUTUBE_VIS", place(step, memory))

    runs = {name: lambda s=s: time_of(lambda: run(s)) for name, s in zip(names, (True, False), strict=True)}
    alternate(runs, 1)
    times = {name: seconds_of(timing) for name, timing in alternate(runs, args.reps).items()}
    total = flops(predictor, _FEATURES) + flops(predictor, _FEATURES + 1)
    alone = total + _flops_of_frames(model, images[None, :step]) * (-(-args.length // step) - 1)
    return {
        "seconds, wall and processor": times,
        "time saved": [round(1 - a / b, 3) for a, b in zip(times[names[0]], times[names[1]], strict=True)],
        "gigaflop": {names[0]: round(total / 1e9, 1), names[1]: round(alone / 1e9, 1)},
        "flop saved": round(1 - total / alone, 3),
    }


def _flops_of_frames(model: api.Model, images: np.ndarray) -> float:
    """Of what sees one frame at a time, for images [1, T, H, W, 3]."""
    frames = jax.jit(lambda variables, images: fill(abstract_model(model.config), variables).frame_features(images))
    costs = frames.lower(model.variables, images).compile().cost_analysis()
    return (costs[0] if isinstance(costs, list) else costs)["flops"]


def many_clips(args: argparse.Namespace, model: api.Model, batches: tuple[int, ...]) -> Iterator[dict]:
    """Successive clips of VIS at once, the frames before them being known; all figures are of one clip."""
    predictor, rng, runs, work = Predictor(model.config, model.variables), np.random.default_rng(0), {}, {}
    step = args.length - args.overlap
    frames = rng.integers(0, 256, (args.overlap + max(batches) * step, args.height, args.width, 3), np.uint8)
    memory = FrameMemory()
    predictor.segment_clips(
        frames[: args.length], "YOUTUBE_VIS", ClipPlace(-step, args.length, args.overlap, None, memory)
    )
    maps = memory.maps
    for batch in batches:
        images = frames[: args.overlap + batch * step]

        def run(images: np.ndarray = images) -> None:
            memory = FrameMemory()
            memory.maps, memory.first = maps, 0
            predictor.segment_clips(images, "YOUTUBE_VIS", ClipPlace(0, args.length, args.overlap, None, memory))

        before = len(predictor.programs.all())
        run()
        # The loop over the new frames is counted once, and runs once for each clip.
        features, classes = (_FEATURES, _FEATURES + 1) if batch == 1 else (before, before + 1)
        work[batch] = flops(predictor, features), flops(predictor, classes)
        runs[f"{batch}"] = lambda run=run: time_of(run)
    frames_flops = _flops_of_frames(model, images[None, :step])
    for timing, batch in zip(alternate(runs, args.reps).values(), batches, strict=True):
        features, classes = work[batch]
        yield {
            "clips at once": batch,
            "wall and processor seconds a clip": [round(seconds / batch, 3) for seconds in seconds_of(timing)],
            "gigaflop a clip": round((features + classes + (batch - 1) * frames_flops) / batch / 1e9, 1),
        }


def memory_of_batches(args: argparse.Namespace, batches: tuple[int, ...]) -> Iterator[dict]:
    """MiB that the two programs of clips at once need on a GPU that is not here."""
    config = ModelConfig(backbone=args.backbone, compute_dtype=args.dtype)
    sharding = jax.sharding.SingleDeviceSharding(gpu.devices(1, gpu.DESCRIPTIONS[args.target])[0])
    on_device = lambda tree: jax.tree.map(  # noqa: E731
        lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=sharding), tree
    )
    graphdef, variables = nnx.split(abstract_model(config))
    extent = Extent.of(args.length, None, (args.length, args.height, args.width), config.hidden_size)
    maps = {
        s: jax.ShapeDtypeStruct((1, args.overlap, args.height // s, args.width // s, config.hidden_size), args.dtype)
        for s in PYRAMID_STRIDES
    }
    queries = np.zeros((40, config.hidden_size), np.float32)
    for batch in batches:
        num_frames = args.overlap + batch * (args.length - args.overlap)
        images = jax.ShapeDtypeStruct((num_frames, args.height, args.width, 3), np.uint8)
        features = jax.jit(lambda v, *a: network.next_clips_features(nnx.merge(graphdef, v), *a))
        classes = jax.jit(lambda v, *a: network.decode_classes(nnx.merge(graphdef, v), *a))
        given = on_device((variables, images, maps, np.int32(0), extent))
        pyramid, _ = features.eval_shape(*given)
        figures = {}
        for name, function, arguments in (
            ("features", features, given),
            ("classes", classes, on_device((variables, pyramid, queries, extent))),
        ):
            found = function.lower(*arguments).compile().memory_analysis()
            figures[name] = {
                "temporaries": round(found.temp_size_in_bytes / 2**20),
                "outputs": round(found.output_size_in_bytes / 2**20),
            }
        yield {"clips at once": batch, "MiB": figures}


def many_objects(args: argparse.Namespace, model: api.Model, counts: tuple[int, ...]) -> Iterator[dict]:
    """A clip with so many objects given by masks, features included."""
    predictor = Predictor(model.config, model.variables)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.length, args.height, args.width, 3), np.uint8)
    runs, objects = {}, {}
    for count in counts:
        masks = np.zeros((count, args.length, args.height, args.width), bool)
        for mask in masks:
            y, x = rng.integers(0, args.height - 32), rng.integers(0, args.width - 32)
            mask[0, y : y + 32, x : x + 32] = True
        inputs = ExemplarInputs(
            ids=list(range(count)),
            masks=masks,
            points_yx=np.zeros((count, 2), np.float32),
            point_frames=np.zeros(count, np.int32),
            is_point=np.zeros(count, bool),
            valid_frames=np.arange(args.length) == 0,
        )
        run = lambda inputs=inputs: predictor.segment_objects(images, inputs)  # noqa: E731
        run()
        objects[count] = flops(predictor, len(predictor.programs.all()) - 1)
        runs[f"{count} objects"] = lambda run=run: time_of(run)
    alternate(runs, 1)
    features, first = flops(predictor, _FEATURES), None
    for timing, count in zip(alternate(runs, args.reps).values(), counts, strict=True):
        figures = [*seconds_of(timing), round((features + objects[count]) / 1e9, 1)]
        first = first or figures
        yield {
            "objects": count,
            "wall and processor seconds, gigaflop": figures,
            "more than the first": [round(figure / base - 1, 3) for figure, base in zip(figures, first, strict=True)],
        }


def padded_sizes(dataset: str) -> dict:
    """Padded sizes of `VIDEO_SIZES`, with the table and without; each has two programs."""
    config = default_inference(dataset)
    found = {}
    for name, use_table in (("table", True), ("least padding", False)):
        plans = [plan_geometry(size, config.min_dim, config.max_dim, 64, use_table=use_table) for size in VIDEO_SIZES]
        found[name] = sorted({plan.padded for plan in plans})
    return {"video sizes": len(VIDEO_SIZES), **found, "programs": {name: 2 * len(s) for name, s in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--height", type=int, default=128)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--length", type=int, default=6)
    parser.add_argument("--overlap", type=int, default=3)
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--dtype", default="float32", help="of activations, with --target")
    parser.add_argument("--target", choices=sorted(gpu.DESCRIPTIONS), help="compile for this GPU, and run nothing")
    args = parser.parse_args()
    if args.target:
        gpu.prepare()
        for row in memory_of_batches(args, (1, 2, 4, 8)):
            print(json.dumps(row), flush=True)
        return
    print(json.dumps({"padded sizes": padded_sizes("YOUTUBE_VIS")}), flush=True)
    model = api.create(ModelConfig(backbone=args.backbone))
    print(json.dumps({"shared frames": shared_frames(args, model)}), flush=True)
    for row in many_clips(args, model, (1, 2, 4)):
        print(json.dumps(row), flush=True)
    for row in many_objects(args, model, (1, 2, 20)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
