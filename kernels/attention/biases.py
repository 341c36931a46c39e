"""What a query may look at, as a bias on its attention logits: 0 free, -inf blocked, anything between less or more.

An attention bias holds arrays that are small next to its values and gives the values for any run of keys, so that
nobody has to hold all of them.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp


class AttentionBias(Protocol):
    """A pytree with this method."""

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [B, M or 1, Q or 1, size]: the bias on keys start to start + size; `size` is static."""


def keys_there(bias: AttentionBias | None, start: int | jax.Array, size: int) -> jax.Array | None:
    """bool [1, 1, 1, size]: which of keys start to start + size exist; None: all. No query looks at the others."""
    if not isinstance(bias, PaddedKeysBias):
        return None
    return jax.lax.dynamic_slice_in_dim(bias.there, start, size)[None, None, None]


def _keys(x: jax.Array, start: int | jax.Array, size: int) -> jax.Array:
    """Keys start to start + size of [B, S, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _blocked_unless(is_free: jax.Array) -> jax.Array:
    return jnp.where(is_free, 0.0, -jnp.inf).astype(jnp.float32)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyPaddingBias:
    """Every query looks at the same keys.

    Attributes:
      allowed: bool [B, S].
    """

    allowed: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [B, 1, 1, size]."""
        return _blocked_unless(_keys(self.allowed, start, size))[:, None, None, :]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FirstKeysBias:
    """Every query looks at the first keys: those of a clip, in an array for a longer one.

    Attributes:
      num_keys: int32 [], at least 1.
    """

    num_keys: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [1, 1, 1, size]."""
        return _blocked_unless(start + jnp.arange(size) < self.num_keys)[None, None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PaddedKeysBias:
    """Another bias where some keys are padding: also a query that may look at nothing does not look at these.

    Attributes:
      bias: of the keys that exist.
      there: bool [S], which do; at least one.
    """

    bias: AttentionBias
    there: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32, as `bias` gives."""
        return jnp.where(keys_there(self, start, size), self.bias.of_keys(start, size), -jnp.inf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HardMaskBias:
    """A query looks where its own mask, sigmoid(embedding . feature), is at least 0.5 (Mask2Former, section 3.2).

    Attributes:
      embeddings: [B, Q, C].
      features: [B, S, C].
    """

    embeddings: jax.Array
    features: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [B, 1, Q, size]."""
        return _blocked_unless(_mask_logits(self, start, size) >= 0)[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SoftMaskBias:
    """A query looks everywhere, but more where its own mask is: factor * sigmoid(embedding . feature) is added.

    Attributes:
      embeddings: [B, Q, C].
      features: [B, S, C].
      factors: float32 [M].
    """

    embeddings: jax.Array
    features: jax.Array
    factors: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [B, M, Q, size]."""
        return jax.nn.sigmoid(_mask_logits(self, start, size))[:, None] * self.factors[:, None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyCountBias:
    """A query looks at its own multiset of keys: n equal keys weigh n exp(logit) = exp(logit + log n).

    Attributes:
      counts: [B, Q, S], how often a key is among a query's own, 0 or more.
    """

    counts: jax.Array

    def of_keys(self, start: int | jax.Array, size: int) -> jax.Array:
        """float32 [B, 1, Q, size]."""
        counts = jax.lax.dynamic_slice_in_dim(self.counts, start, size, axis=2)
        return jnp.log(counts.astype(jnp.float32))[:, None]


def _mask_logits(bias: HardMaskBias | SoftMaskBias, start: int | jax.Array, size: int) -> jax.Array:
    """float32 (float64 of float64) [B, Q, size]."""
    features = _keys(bias.features, start, size)
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    return jnp.einsum("bqc,bkc->bqk", bias.embeddings, features, preferred_element_type=dtype)
