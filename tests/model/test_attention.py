"""Attention building blocks against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from kernels.attention.biases import HardMaskBias, KeyPaddingBias, SoftMaskBias
from tarvis_jax.model.attention import MLP, FeedForward, MultiHeadAttention

B, Q, K, C, M = 2, 3, 5, 8, 2


def copy_linear(ours: nnx.Linear, theirs: torch.nn.Linear) -> None:
    ours.kernel[...] = jnp.asarray(theirs.weight.detach().numpy().T)
    ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())


@pytest.fixture(scope="module")
def pair():
    """The same attention in PyTorch and here."""
    torch.manual_seed(0)
    theirs = torch.nn.MultiheadAttention(C, M, batch_first=True)
    torch.nn.init.normal_(theirs.in_proj_bias)
    ours = MultiHeadAttention(C, M, rngs=nnx.Rngs(0))
    ours.in_proj.kernel[...] = jnp.asarray(theirs.in_proj_weight.detach().numpy().T)
    ours.in_proj.bias[...] = jnp.asarray(theirs.in_proj_bias.detach().numpy())
    copy_linear(ours.out_proj, theirs.out_proj)
    return theirs, ours


def inputs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal((B, n, C), dtype=np.float32) for n in (Q, K, K))  # query, features, positions


@pytest.mark.parametrize("kind", ["plain", "bias", "mask"])
def test_attention(pair, kind):
    theirs, ours = pair
    rng = np.random.default_rng(1)
    masks = rng.standard_normal((B, Q, K), dtype=np.float32)
    masks[..., 0] = 1.0
    factors = np.array([2.0, 8.0], np.float32)
    embeddings, features = masks, np.broadcast_to(np.eye(K, dtype=np.float32), (B, K, K))  # mask logits = masks
    our_bias = {
        "plain": None,
        "bias": SoftMaskBias(embeddings, features, factors),
        "mask": HardMaskBias(embeddings, features),
    }
    # PyTorch wants [B * M, Q, K], and True where attention is blocked.
    bias = factors[:, None, None] / (1 + np.exp(-masks[:, None]))
    blocked = np.broadcast_to(masks[:, None] < 0, bias.shape)
    attn_mask = {"plain": None, "bias": bias, "mask": blocked}[kind]
    attn_mask = None if attn_mask is None else torch.tensor(attn_mask.reshape(B * M, Q, K))
    query, features, positions = map(torch.from_numpy, inputs())
    expected = theirs(query, features + positions, features, attn_mask=attn_mask)[0].detach().numpy()
    np.testing.assert_allclose(ours(*map(jnp.asarray, inputs()), our_bias[kind]), expected, atol=1e-5)


def test_blocked_keys_get_no_gradient(pair):
    query, features, positions = map(jnp.asarray, inputs())
    bias = KeyPaddingBias(jnp.broadcast_to(jnp.arange(K) < 2, (B, K)))
    grad = jax.grad(lambda features: pair[1](query, features, positions, bias).sum())(features)
    assert np.abs(grad[:, :2]).min() > 0
    assert not grad[:, 2:].any()


def test_feed_forward_and_mlp():
    torch.manual_seed(0)
    linears = [torch.nn.Linear(n, m) for n, m in ((C, 12), (12, C), (C, 6), (6, 6), (6, 4))]
    x = torch.randn(B, Q, C)

    ffn = FeedForward(C, 12, rngs=nnx.Rngs(0))
    copy_linear(ffn.linear1, linears[0])
    copy_linear(ffn.linear2, linears[1])
    expected = torch.nn.functional.layer_norm(x + linears[1](linears[0](x).relu()), (C,))
    np.testing.assert_allclose(ffn(jnp.asarray(x.numpy())), expected.detach().numpy(), atol=1e-5)

    mlp = MLP(C, 6, 4, 3, rngs=nnx.Rngs(0))
    for ours, theirs in zip(mlp.layers, linears[2:], strict=True):
        copy_linear(ours, theirs)
    expected = linears[4](linears[3](linears[2](x).relu()).relu())
    np.testing.assert_allclose(mlp(jnp.asarray(x.numpy())), expected.detach().numpy(), atol=1e-5)


def test_bfloat16_keeps_the_softmax_in_float32():
    attention = MultiHeadAttention(C, M, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    x = jnp.ones((1, 4096, C))
    out = attention(x[:, :1], x, 0 * x)
    assert out.dtype == jnp.bfloat16
    # Equal weights of 1/4096 must add up to 1: a bfloat16 sum of them would stop at 256/4096.
    exact = MultiHeadAttention(C, M, rngs=nnx.Rngs(0))(x[:, :1], x, 0 * x)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0.02, atol=0.01)


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="multiple of num_heads, found 8 and 3"):
        MultiHeadAttention(C, 3, rngs=nnx.Rngs(0))
