"""What attention looks at: tokens, and the two projections that make keys and values of them."""

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Projections:
    """Dense layers from tokens to keys and to values, all of one dtype.

    Attributes:
      key_kernel: [C, M * D].
      key_bias: [M * D].
      value_kernel: [C, M * D].
      value_bias: [M * D].
      num_heads: M; static.
    """

    key_kernel: jax.Array
    key_bias: jax.Array
    value_kernel: jax.Array
    value_bias: jax.Array
    num_heads: int = dataclasses.field(metadata={"static": True})

    def __call__(self, features: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, S, M, D] of features [B, S, C] at positions [B or 1, S, C]; values know no position."""
        keys = (features + positions) @ self.key_kernel + self.key_bias
        values = features @ self.value_kernel + self.value_bias
        return tuple(x.reshape(*x.shape[:-1], self.num_heads, -1) for x in (keys, values))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
    """Tokens to attend to. Their keys and values are larger than they are, and made only where they are needed.

    Attributes:
      features: [B, S, C].
      positions: [B or 1, S, C], added to make keys.
    """

    features: jax.Array
    positions: jax.Array

    def chunk(self, start: jax.Array, size: int) -> "Tokens":
        """Tokens start to start + size; `size` is static."""
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), self)
