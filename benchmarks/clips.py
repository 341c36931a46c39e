"""What overlapping clips and many objects cost, and how many programs videos of many sizes need.

    python -m benchmarks.clips [--height=128 --width=192 --length=6 --overlap=3 --backbone=ResNet50 --reps=3]

The weights are random, one clip runs at a time, and a JSON line is printed for each figure. FLOPs are those that the
compiler counts in the program; it counts the loop over a clip's new frames once, which is right for all clips but the
first.
"""

import argparse
import json
from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.common import alternate, time_of
from tarvis_jax import api
from tarvis_jax.inference.clips import plan_geometry
from tarvis_jax.inference.config import default_inference
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory, Predictor
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, fill

# Sizes (height, width) as they occur in data sets of videos from the web.
VIDEO_SIZES = (
    *((720, 1280), (1080, 1920), (360, 640), (480, 854), (480, 640), (480, 720), (540, 960), (720, 960), (1080, 1440)),
    *((1280, 720), (1920, 1080), (640, 360), (640, 480), (720, 406), (720, 720), (480, 480), (544, 1280), (640, 1280)),
)


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
    total = flops(predictor, 0) + flops(predictor, 1)
    frames = jax.jit(lambda variables, images: fill(abstract_model(model.config), variables).frame_features(images))
    one = frames.lower(predictor.variables, images[None, :step]).compile().cost_analysis()
    one = (one[0] if isinstance(one, list) else one)["flops"]
    alone = total + one * (-(-args.length // step) - 1)
    return {
        "seconds, wall and processor": times,
        "time saved": [round(1 - a / b, 3) for a, b in zip(times[names[0]], times[names[1]], strict=True)],
        "gigaflop": {names[0]: round(total / 1e9, 1), names[1]: round(alone / 1e9, 1)},
        "flop saved": round(1 - total / alone, 3),
    }


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
    features, first = flops(predictor, 0), None
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
    args = parser.parse_args()
    print(json.dumps({"padded sizes": padded_sizes("YOUTUBE_VIS")}), flush=True)
    model = api.create(ModelConfig(backbone=args.backbone))
    print(json.dumps({"shared frames": shared_frames(args, model)}), flush=True)
    for row in many_objects(args, model, (1, 2, 20)):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
