"""Attention that walks over the tokens in chunks and never holds the logits of all of them, forward or backward.

Forward: a softmax that is corrected as it goes (Milakov & Gimelshein, 2018). Each row keeps the largest logit so far,
the sum of exp(logit - largest) and the weighted sum of values; when the largest grows, the two sums shrink to match.

A row that may look at nothing looks at everything, and which rows these are is known only at the end. So each row
begins without its bias; at the first chunk with a token that it may look at, it forgets its sums and goes on with bias.

Backward: the logits of a chunk are computed again, and with the logarithm of each row's sum they give the weights (Dao
et al., 2022).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kernels.attention.biases import AttentionBias, keys_there
from kernels.attention.tokens import Projections, Tokens

_LANES = 128  # chunks are a multiple of a TPU register's width


def attend_in_chunks(
    query: jax.Array, tokens: Tokens, projections: Projections, bias: AttentionBias | None, *, max_tokens: int
) -> jax.Array:
    """`operator.attend`, at most `max_tokens` tokens (rounded down to a multiple of 128, at least 128) at a time."""
    num_tokens = tokens.features.shape[1]
    num_chunks = -(-num_tokens // max(_LANES, max_tokens // _LANES * _LANES))
    chunk_size = min(num_tokens, -(-num_tokens // (num_chunks * _LANES)) * _LANES)  # equal chunks, as far as can be
    return _attend(query, tokens, projections, jax.lax.stop_gradient(bias), chunk_size)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query, tokens, projections, bias, chunk_size):
    return _forward(query, tokens, projections, bias, chunk_size)[0]


def _forward(query, tokens, projections, bias, chunk_size):
    batch, num_queries, num_heads, head_size = query.shape

    def step(carry, chunk):
        largest, total, weighted, has_begun = carry
        start, _ = chunk
        part = tokens.chunk(start, chunk_size)
        key, value = projections(part.features, part.positions)
        logits = _logits(query, key)
        if bias is not None:
            values = bias.of_keys(start, chunk_size)
            begins_or_has = has_begun | (values > -jnp.inf).any(-1)
            logits = jnp.where(begins_or_has[..., None], logits + values, logits)
            largest = jnp.where(has_begun == begins_or_has, largest, -jnp.inf)  # forgets
            has_begun = begins_or_has
        logits = _without(logits, bias, chunk, chunk_size)
        new_largest = jnp.maximum(largest, logits.max(-1))
        shrink = jnp.exp(largest - new_largest)
        weights = jnp.exp(logits - new_largest[..., None])
        total = total * shrink + weights.sum(-1)
        weighted = weighted * shrink[..., None] + _einsum("bmqk,bkmd->bmqd", weights.astype(value.dtype), value)
        return (new_largest, total, weighted, has_begun), None

    rows = (batch, num_heads, num_queries)
    has_begun = None
    if bias is not None:
        has_begun = jnp.zeros(jax.eval_shape(lambda: bias.of_keys(0, chunk_size)).shape[:-1], bool)
    start = jnp.full(rows, -jnp.inf), jnp.zeros(rows), jnp.zeros((*rows, head_size)), has_begun
    (largest, total, weighted, has_begun), _ = jax.lax.scan(step, start, _chunks(tokens, chunk_size))
    out = (weighted / total[..., None]).transpose(0, 2, 1, 3).astype(query.dtype)
    return out, (query, tokens, projections, bias, out, largest + jnp.log(total), has_begun)


def _backward(chunk_size, residuals, out_grad):
    query, tokens, projections, bias, out, log_total, has_begun = residuals
    # What all logits of a row lose because its weights add up to 1.
    common = _einsum("bqmd,bqmd->bmq", out_grad, out)

    def step(carry, chunk):
        query_grad, token_grads, projection_grads = carry
        start, _ = chunk
        part = tokens.chunk(start, chunk_size)
        (key, value), pull_back = jax.vjp(lambda p, t: p(t.features, t.positions), projections, part)
        logits = _logits(query, key)
        if bias is not None:
            logits = jnp.where(has_begun[..., None], logits + bias.of_keys(start, chunk_size), logits)
        weights = jnp.exp(_without(logits, bias, chunk, chunk_size) - log_total[..., None])
        weight_grad = _einsum("bqmd,bkmd->bmqk", out_grad, value)
        logit_grad = weights * (weight_grad - common[..., None]) * query.shape[-1] ** -0.5
        logit_grad, weights = logit_grad.astype(query.dtype), weights.astype(query.dtype)
        key_grad = _einsum("bmqk,bqmd->bkmd", logit_grad, query).astype(key.dtype)
        value_grad = _einsum("bmqk,bqmd->bkmd", weights, out_grad).astype(value.dtype)
        projection_part, token_part = pull_back((key_grad, value_grad))
        query_grad += _einsum("bmqk,bkmd->bqmd", logit_grad, key)
        token_grads = jax.tree.map(lambda total, x: _add_at(total, x, start), token_grads, token_part)
        projection_grads = jax.tree.map(jnp.add, projection_grads, projection_part)
        return (query_grad, token_grads, projection_grads), None

    zeros = (
        jnp.zeros(query.shape),
        jax.tree.map(jnp.zeros_like, tokens),
        jax.tree.map(lambda x: jnp.zeros(x.shape), projections),
    )
    (query_grad, token_grads, projection_grads), _ = jax.lax.scan(step, zeros, _chunks(tokens, chunk_size))
    return query_grad.astype(query.dtype), token_grads, _cast_as(projection_grads, projections), None


_attend.defvjp(_forward, _backward)


def _chunks(tokens: Tokens, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """First token of each chunk, and bool [chunks, size]: which of its tokens are in no chunk before; None if all are.

    The last chunk begins early enough to be as long as the others.
    """
    num_tokens = tokens.features.shape[1]
    nominal = np.arange(0, num_tokens, size)
    starts = np.minimum(nominal, num_tokens - size)
    if num_tokens % size == 0:
        return starts, None
    return starts, starts[:, None] + np.arange(size) >= nominal[:, None]


def _logits(query: jax.Array, key: jax.Array) -> jax.Array:
    """float32 [B, M, Q, size], without bias."""
    return _einsum("bqmd,bkmd->bmqk", query, key) * query.shape[-1] ** -0.5


def _without(logits: jax.Array, bias: AttentionBias | None, chunk: tuple, size: int) -> jax.Array:
    """Logits with -inf at tokens that are not there, and at those of an earlier chunk."""
    start, is_new = chunk
    if is_new is not None:
        logits = jnp.where(is_new, logits, -jnp.inf)
    there = keys_there(bias, start, size)
    return logits if there is None else jnp.where(there, logits, -jnp.inf)


def _add_at(total: jax.Array, update: jax.Array, start: jax.Array) -> jax.Array:
    """Adds [B, size, C] to the tokens from `start` of [B, S, C]."""
    update += jax.lax.dynamic_slice_in_dim(total, start, update.shape[1], axis=1)
    return jax.lax.dynamic_update_slice_in_dim(total, update, start, axis=1)


def _cast_as(grads: Any, values: Any) -> Any:
    return jax.tree.map(lambda grad, value: grad.astype(value.dtype), grads, values)


_einsum = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
