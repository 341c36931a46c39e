"""The assembled model: shapes of the full ResNet-50, precision, refusals. Its numbers: tests/parity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.tarvis import TarViS
from tests import tiny

SMALL = dataclasses.replace(
    tiny.MODEL, cross_attention="soft_masked", temporal_window=2, semantic_classes=(("YOUTUBE_VIS", 3),)
)


def test_shapes_of_resnet50_without_computing():
    config = ModelConfig(remat="blocks")
    model = nnx.eval_shape(lambda: TarViS(config, rngs=nnx.Rngs(0)))
    graphdef, params, frozen = nnx.split(model, nnx.Param, Frozen)
    images = jax.ShapeDtypeStruct((2, 3, 128, 192, 3), jnp.uint8)
    objects = {
        "masks": jax.ShapeDtypeStruct((2, 4, 3, 128, 192), bool),
        "points_yx": jax.ShapeDtypeStruct((2, 4, 2), jnp.float32),
        "is_point": jax.ShapeDtypeStruct((2, 4), bool),
        "valid_objects": jax.ShapeDtypeStruct((2, 4), bool),
    }

    def run(params, frozen, images, objects):
        model = nnx.merge(graphdef, params, frozen)
        pyramid = model.features(images)
        classes = model.decode(pyramid, model.class_query_set("VIPSEG", 2))
        exemplars = model.exemplar_query_set(model.encode_objects(pyramid, **objects))
        return pyramid, classes, model.decode(pyramid, exemplars, all_layers=False)

    pyramid, classes, exemplars = jax.eval_shape(run, params, frozen, images, objects)
    assert {s: x.shape for s, x in pyramid.items()} == {s: (2, 3, 128 // s, 192 // s, 256) for s in (4, 8, 16, 32)}
    assert classes.mask_logits.shape == (10, 2, 128 + 1 + 124, 3, 32, 48)
    assert classes.class_logits.shape == (10, 2, 128, 125)
    assert exemplars.mask_logits.shape == (1, 2, 16 + 4 * 4, 3, 32, 48)
    assert exemplars.class_logits is None
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((params, frozen)))


def test_bfloat16_activations_are_close_to_float32():
    graphdef, params, frozen = nnx.split(TarViS(SMALL, rngs=nnx.Rngs(0)), nnx.Param, Frozen)
    rough = dataclasses.replace(SMALL, compute_dtype="bfloat16")
    rough_graphdef, _ = nnx.split(nnx.eval_shape(lambda: TarViS(rough, rngs=nnx.Rngs(0))))
    images = np.random.default_rng(0).integers(0, 256, (1, 2, 64, 64, 3), np.uint8)

    def run(graphdef):
        def decode(params, frozen, images):
            model = nnx.merge(graphdef, params, frozen)
            pyramid = model.features(images)
            return pyramid[4], model.decode(pyramid, model.class_query_set("YOUTUBE_VIS", 1), all_layers=False)

        return jax.jit(decode)(params, frozen, images)

    (a, exact), (b, rough) = run(graphdef), run(rough_graphdef)
    assert a.dtype == jnp.float32 and b.dtype == jnp.bfloat16
    assert rough.mask_logits.dtype == rough.class_logits.dtype == jnp.float32
    pairs = {"features": (a, b)}
    pairs |= {name: (getattr(exact, name), getattr(rough, name)) for name in ("mask_logits", "class_logits")}
    for name, (x, y) in pairs.items():
        x, y = np.asarray(x, np.float32), np.asarray(y, np.float32)
        assert np.linalg.norm(x - y) < 0.05 * np.linalg.norm(x), name


@pytest.mark.parametrize("shape", [(2, 3, 128, 96, 3), (1, 3, 64, 64, 4), (3, 64, 64, 3)])
def test_images_of_a_wrong_shape_are_refused(shape):
    model = nnx.eval_shape(lambda: TarViS(SMALL, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="images: expected shape .*multiples of 64"):
        model.features(np.zeros(shape, np.uint8))
