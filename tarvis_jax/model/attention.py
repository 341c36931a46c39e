"""Building blocks shared by the temporal neck, the query decoder and the object encoder.

All of them are post-norm (Vaswani et al., 2017): `norm(x + f(x))`. Parameters are float32; `dtype` is the dtype of the
activations. Softmax and norm statistics are float32 whatever `dtype` is.
"""

import jax
import jax.numpy as jnp
from flax import nnx

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

    def __init__(self, hidden_size: int, num_heads: int, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32):
        if hidden_size % num_heads:
            raise ValueError(f"hidden_size must be a multiple of num_heads, found {hidden_size} and {num_heads}")
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.dtype = dtype
        self.in_proj = linear(hidden_size, 3 * hidden_size, rngs=rngs, dtype=dtype)
        self.out_proj = linear(hidden_size, hidden_size, rngs=rngs, dtype=dtype)

    def _project(self, x: jax.Array, part: int) -> jax.Array:
        """Query (0), key (1) or value (2) projection: [B, S, C] -> [B, S, M, D]."""
        columns = slice(part * self.hidden_size, (part + 1) * self.hidden_size)
        kernel = self.in_proj.kernel[...][:, columns].astype(self.dtype)
        bias = self.in_proj.bias[...][columns].astype(self.dtype)
        x = x.astype(self.dtype) @ kernel + bias
        return x.reshape(*x.shape[:-1], self.num_heads, self.hidden_size // self.num_heads)

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        *,
        bias: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Attends from `query` to `key`.

        Args:
          query: [B, Q, C], positions already added.
          key: [B, K, C], positions already added.
          value: [B, K, C].
          bias: broadcastable to [B, M, Q, K]; added to the logits in float32.
          mask: bool, broadcastable to [B, M, Q, K]; True where attention is allowed. A row without any True gives the
            mean over all keys: callers unblock such rows or ignore their result.

        Returns:
          [B, Q, C] of `dtype`.
        """
        q = self._project(query, 0)  # [B, Q, M, D]
        k = self._project(key, 1)  # [B, K, M, D]
        v = self._project(value, 2)  # [B, K, M, D]
        logits = jnp.einsum("bqmd,bkmd->bmqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
        if bias is not None:
            logits = logits + bias.astype(jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        x = jnp.einsum("bmqk,bkmd->bqmd", weights, v)
        return self.out_proj(x.reshape(*x.shape[:2], self.hidden_size))


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
