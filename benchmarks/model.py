"""Speed of the whole model: one clip from pixels to masks, beside the original in the same run where it is at hand.

    python -m benchmarks.model --frames=3 --height=256 --width=448
    python -m benchmarks.model --frames=5 --height=448 --width=832 --reference=/tmp/peers --out=out.json
    python -m benchmarks.model --parts          # where the time goes

`--reference` is a folder made by `prepare_peers.sh`. The two models have the same shapes, not the same weights. They
run in two processes, one at a time, in turn.
"""

import argparse
import json
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks.common import alternate, environment, time_of, write_json
from benchmarks.reference import Reference
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.model.config import ModelConfig, settle_backends
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import flatten


def benchmark_clip(args: argparse.Namespace, model: TarViS, dataset: str) -> Iterator[dict]:
    """Seconds a clip of `Predictor.segment_classes`, frames/s; then the same beside the reference, with the ratio."""
    predictor = Predictor.from_model(model)
    images = np.random.default_rng(0).integers(0, 256, (args.frames, args.height, args.width, 3), np.uint8)
    clip = lambda: predictor.segment_classes(images, dataset).mask_logits  # noqa: E731
    time_of(clip)
    runs = {"ours": lambda: time_of(clip)}

    def timings() -> dict:
        alternate(runs, 1)  # a last warm-up, also once both are there
        result = alternate(runs, args.reps)
        for timing in result.values():
            timing["frames_per_s"] = args.frames / timing["median_s"]
        return {"dataset": dataset, "compile_s": round(predictor.programs.compile_seconds, 1), **result}

    alone = timings()
    yield alone
    if not args.reference:
        return
    try:
        options = [f"--dataset={dataset}", f"--backbone={args.backbone}", f"--frames={args.frames}"]
        options += [f"--height={args.height}", f"--width={args.width}"]
        reference = Reference(args.reference_python, args.reference, options, args.dtype)
        runs["reference"] = reference.run
        result = timings()
        result["reference"] |= reference.description | {"peak_bytes": reference.close()}
    except RuntimeError as error:
        yield alone | {"error": str(error)}
        return
    ratio = lambda key: result["reference"][key] / result["ours"][key]  # noqa: E731
    yield result | {"speedup": ratio("median_s"), "processor_time_ratio": ratio("median_processor_s")}


def benchmark_parts(args: argparse.Namespace, model: TarViS, dataset: str) -> Iterator[tuple[str, float]]:
    """(name, median seconds) of the parts of a clip, each compiled by itself."""
    graphdef, variables = nnx.split(model)
    merged = lambda v: nnx.merge(graphdef, v)  # noqa: E731
    images = jnp.asarray(
        np.random.default_rng(0).integers(0, 256, (1, args.frames, args.height, args.width, 3), np.uint8)
    )

    backbone = jax.jit(lambda v, x: merged(v).backbone_features(x))
    maps = backbone(variables, images)
    neck = jax.jit(lambda v, x: merged(v).neck(x))
    pyramid = neck(variables, maps)
    level_shapes = tuple(pyramid[s].shape[2:4] for s in (32, 16, 8))
    tokens = sum(h * w for h, w in level_shapes)
    width = model.config.hidden_size
    x = jax.random.normal(jax.random.key(0), (1, args.frames, tokens, width))
    deformable = jax.jit(lambda v, x: merged(v).neck.layers[0].deformable(x[0], x[0, 0], level_shapes))
    temporal = jax.jit(lambda v, x: merged(v).neck.layers[0].temporal(x, x[0], level_shapes))

    def decode(v, pyramid):
        model = merged(v)
        return model.decode(pyramid, model.class_query_set(dataset, 1), all_layers=False).mask_logits

    decode = jax.jit(decode)
    layers = model.config.neck_layers
    runs = {
        "backbone": lambda: backbone(variables, images),
        "neck": lambda: neck(variables, maps),
        f"one of {layers} deformable layers": lambda: deformable(variables, x),
        f"one of {layers} temporal layers": lambda: temporal(variables, x),
        "decoder": lambda: decode(variables, pyramid),
    }
    for name, run in runs.items():
        time_of(run)
        yield name, alternate({name: lambda run=run: time_of(run)}, args.reps)[name]["median_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations")
    parser.add_argument("--datasets", default="YOUTUBE_VIS", help="whose classes: YOUTUBE_VIS (VIS), VIPSEG (VPS), ...")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--reference", help="folder with the original, prepared by prepare_peers.sh")
    parser.add_argument("--reference-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--parts", action="store_true", help="time the parts of a clip as well")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()

    config = settle_backends(ModelConfig(backbone=args.backbone, compute_dtype=args.dtype))
    model = TarViS(config, rngs=nnx.Rngs(0))
    shape = f"{args.backbone} T {args.frames} {args.height}x{args.width} {args.dtype}"
    result = {"environment": environment(), "shape": shape, "clips": []}
    result["parameters"] = sum(np.size(value) for value in flatten(model).values())
    print(json.dumps(result["environment"]))
    clips = {}
    for dataset in args.datasets.split(","):
        for clip in benchmark_clip(args, model, dataset):
            clips[dataset] = clip
            result["clips"] = list(clips.values())
            write_json(args.out, result)
        line = f"{shape} {dataset}: ours {clip['ours']['median_s']:.3f} s ({clip['ours']['frames_per_s']:.2f} frames/s)"
        if "speedup" in clip:
            line += f", reference {clip['reference']['median_s']:.3f} s, ratio {clip['speedup']:.2f}"
            line += f" (processor time {clip['processor_time_ratio']:.2f})"
        if "error" in clip:
            line += f", reference FAILED: {clip['error']}"
        print(line, flush=True)
    if args.parts:
        result["parts_s"] = {}
        for name, seconds in benchmark_parts(args, model, args.datasets.split(",")[0]):
            result["parts_s"][name] = seconds
            write_json(args.out, result)
            print(f"  {name:32} {1e3 * seconds:9.1f} ms", flush=True)
    if any("error" in clip for clip in result["clips"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
