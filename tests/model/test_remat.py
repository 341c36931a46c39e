"""What each setting of `remat` keeps for the backward pass."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from tarvis_jax.model.decoder import DecoderLayer
from tarvis_jax.model.remat import rematerialize
from tests import tiny

NUM_QUERIES, NUM_KEYS = 144, 3 * 32 * 56


def kept_elements(remat: str) -> list[int]:
    """Sizes of the arrays that the backward pass of a decoder layer takes, parameters and arguments among them.

    The attention has a form for each platform, and what is kept for any of them counts.
    """
    config = dataclasses.replace(tiny.MODEL, hidden_size=64, num_heads=8, decoder_ffn_size=256)
    graphdef, state = nnx.split(nnx.eval_shape(lambda: DecoderLayer(config, rngs=nnx.Rngs(0))))
    queries = jax.ShapeDtypeStruct((1, NUM_QUERIES, 64), jnp.float32)
    features = jax.ShapeDtypeStruct((1, NUM_KEYS, 64), jnp.float32)

    def backward(state, queries, features):
        def run(state, queries, features):
            valid = jnp.ones((1, NUM_QUERIES), bool)
            arguments = queries, queries, valid, features, features, queries, features
            return rematerialize(nnx.merge(graphdef, state), remat)(*arguments)

        return jax.vjp(run, state, queries, features)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, state, queries, features))
    return [math.prod(array.shape) for array in kept]


def test_blocks_keep_their_arguments_alone():
    assert max(kept_elements("none")) >= NUM_QUERIES * NUM_KEYS, "the logits of attention"
    kept = kept_elements("blocks")
    assert max(kept) == NUM_KEYS * 64 and sum(kept) < 2 * NUM_KEYS * 64, "the features, once"
