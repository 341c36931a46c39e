"""cuDNN's attention against all logits at once, on a GPU; elsewhere, that nothing of it is used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.attention import cudnn
from kernels.attention.operator import attend, attend_at_once
from kernels.attention.tokens import Projections, Tokens


def inputs(num_queries: int, num_tokens: int, heads: int = 8, head_size: int = 32):
    """(query, tokens, projections) in bfloat16."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.bfloat16)  # noqa: E731
    size = heads * head_size
    projections = Projections(
        normal(size, size) / 16, normal(size), normal(size, size) / 16, normal(size), num_heads=heads
    )
    return (
        normal(2, num_queries, heads, head_size),
        Tokens(normal(2, num_tokens, size), normal(1, num_tokens, size)),
        projections,
    )


@pytest.mark.parametrize(
    "dtype,head_size", [(jnp.float32, 32), (jnp.bfloat16, 12), (jnp.bfloat16, 256), (jnp.bfloat16, 32)]
)
def test_other_platforms_and_other_heads_take_the_other_form(dtype, head_size):
    found = cudnn.where_possible(jnp.sin, jnp.cos, jnp.zeros(3), dtype=dtype, head_size=head_size, backend=None)
    expected = jnp.sin if jax.default_backend() == "gpu" and dtype == jnp.bfloat16 and head_size == 32 else jnp.cos
    np.testing.assert_array_equal(found, expected(jnp.zeros(3)))


def test_plain_xla_on_request():
    args = (jnp.sin, jnp.cos, jnp.zeros(3))
    kind = {"dtype": jnp.bfloat16, "head_size": 32}
    np.testing.assert_array_equal(cudnn.where_possible(*args, **kind, backend="xla"), jnp.ones(3))
    with pytest.raises(ValueError, match="found 'flash'"):
        cudnn.where_possible(*args, **kind, backend="flash")


@pytest.mark.gpu
@pytest.mark.parametrize("num_queries,num_tokens", [(252, 252), (1008, 1008), (169, 169), (17, 421)])
def test_equals_all_at_once(num_queries, num_tokens):
    """Windows of 3 and of 12 frames; odd numbers. Outputs and gradients as close to float64's as those of XLA."""
    if jax.default_backend() != "gpu":
        pytest.skip("needs JAX on a GPU (JAX_PLATFORMS=cuda,cpu)")
    args = inputs(num_queries, num_tokens)
    out_grad = jnp.asarray(np.random.default_rng(1).standard_normal(args[0].shape), jnp.bfloat16)

    def outputs_and_grads(function, args, out_grad):
        out, pull_back = jax.vjp(lambda *args: function(*args), *args)
        return out, pull_back(out_grad)

    run = jax.jit(outputs_and_grads, static_argnums=0)
    assert "__cudnn$fmha" in run.lower(attend, args, out_grad).compile().as_text()
    found, plain = run(attend, args, out_grad), run(attend_at_once, args, out_grad)
    with jax.default_matmul_precision("highest"):
        wide = jax.tree.map(lambda x: x.astype(jnp.float32), (args, out_grad))
        exact = run(attend_at_once, *wide)
    for (path, c), a, b in zip(
        jax.tree_util.tree_leaves_with_path(exact), *map(jax.tree.leaves, (found, plain)), strict=True
    ):
        # The gradient of the keys' bias is zero but for rounding: a softmax does not feel what all logits share.
        if "key_bias" in jax.tree_util.keystr(path):
            continue
        error, plain_error = (np.abs(np.float32(x) - c).max() / np.abs(c).max() for x in (a, b))
        assert error < max(2 * plain_error, 0.03), (path, error, plain_error)
