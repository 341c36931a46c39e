"""Run by test_gpu.py in a process of its own: compiles for an H200 and prints what the programs consist of, as JSON."""

import json
import pathlib
import re
import sys

import jax
import jax.numpy as jnp

from benchmarks.memory import compile_for, program
from kernels.aot import hlo
from kernels.ms_deform_attn.operator import ms_deform_attn
from tarvis_jax.model.config import ModelConfig

LEVEL_SHAPES = ((16, 28), (32, 56), (64, 112))  # 512 x 896
FRAMES, CELLS, HEADS, HEAD_SIZE, POINTS = 3, 9408, 8, 32, 4


def deformable_attention(backend: str):
    """(forward, gradients, abstract bfloat16 inputs) of one layer."""
    samples = (FRAMES, CELLS, HEADS, len(LEVEL_SHAPES), POINTS)
    shapes = ((FRAMES, CELLS, HEADS, HEAD_SIZE), (*samples, 2), samples)
    inputs = tuple(jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)
    inputs += (jax.ShapeDtypeStruct((CELLS, len(LEVEL_SHAPES), 2), jnp.float32),)

    def forward(*inputs):
        return ms_deform_attn(*inputs, LEVEL_SHAPES, backend=backend)

    def gradients(*inputs):
        return jax.grad(lambda *inputs: forward(*inputs).astype(jnp.float32).sum(), argnums=(0, 1, 2))(*inputs)

    return forward, gradients, inputs


def describe(function, inputs, dump_dir: pathlib.Path) -> dict:
    before = set(dump_dir.glob("*.ptx"))
    compiled = compile_for(function, inputs, "h200")
    text = compiled.as_text()
    ptx = "".join(path.read_text() for path in set(dump_dir.glob("*.ptx")) - before)
    return {
        "temp_mib": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "custom_calls": re.findall(r'custom_call_target="([^"]+)"', text),
        "kernels": hlo.kernels_started(text),
        "atomics": re.findall(r"(?:atom|red)\.global[\w.]*\.add[\w.]*|atom[\w.]*\.cas[\w.]*", ptx),
        "fences": re.findall(r"membar[\w.]*|fence[\w.]*", ptx),
    }


def main() -> None:
    dump_dir = pathlib.Path(sys.argv[1])
    rows = {}
    for backend in sys.argv[2:]:
        forward, gradients, inputs = deformable_attention(backend)
        rows[f"{backend} forward"] = describe(forward, inputs, dump_dir)
        rows[f"{backend} gradients"] = describe(gradients, inputs, dump_dir)
    clip = program("clip", ModelConfig(backbone="ResNet50", compute_dtype="bfloat16"), (12, 448, 832))
    rows["clip bfloat16"] = describe(*clip, dump_dir)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
