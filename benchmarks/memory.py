"""Memory of one forward pass, as the compiler plans it: nothing is run and no weights are made.

    python -m benchmarks.memory                                   # the whole network, this machine's platform
    python -m benchmarks.memory --target=v5e:2x2 --dtype=bfloat16 # for a TPU that is not here (needs libtpu)
    python -m benchmarks.memory --target=h200 --dtype=bfloat16    # for a GPU that is not here (see kernels/aot/gpu.py)
    python -m benchmarks.memory --part=decoder --gradient

One line per clip size. `temp` is what the program needs besides its arguments (weights and images) and its outputs: the
peak over the whole pass. It says where the compiler would put things, not what an allocator adds to it.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.aot import gpu, hlo, tpu
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.tarvis import TarViS

DATASET = "YOUTUBE_VIS"
NUM_OBJECTS = 16
PARTS = ("clip", "features", "temporal", "decoder", "object_encoder")


def part_and_inputs(part: str, config: ModelConfig, size: tuple[int, int, int]) -> tuple[Callable, dict[str, Any]]:
    """(function of the model and the inputs, abstract inputs) of a part of the network for clips of (T, H, W)."""
    T, H, W = size
    dtype = jnp.dtype(config.compute_dtype)
    images = {"images": jax.ShapeDtypeStruct((1, T, H, W, 3), jnp.uint8)}
    pyramid = {
        s: jax.ShapeDtypeStruct((1, T, H // s, W // s, config.hidden_size), jnp.dtype(dtype)) for s in (4, 8, 16, 32)
    }

    def decode(model: TarViS, pyramid: dict[int, jax.Array]):
        predictions = model.decode(pyramid, model.class_query_set(DATASET, 1), all_layers=False)
        return predictions.mask_logits, predictions.class_logits

    if part == "clip":
        return lambda model, images: decode(model, model.features(images)), images
    if part == "features":
        return lambda model, images: model.features(images), images
    if part == "temporal":
        level_shapes = tuple((H // s, W // s) for s in (32, 16, 8))
        tokens = sum(h * w for h, w in level_shapes)
        inputs = {
            "x": jax.ShapeDtypeStruct((1, T, tokens, config.hidden_size), dtype),
            "position": jax.ShapeDtypeStruct((T, tokens, config.hidden_size), jnp.float32),
        }
        return lambda model, x, position: model.neck.layers[0].temporal(x, position, level_shapes), inputs
    if part == "decoder":
        return decode, {"pyramid": pyramid}
    objects = {
        "pyramid": pyramid,
        "masks": jax.ShapeDtypeStruct((1, NUM_OBJECTS, T, H, W), bool),
        "points_yx": jax.ShapeDtypeStruct((1, NUM_OBJECTS, 2), jnp.float32),
        "is_point": jax.ShapeDtypeStruct((1, NUM_OBJECTS), bool),
        "valid_objects": jax.ShapeDtypeStruct((1, NUM_OBJECTS), bool),
    }
    return lambda model, pyramid, **objects: model.encode_objects(pyramid, **objects).objects, objects


def program(part: str, config: ModelConfig, size: tuple[int, int, int]) -> tuple[Callable, tuple[Any, Any]]:
    """A part of a network as (function of its variables and inputs, abstract variables and inputs); (T, H, W)."""
    graphdef, variables = nnx.split(nnx.eval_shape(lambda: TarViS(config, rngs=nnx.Rngs(0))))
    function, inputs = part_and_inputs(part, config, size)
    return lambda variables, inputs: function(nnx.merge(graphdef, variables), **inputs), (variables, inputs)


def compile_for(function: Callable, args: tuple, target: str) -> jax.stages.Compiled:
    """Compiles for this machine ("here"), an H200 ("h200") or the first chip of a TPU topology such as "v5e:2x2"."""
    if target != "here":
        device = (gpu.devices() if target == "h200" else tpu.topology_devices(target))[0]
        sharding = jax.sharding.SingleDeviceSharding(device)
        args = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), args)
    return jax.jit(function).lower(*args).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["12x448x832", "3x512x896"], help="frames x height x width")
    parser.add_argument("--part", choices=PARTS, default="clip")
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--cross_attention", default="hard_masked")
    parser.add_argument("--dtype", default="float32", help="of the activations")
    parser.add_argument("--target", default="here", help='"here", "h200" or a TPU topology such as "v5e:2x2"')
    parser.add_argument("--gradient", action="store_true", help="forward and backward, with recomputation (remat)")
    options = parser.parse_args()

    config = ModelConfig(
        backbone=options.backbone,
        cross_attention=options.cross_attention,
        compute_dtype=options.dtype,
        remat="blocks" if options.gradient else "none",
    )
    if options.target not in ("here", "h200"):
        tpu.prepare()
    print(f"{options.part}, {options.dtype}, target {options.target}, jax {jax.__version__}; MiB")
    for text in options.sizes:
        run, arguments = program(options.part, config, tuple(int(n) for n in text.split("x")))

        def gradient(variables, inputs, run=run):
            def loss(variables):
                return sum(leaf.astype(jnp.float32).mean() for leaf in jax.tree.leaves(run(variables, inputs)))

            return jax.grad(loss, allow_int=True)(variables)

        start = time.perf_counter()
        compiled = compile_for(gradient if options.gradient else run, arguments, options.target)
        figures = compiled.memory_analysis()
        temp, given, outputs = (
            round(n / 2**20)
            for n in (figures.temp_size_in_bytes, figures.argument_size_in_bytes, figures.output_size_in_bytes)
        )
        seconds = time.perf_counter() - start
        kernels = f", {hlo.kernels_started(compiled.as_text())} kernels" if options.target == "h200" else ""
        print(
            f"{text}: temp {temp}, arguments {given}, outputs {outputs}{kernels} (compiled in {seconds:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
