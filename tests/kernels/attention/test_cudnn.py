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


FITS = {"dtype": jnp.bfloat16, "head_size": 32, "num_queries": 4, "num_keys": 6}


@pytest.mark.parametrize(
    "other", [{"dtype": jnp.float32}, {"head_size": 12}, {"head_size": 256}, {"num_queries": 3}, {"num_keys": 5}, {}]
)
def test_other_platforms_and_other_arrays_take_the_other_form(other):
    found = cudnn.where_possible(jnp.sin, jnp.cos, jnp.zeros(3), **FITS | other, backend=None)
    expected = jnp.sin if jax.default_backend() == "gpu" and not other else jnp.cos
    np.testing.assert_array_equal(found, expected(jnp.zeros(3)))


@pytest.mark.parametrize("num_queries,num_keys", [(4, 6), (3, 6), (4, 5), (169, 169)])
def test_odd_numbers_never_go_to_cudnn(num_queries, num_keys, monkeypatch):
    """JAX refuses to differentiate them: a training step of 169 queries would not compile on a GPU."""
    monkeypatch.setattr(cudnn, "_has_cuda_plugin", lambda: True)
    taken = []
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, cuda, default: taken.append(True) or default(*args)
    )
    args = inputs(num_queries, num_keys)
    jax.eval_shape(attend, *args)
    assert bool(taken) == (num_queries % 2 == num_keys % 2 == 0)


def test_plain_xla_on_request():
    args = (jnp.sin, jnp.cos, jnp.zeros(3))
    np.testing.assert_array_equal(cudnn.where_possible(*args, **FITS, backend="xla"), jnp.ones(3))
    with pytest.raises(ValueError, match="found 'flash'"):
        cudnn.where_possible(*args, **FITS, backend="flash")


@pytest.mark.gpu
@pytest.mark.parametrize("num_queries,num_tokens", [(252, 252), (1008, 1008), (169, 169), (17, 421)])
def test_equals_all_at_once(num_queries, num_tokens):
    """Windows of 3 and of 12 frames; odd numbers, which XLA takes. Outputs and gradients are as exact as XLA's."""
    if jax.default_backend() != "gpu":
        pytest.skip("needs JAX on a GPU (JAX_PLATFORMS=cuda,cpu)")
    args = inputs(num_queries, num_tokens)
    out_grad = jnp.asarray(np.random.default_rng(1).standard_normal(args[0].shape), jnp.bfloat16)

    def outputs_and_grads(function, args, out_grad):
        out, pull_back = jax.vjp(lambda *args: function(*args), *args)
        return out, pull_back(out_grad)

    run = jax.jit(outputs_and_grads, static_argnums=0)
    is_flash = "__cudnn$fmha" in run.lower(attend, args, out_grad).compile().as_text()
    assert is_flash == (num_queries % 2 == num_tokens % 2 == 0)
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
