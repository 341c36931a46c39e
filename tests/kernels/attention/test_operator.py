"""Attention in chunks against all at once, and all at once against a slow definition."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention.biases import (
    FirstKeysBias,
    HardMaskBias,
    KeyCountBias,
    KeyPaddingBias,
    PaddedKeysBias,
    SoftMaskBias,
)
from kernels.attention.limits import CPU_LOGIT_BYTES, GPU_LOGIT_BYTES, TPU_LOGIT_BYTES
from kernels.attention.operator import attend, attend_at_once
from kernels.attention.tokens import Projections, Tokens

B, Q, S, C, M, D = 2, 5, 500, 12, 4, 3


def normal(rng: np.random.Generator, *shape: int) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape), jnp.float32)


def kept(make):
    """Computed once, also if first asked for inside jit."""

    @functools.cache
    def run(*args):
        with jax.ensure_compile_time_eval():
            return make(*args)

    return run


@kept
def inputs(dtype: str = "float32"):
    """(query, tokens, projections): what gets a gradient."""
    rng = np.random.default_rng(0)
    tokens = Tokens(normal(rng, B, S, C), normal(rng, 1, S, C))
    projections = Projections(
        normal(rng, C, M * D), normal(rng, M * D), normal(rng, C, M * D), normal(rng, M * D), num_heads=M
    )
    return jax.tree.map(lambda x: x.astype(dtype), (normal(rng, B, Q, M, D), tokens, projections))


@kept
def biases():
    """One of each kind, with queries that may look at nothing, and one that may only look at the last token."""
    rng = np.random.default_rng(1)
    only = (rng.random((B, S)) < 0.3) & (np.arange(B) > 0)[:, None]  # nothing at all in the first clip
    embeddings, features = np.array(normal(rng, B, Q, C)), np.array(normal(rng, B, S, C))
    features[..., -1] = 1.0
    embeddings[0, 1:3] = 0.0
    embeddings[0, 1:3, -1] = -1.0  # no mask at all
    embeddings[1, 2] = 0.0
    embeddings[1, 2, -1] = -1.0
    features[1, -1, -1] = -1.0  # the last token alone
    counts = rng.integers(-3, 5, (B, Q, S)).clip(0).astype(np.uint8)
    counts[0, 3, : S // 2] = 0
    factors = np.array([32.0, 16.0, 8.0, 4.0], np.float32)
    return {
        "everything": None,
        "only": KeyPaddingBias(jnp.asarray(only)),
        "inside": HardMaskBias(jnp.asarray(embeddings), jnp.asarray(features)),
        "towards": SoftMaskBias(jnp.asarray(embeddings), jnp.asarray(features), jnp.asarray(factors)),
        "multiset": KeyCountBias(jnp.asarray(counts)),
        "first": FirstKeysBias(jnp.int32(130)),
        "inside and there": PaddedKeysBias(
            HardMaskBias(jnp.asarray(embeddings), jnp.asarray(features)), jnp.asarray(np.arange(S) % 260 < 130)
        ),
    }


RULES = ("everything", "only", "inside", "towards", "multiset", "first", "inside and there")


def chunked(max_tokens: int):
    """`attend` that may hold the logits of so many tokens; 128 is the least."""
    return functools.partial(attend, max_bytes=4 * M * Q * max_tokens)


def slow(query, tokens, projections, bias) -> np.ndarray:
    """The definition in float64, one query and head at a time."""
    features, positions = np.float64(tokens.features), np.float64(tokens.positions)
    key = (features + positions) @ np.float64(projections.key_kernel) + np.float64(projections.key_bias)
    value = features @ np.float64(projections.value_kernel) + np.float64(projections.value_bias)
    key, value = (x.reshape(B, S, M, D) for x in (key, value))
    out = np.zeros((B, Q, M, D))
    there = None
    if isinstance(bias, PaddedKeysBias):
        bias, there = bias.bias, np.array(bias.there)
    for b, q, m in np.ndindex(B, Q, M):
        weights = np.exp(key[b, :, m] @ np.float64(query[b, q, m]) / np.sqrt(D))
        if there is not None:
            weights = weights * there
        if isinstance(bias, FirstKeysBias):
            factors = np.arange(S) < bias.num_keys
        elif isinstance(bias, KeyPaddingBias):
            factors = np.array(bias.allowed[b], float)
        elif isinstance(bias, KeyCountBias):
            factors = np.array(bias.counts[b, q], float)
        elif bias is not None:
            logits = np.float64(bias.features[b]) @ np.float64(bias.embeddings[b, q])
            probs = 1 / (1 + np.exp(-logits))
            factors = np.exp(float(bias.factors[m]) * probs) if isinstance(bias, SoftMaskBias) else probs >= 0.5
        else:
            factors = np.ones(S)
        weights = weights * (factors if (weights * factors).any() else 1.0)
        out[b, q, m] = weights @ value[b, :, m] / weights.sum()
    return out


@pytest.mark.parametrize("name", RULES)
def test_all_at_once_is_the_definition(name):
    found = jax.jit(attend_at_once)(*inputs(), biases()[name])
    np.testing.assert_allclose(found, slow(*inputs(), biases()[name]), atol=1e-5)


@pytest.mark.parametrize("max_tokens", [128, 256])  # 500 tokens: 4 and 2 chunks, the last overlaps the one before
@pytest.mark.parametrize("name", RULES)
def test_chunks_change_nothing(name, max_tokens):
    bias = biases()[name]
    out_grad = normal(np.random.default_rng(2), B, Q, M, D)

    def outputs_and_grads(function):
        out, pull_back = jax.vjp(lambda *args: function(*args, bias), *inputs())
        return out, pull_back(out_grad)

    expected = jax.jit(lambda: outputs_and_grads(attend_at_once))()
    found = jax.jit(lambda: outputs_and_grads(chunked(max_tokens)))()
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        # The gradient of the keys' bias is zero but for rounding: a softmax does not feel what all logits share.
        np.testing.assert_allclose(b, a, atol=1e-5 * max(1.0, np.abs(a).max()))


def test_chunks_in_bfloat16():
    """Not less precise than all at once: both round logits' factors and weights to 8 bits."""
    bias = biases()["towards"]
    exact = slow(*inputs(), bias)
    outs = [jax.jit(function)(*inputs("bfloat16"), bias) for function in (attend_at_once, chunked(128))]
    assert {out.dtype for out in outs} == {jnp.dtype("bfloat16")}
    at_once, in_chunks = (np.linalg.norm(np.float64(out) - exact) for out in outs)
    assert in_chunks < 1.5 * at_once < 0.05 * np.linalg.norm(exact)


def test_rules_get_no_gradient():
    bias = biases()["towards"]
    for function in (attend_at_once, chunked(128)):
        grads = jax.jit(jax.grad(lambda bias, function=function: function(*inputs(), bias).sum()))(bias)
        assert not any(x.any() for x in jax.tree.leaves(grads))


def test_maps_over_a_leading_axis():
    """As `jax.lax.map` with a batch size does."""
    bias = biases()["inside"]
    query, tokens, projections = inputs()
    grads = jax.grad(lambda query, bias: chunked(128)(query, tokens, projections, bias).sum())
    stacked = jax.tree.map(lambda x: jnp.stack([x, -x]), (query, bias.embeddings))
    found = jax.jit(jax.vmap(lambda query, embeddings: grads(query, HardMaskBias(embeddings, bias.features))))(*stacked)
    for sign, one in zip((1, -1), found, strict=True):
        expected = grads(sign * query, HardMaskBias(sign * bias.embeddings, bias.features))
        np.testing.assert_allclose(one, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "platform,limit", [("cpu", CPU_LOGIT_BYTES), ("tpu", TPU_LOGIT_BYTES), ("cuda", GPU_LOGIT_BYTES)]
)
@pytest.mark.parametrize("gradient", [False, True])
def test_no_buffer_holds_the_logits(platform, limit, gradient):
    """Queries and cells of a clip of 12 frames of 448x832 at stride 8: 360 MiB of logits."""
    num_queries, num_tokens, heads = 169, 12 * 56 * 104, 8
    shape = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    tokens = Tokens(shape(1, num_tokens, 256), shape(1, num_tokens, 256))
    projections = Projections(shape(256, 256), shape(256), shape(256, 256), shape(256), num_heads=heads)
    bias = HardMaskBias(shape(1, num_queries, 256), shape(1, num_tokens, 256))
    query = shape(1, num_queries, heads, 32)

    def run(*args):
        if not gradient:
            return attend(*args)
        return jax.grad(lambda *args: attend(*args).sum(), argnums=(0, 1, 2))(*args)

    lowered = jax.jit(run).trace(query, tokens, projections, bias).lower(lowering_platforms=(platform,))
    shapes = [tuple(map(int, dims.split("x"))) for dims in re.findall(r"tensor<([\dx]+)x[a-z]\w*>", lowered.as_text())]
    sizes = {shape: 4 * int(np.prod(shape)) for shape in shapes if num_queries in shape}
    assert limit / 2 < max(sizes.values()) <= limit, max(sizes, key=sizes.get)
