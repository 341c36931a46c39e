"""Building blocks shared by the temporal neck, the query decoder and the object encoder.

All of them are post-norm (Vaswani et al., 2017): `norm(x + f(x))`. Parameters are float32; `dtype` is the dtype of the
activations. Softmax and norm statistics are float32 whatever `dtype` is.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.attention.biases import AttentionBias
from kernels.attention.operator import attend
from kernels.attention.tokens import Projections, Tokens
from tarvis_jax.model.config import ModelConfig

_xavier_uniform = nnx.initializers.xavier_uniform()


def linear(in_features: int, out_features: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32) -> nnx.Linear:
    """A dense layer with Xavier-uniform kernel [in, out] and zero bias [out]."""
    return nnx.Linear(in_features, out_features, kernel_init=_xavier_uniform, dtype=dtype, rngs=rngs)


def layer_norm(num_features: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32) -> nnx.LayerNorm:
    """LayerNorm over the last axis with PyTorch's epsilon of 1e-5 and float32 statistics."""
    # The "fast" variance E[x^2] - E[x]^2 cancels badly when the mean is large.
    return nnx.LayerNorm(num_features, epsilon=1e-5, use_fast_variance=False, dtype=dtype, rngs=rngs)


class MultiHeadAttention(nnx.Module):
    """Scaled dot-product attention with several heads (Vaswani et al., 2017).

    Attributes:
      in_proj: kernel [C, 3C]: the columns of query, key and value, in this order (the transpose of PyTorch's
        `in_proj_weight`).
      out_proj: kernel [C, C].
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        *,
        max_logit_bytes: int | None = None,
        backend: str | None = None,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        """Args: max_logit_bytes, backend: see `attend`; they change memory and speed, not the result."""
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, found {hidden_size} and {num_heads}")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.max_logit_bytes = max_logit_bytes
        self.backend = backend
        self.dtype = dtype
        self.in_proj = linear(hidden_size, 3 * hidden_size, rngs=rngs, dtype=dtype)
        self.out_proj = linear(hidden_size, hidden_size, rngs=rngs, dtype=dtype)

    @classmethod
    def of_config(cls, config: ModelConfig, *, rngs: nnx.Rngs) -> "MultiHeadAttention":
        """As wide, precise and frugal as the model's configuration says."""
        return cls(
            config.hidden_size,
            config.num_heads,
            max_logit_bytes=config.max_logit_bytes,
            backend=config.attention_backend,
            rngs=rngs,
            dtype=jnp.dtype(config.compute_dtype),
        )

    def __call__(
        self, query: jax.Array, features: jax.Array, positions: jax.Array, bias: AttentionBias | None = None
    ) -> jax.Array:
        """Attends to `features`; the keys, not the values, know their positions.

        Args:
          query: [B, Q, C], positions already added.
          features: [B, S, C].
          positions: [B or 1, S, C].
          bias: what each query may look at; see `attend`.

        Returns:
          [B, Q, C] of `dtype`.
        """
        kernels = jnp.split(self.in_proj.kernel[...].astype(self.dtype), 3, axis=1)
        biases = jnp.split(self.in_proj.bias[...].astype(self.dtype), 3)
        q = query.astype(self.dtype) @ kernels[0] + biases[0]
        q = q.reshape(*q.shape[:-1], self.num_heads, -1)  # [B, Q, M, D]
        tokens = Tokens(features.astype(self.dtype), positions.astype(self.dtype))
        projections = Projections(kernels[1], biases[1], kernels[2], biases[2], num_heads=self.num_heads)
        x = attend(q, tokens, projections, bias, max_bytes=self.max_logit_bytes, backend=self.backend)
        return self.out_proj(x.reshape(query.shape))


class FeedForward(nnx.Module):
    """Two-layer ReLU network with residual connection: norm(x + linear2(relu(linear1(x))))."""

    def __init__(self, hidden_size: int, ffn_size: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        self.linear1 = linear(hidden_size, ffn_size, rngs=rngs, dtype=dtype)
        self.linear2 = linear(ffn_size, hidden_size, rngs=rngs, dtype=dtype)
        self.norm = layer_norm(hidden_size, rngs=rngs, dtype=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., C] -> [..., C]."""
        return self.norm(x + self.linear2(nnx.relu(self.linear1(x))))


class MLP(nnx.Module):
    """`num_layers` dense layers with ReLU between them."""

    def __init__(
        self,
        in_features: int,
        hidden_size: int,
        out_features: int,
        num_layers: int,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
    ):
        sizes = [in_features, *[hidden_size] * (num_layers - 1), out_features]
        self.layers = nnx.List(
            [linear(n, m, rngs=rngs, dtype=dtype) for n, m in zip(sizes[:-1], sizes[1:], strict=True)]
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in_features] -> [..., out_features]."""
        for i, layer in enumerate(self.layers):
            x = layer(nnx.relu(x) if i else x)
        return x
