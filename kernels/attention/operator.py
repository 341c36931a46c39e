"""Scaled dot-product attention (Vaswani et al., 2017) in bounded memory.

Logits of a few queries are computed all at once. Larger ones, of hundreds of queries on all cells of a clip, never
exist: `chunked.py` walks over the keys. Where every query looks at everything, in bfloat16 on an NVIDIA GPU, cuDNN does
it. All give the same numbers up to rounding.
"""

import jax
import jax.numpy as jnp

from kernels.attention import cudnn
from kernels.attention.biases import AttentionBias, FirstKeysBias, keys_there
from kernels.attention.chunked import attend_in_chunks
from kernels.attention.limits import under_limit
from kernels.attention.tokens import Projections, Tokens


def attend(
    query: jax.Array,
    tokens: Tokens,
    projections: Projections,
    bias: AttentionBias | None = None,
    *,
    max_bytes: int | None = None,
    backend: str | None = None,
) -> jax.Array:
    """softmax(query . key / sqrt(D) + bias) . value: keys and values made of tokens, see `bias`.

    Args:
      query: [B, Q, M, D], float32 or bfloat16.
      tokens: S tokens of the same dtype.
      projections: to keys and values, of the same dtype.
      bias: what each query may look at; None = everything. A query that may look at nothing looks at everything
        (that is there, see `PaddedKeysBias`) without bias. The bias gets no gradient.
      max_bytes: float32 logits of one batch element that may exist at once; None = what suits the platform.
      backend: "xla" = never cuDNN; None = what suits the platform.

    Returns:
      [B, Q, M, D] of the dtype of `query`. Logits, softmax and sums are float32.
    """
    _, num_queries, num_heads, head_size = query.shape
    num_tokens = tokens.features.shape[1]
    bytes_per_token = 4 * num_heads * num_queries

    def attend_under(limit: int, *args) -> jax.Array:
        if num_tokens * bytes_per_token <= limit:
            return attend_at_once(*args)
        return attend_in_chunks(*args, max_tokens=limit // bytes_per_token)

    def plain(*args) -> jax.Array:
        return under_limit(attend_under, *args, bias, num_bytes=num_tokens * bytes_per_token, max_bytes=max_bytes)

    def flash(query, tokens, projections) -> jax.Array:
        num_keys = None if bias is None else bias.num_keys
        return cudnn.attend_by_cudnn(query, *projections(tokens.features, tokens.positions), num_keys)

    if not (bias is None or isinstance(bias, FirstKeysBias)):
        return plain(query, tokens, projections)
    return cudnn.where_possible(
        flash,
        plain,
        query,
        tokens,
        projections,
        dtype=query.dtype,
        head_size=head_size,
        num_queries=num_queries,
        num_keys=num_tokens,
        backend=backend,
    )


def attend_at_once(
    query: jax.Array, tokens: Tokens, projections: Projections, bias: AttentionBias | None = None
) -> jax.Array:
    """`attend` with all logits [B, M, Q, S] in memory: what the definition says, and the oracle of the other form."""
    key, value = projections(tokens.features, tokens.positions)
    query = query * query.shape[-1] ** -0.5
    logits = jnp.einsum("bqmd,bkmd->bmqk", query, key, preferred_element_type=jnp.float32)
    if bias is not None:
        values = jax.lax.stop_gradient(bias.of_keys(0, key.shape[1]))
        sees_something = (values > -jnp.inf).any(-1, keepdims=True)
        logits += jnp.where(sees_something, values, 0.0)
        there = keys_there(bias, 0, key.shape[1])
        if there is not None:
            logits = jnp.where(there, logits, -jnp.inf)
    # Weights are divided by their sum after they have met the values: fewer divisions, and XLA's CPU back end takes
    # four times as long for a matrix product with a softmax in front.
    weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
    weighted = jnp.einsum("bmqk,bkmd->bmqd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (weighted / weights.sum(-1, keepdims=True)).transpose(0, 2, 1, 3).astype(value.dtype)
