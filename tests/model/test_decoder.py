"""Query decoder: invalid queries, last prediction only, precision, recomputation. Its numbers: tests/parity."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from kernels.attention.biases import HardMaskBias
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.decoder import INVALID_MASK_LOGIT, DecoderLayer, QueryDecoder, resize_to_stride
from tarvis_jax.model.queries import ObjectQueries, QueryTables
from tests import tiny

CONFIG = dataclasses.replace(
    tiny.MODEL,
    decoder_layers=2,
    decoder_strides=(32, 16, 8),
    num_instance_queries=5,
    num_background_queries=2,
    semantic_classes=(("B", 2), ("A", 3)),
)


@functools.cache
def tables() -> QueryTables:
    return QueryTables(CONFIG, rngs=nnx.Rngs(0))


@functools.cache
def decoder(config: ModelConfig = CONFIG) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(QueryDecoder(config, rngs=nnx.Rngs(1)))


@pytest.fixture(scope="module")
def pyramid():
    rng = np.random.default_rng(0)
    return {s: jnp.asarray(rng.standard_normal((2, 2, 64 // s, 64 // s, 16)), jnp.float32) for s in (4, 8, 16, 32)}


def decode(config: ModelConfig, pyramid, query_set, all_layers: bool = True):
    graphdef, state = decoder(config)
    return jax.jit(lambda state: nnx.merge(graphdef, state)(pyramid, query_set, all_layers=all_layers))(state)


def exemplar_set(num_slots: int):
    rng = np.random.default_rng(2)
    objects = rng.standard_normal((2, num_slots, 2, 16)).astype(np.float32)
    objects[:, :3] = np.random.default_rng(3).standard_normal((2, 3, 2, 16))
    valid = np.zeros((2, num_slots, 2), bool)
    valid[:, :3] = [[True, True], [True, False], [True, True]]
    background = np.random.default_rng(4).standard_normal((2, 4, 16)).astype(np.float32)
    queries = ObjectQueries(*map(jnp.asarray, (background, objects, valid)))
    return tables().exemplar_query_set(queries)


def test_invalid_queries_change_nothing(pyramid):
    few, many = exemplar_set(3), exemplar_set(8)
    a, b = decode(CONFIG, pyramid, few), decode(CONFIG, pyramid, many)
    valid = np.asarray(few.valid[0])
    size = valid.size
    assert valid.sum() == 4 + 5 and a.class_logits is None
    np.testing.assert_allclose(b.queries[:, :, :size][:, :, valid], a.queries[:, :, valid], atol=1e-5)
    np.testing.assert_allclose(b.mask_logits[:, :, :size][:, :, valid], a.mask_logits[:, :, valid], atol=1e-4)
    assert (b.mask_logits[:, :, size:] == INVALID_MASK_LOGIT).all()
    assert (b.mask_logits[:, :, :size][:, :, ~valid] == INVALID_MASK_LOGIT).all()


def test_shapes_groups_and_the_last_prediction_alone(pyramid):
    query_set = tables().class_query_set("A", 2)
    every = decode(CONFIG, pyramid, query_set)
    scaled = dataclasses.replace(CONFIG, class_logit_scale=0.5)
    last = decode(scaled, pyramid, query_set, all_layers=False)
    assert every.groups == (("instance", 5), ("background", 2), ("semantic", 3))
    assert every.queries.shape == (3, 2, 10, 16)
    assert every.mask_logits.shape == (3, 2, 10, 2, 16, 16)
    assert every.class_logits.shape == (3, 2, 5, 4)
    np.testing.assert_array_equal(every.queries[0], query_set.queries)
    assert last.mask_logits.shape[0] == 1
    np.testing.assert_allclose(last.queries[0], every.queries[-1], atol=1e-5)
    np.testing.assert_allclose(last.mask_logits[0], every.mask_logits[-1], atol=1e-4)
    np.testing.assert_allclose(last.class_logits[0], 0.5 * every.class_logits[-1], atol=1e-5)


def test_bfloat16_is_close_and_keeps_float32_logits(pyramid):
    # Soft masks: with hard ones a logit next to the threshold may fall on the other side, which is no small change.
    config = dataclasses.replace(CONFIG, cross_attention="soft_masked")
    query_set = tables().class_query_set("A", 2)
    exact = decode(config, pyramid, query_set, all_layers=False)
    rough = decode(dataclasses.replace(config, compute_dtype="bfloat16"), pyramid, query_set, all_layers=False)
    assert rough.mask_logits.dtype == rough.class_logits.dtype == jnp.float32
    assert rough.queries.dtype == jnp.bfloat16
    for name in ("mask_logits", "class_logits"):
        a, b = np.asarray(getattr(exact, name)), np.asarray(getattr(rough, name))
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a), name


def test_recomputation_gives_the_same_gradients(pyramid):
    query_set = tables().class_query_set("A", 2)

    def gradients(config: ModelConfig):
        graphdef, params = decoder(dataclasses.replace(config, decoder_layers=1))

        def loss(params):
            predictions = nnx.merge(graphdef, params)(pyramid, query_set, all_layers=True)
            return (predictions.mask_logits**2).mean() + (predictions.class_logits**2).mean()

        return jax.jit(jax.grad(loss))(params)

    plain = gradients(CONFIG)
    found = gradients(dataclasses.replace(CONFIG, remat="blocks"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), plain, found)
    assert float(jnp.abs(plain["layers"][0]["cross_attention"]["in_proj"]["kernel"][...]).max()) > 0


def test_a_query_with_an_empty_mask_looks_everywhere():
    layer = DecoderLayer(CONFIG, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    queries, embeddings = (jnp.asarray(rng.standard_normal((1, 3, 16)), jnp.float32) for _ in range(2))
    features = jnp.asarray(rng.standard_normal((1, 8, 16)), jnp.float32)
    positions, valid = jnp.zeros((1, 8, 16)), jnp.ones((1, 3), bool)

    def run(logits):
        masks = jnp.asarray(logits, jnp.float32), jnp.eye(8)[None]  # the products of the two are the logits
        return layer(queries, embeddings, valid, features, positions, *masks)

    half = np.where(np.arange(8) < 4, 1.0, -1.0) * np.ones((1, 3, 1))
    np.testing.assert_allclose(run(-np.ones((1, 3, 8))), run(np.ones((1, 3, 8))), atol=1e-6)
    assert np.abs(run(half) - run(np.ones((1, 3, 8)))).max() > 1e-3


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_resizing_is_torch_interpolate(factor):
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 32, 5)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 4, 1, 2, 3).copy()),
        (3, 16 // factor, 32 // factor),
        mode="trilinear",
        align_corners=False,
    )
    ours = resize_to_stride(jnp.asarray(x), factor)
    np.testing.assert_allclose(ours, expected.numpy().transpose(0, 2, 3, 4, 1), atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_masks_of_resized_features_are_those_of_resized_logits(factor):
    """In float64 bit by bit; the reference resizes the logits of every query in every layer."""
    B, Q, T, h, w, C = 1, 50, 3, 32, 48, 64
    rng = np.random.default_rng(0)
    features, embeddings = rng.standard_normal((B, T, h, w, C)), rng.standard_normal((B, Q, C))
    logits = torch.einsum("bqc,bthwc->bqthw", torch.from_numpy(embeddings), torch.from_numpy(features))
    size = (T, h // factor, w // factor)
    expected = torch.nn.functional.interpolate(logits, size, mode="trilinear", align_corners=False).sigmoid() >= 0.5
    with jax.enable_x64(True):
        small = resize_to_stride(jnp.asarray(features), factor).reshape(B, -1, C)
        assert small.dtype == jnp.float64
        found = HardMaskBias(jnp.asarray(embeddings), small).of_keys(0, small.shape[1])[:, 0] == 0
    np.testing.assert_array_equal(found, expected.reshape(B, Q, -1).numpy())
    assert 0.4 < found.mean() < 0.6


def test_unknown_attention_is_refused():
    with pytest.raises(
        ValueError, match="cross_attention: expected one of 'hard_masked', 'soft_masked', found 'masked'"
    ):
        QueryDecoder(dataclasses.replace(CONFIG, cross_attention="masked"), rngs=nnx.Rngs(0))


def test_semantic_queries_are_stored_alphabetically():
    table = np.asarray(tables().semantic[...])
    assert table.shape == (1 + 5, 16)
    for name, rows in {"A": slice(1, 4), "B": slice(4, 6)}.items():
        query_set = tables().class_query_set(name, 2)
        semantic = query_set.slice("semantic")
        np.testing.assert_array_equal(query_set.queries[1, semantic], table[rows])
        np.testing.assert_array_equal(query_set.embeddings[0, semantic], np.broadcast_to(table[0], table[rows].shape))
    with pytest.raises(ValueError, match=r"dataset 'C' .*\['A', 'B'\]"):
        tables().class_query_set("C", 1)
    with pytest.raises(ValueError, match="no query group 'vos'"):
        query_set.slice("vos")


def test_some_groups_of_a_query_set_alone():
    whole = tables().class_query_set("A", 2)
    part = whole.select("semantic", "background")
    assert part.groups == (("semantic", 3), ("background", 2))
    for name in ("semantic", "background"):
        np.testing.assert_array_equal(part.queries[:, part.slice(name)], whole.queries[:, whole.slice(name)])
        np.testing.assert_array_equal(part.embeddings[:, part.slice(name)], whole.embeddings[:, whole.slice(name)])
    assert part.valid.shape == (2, 5) and part.valid.all()
    with pytest.raises(ValueError, match="no query group 'vos'"):
        whole.select("semantic", "vos")
