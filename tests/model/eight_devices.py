"""Run by test_sharding.py in a process of its own with eight CPU devices: a batch split over them.

Every attention is computed in parts (`attention_mib=0`): loops must run over tokens or windows, never over the clips.
Prints JSON: the collectives of the forward pass, and the greatest difference from one device.
"""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tarvis_jax.model.decoder import QueryDecoder
from tarvis_jax.model.object_encoder import ObjectEncoder
from tarvis_jax.model.queries import QueryTables
from tarvis_jax.model.temporal_neck import TemporalNeck
from tests import tiny

COLLECTIVES = r"\b(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
CONFIG = dataclasses.replace(
    tiny.MODEL, decoder_layers=3, decoder_strides=(32, 16, 8), semantic_classes=(("A", 2),), attention_mib=0
)
B, T, H, W, N = 8, 2, 64, 128, 2


class Network(nnx.Module):
    """All that comes after the backbone."""

    def __init__(self, rngs: nnx.Rngs):
        self.neck = TemporalNeck({4: 4, 8: 4, 16: 4, 32: 4}, CONFIG, rngs=rngs)
        self.queries = QueryTables(CONFIG, rngs=rngs)
        self.object_encoder = ObjectEncoder(CONFIG, rngs=rngs)
        self.decoder = QueryDecoder(CONFIG, rngs=rngs)

    def __call__(self, maps, masks, points_yx, is_point):
        pyramid = self.neck(maps)
        objects = self.object_encoder(
            pyramid, masks=masks, points_yx=points_yx, is_point=is_point, valid_objects=jnp.ones_like(is_point)
        )
        sets = self.queries.class_query_set("A", B), self.queries.exemplar_query_set(objects)
        return [self.decoder(pyramid, query_set, all_layers=False).mask_logits for query_set in sets]


def main() -> None:
    assert jax.device_count() == 8
    graphdef, state = nnx.split(Network(nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    inputs = (
        {s: rng.standard_normal((B, T, H // s, W // s, 4), dtype=np.float32) for s in (4, 8, 16, 32)},
        rng.random((B, N, T, H, W)) < 0.1,
        rng.random((B, N, 2), dtype=np.float32),
        rng.random((B, N)) < 0.5,
    )

    def forward(state, inputs):
        return nnx.merge(graphdef, state)(*inputs)

    expected = jax.jit(forward)(state, inputs)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    outputs = NamedSharding(mesh, PartitionSpec(None, "data"))
    with jax.set_mesh(mesh):
        jitted = jax.jit(forward, in_shardings=(whole, split), out_shardings=outputs)
        compiled = jitted.lower(state, inputs).compile()
    found = compiled(jax.device_put(state, whole), jax.device_put(inputs, split))
    differences = [float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)]
    print(json.dumps({"collectives": re.findall(COLLECTIVES, compiled.as_text()), "differences": differences}))


if __name__ == "__main__":
    main()
