"""Flash attention by cuDNN, through JAX, for bfloat16 on NVIDIA GPUs: no logits in memory, forward or backward."""

import functools
import importlib.util
from collections.abc import Callable

import jax
import jax.numpy as jnp

MAX_HEAD_SIZE = 128


def attend_by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, num_keys: jax.Array | None = None) -> jax.Array:
    """softmax(query . key / sqrt(D)) . value: query [B, Q, M, D], key and value [B, S, M, D] -> [B, Q, M, D].

    With `num_keys`, int32 [], only the first so many of the S keys are there.
    """
    lengths = None if num_keys is None else jnp.full(len(query), num_keys, jnp.int32)
    return jax.nn.dot_product_attention(query, key, value, key_value_seq_lengths=lengths, implementation="cudnn")


def where_possible(
    flash: Callable[..., jax.Array],
    otherwise: Callable[..., jax.Array],
    *args: jax.Array,
    dtype: jnp.dtype,
    head_size: int,
    num_queries: int,
    num_keys: int,
    backend: str | None,
) -> jax.Array:
    """flash(*args) in programs for NVIDIA GPUs (Ampere or newer) if cuDNN takes such arrays, else otherwise(*args).

    Args:
      flash: may call `attend_by_cudnn`.
      otherwise: computes the same.
      *args: pytrees of arrays.
      dtype: of queries, keys and values.
      head_size: of them.
      num_queries: in one batch element; JAX differentiates cuDNN's attention for even numbers only.
      num_keys: in one batch element; likewise.
      backend: "xla" never takes cuDNN; None takes cuDNN if possible.

    Raises:
      ValueError: another name.
    """
    if backend not in (None, "xla"):
        raise ValueError(f'attention: expected "xla" or None, found {backend!r}')
    fits = head_size % 8 == 0 and head_size <= MAX_HEAD_SIZE and num_queries % 2 == 0 and num_keys % 2 == 0
    is_possible = dtype in (jnp.bfloat16, jnp.float16) and fits
    if backend == "xla" or not (is_possible and _has_cuda_plugin()):
        return otherwise(*args)
    return jax.lax.platform_dependent(*args, cuda=flash, default=otherwise)


@functools.cache
def _has_cuda_plugin() -> bool:
    """Whether JAX can compile for NVIDIA GPUs; without its plugin, cuDNN's operator cannot even be traced."""
    return any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
