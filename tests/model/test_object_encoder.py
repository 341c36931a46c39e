"""Object encoder: independence of padding, frames that count, gradients. Its numbers: tests/parity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tarvis_jax.model.object_encoder import ObjectEncoder
from tests import tiny

T, H, W = 2, 64, 64


@pytest.fixture(scope="module")
def encode():
    """Jitted (pyramid, objects) -> ObjectQueries of a small encoder."""
    graphdef, state = nnx.split(ObjectEncoder(tiny.MODEL, rngs=nnx.Rngs(0)))
    return jax.jit(lambda pyramid, objects: nnx.merge(graphdef, state)(pyramid, **objects))


@pytest.fixture(scope="module")
def pyramid():
    rng = np.random.default_rng(0)
    return {s: jnp.asarray(rng.standard_normal((1, T, H // s, W // s, 16)), jnp.float32) for s in (4, 8, 16, 32)}


def make_objects(num_slots: int) -> dict[str, np.ndarray]:
    """Two mask objects, a point object, and invalid slots that hold something."""
    rng = np.random.default_rng(1)
    objects = {
        "masks": np.ones((1, num_slots, T, H, W), bool),
        "points_yx": np.full((1, num_slots, 2), 0.9, np.float32),
        "point_frames": np.ones((1, num_slots), np.int32),
        "is_point": np.ones((1, num_slots), bool),
        "valid_objects": np.arange(num_slots)[None] < 3,
        "valid_frames": np.array([[True, False]]),
    }
    objects["is_point"][0, :3] = [False, True, False]
    objects["is_point"][0, 4:] = False
    objects["points_yx"][0, 1] = [0.3, 0.6]
    objects["masks"][0, :3] = rng.random((3, T, H, W)) < 0.02
    objects["masks"][0, 0, :, 10:20, 20:50] = True
    return objects


def test_result_does_not_depend_on_the_number_of_slots(encode, pyramid):
    few, many = encode(pyramid, make_objects(4)), encode(pyramid, make_objects(8))
    np.testing.assert_array_equal(few.valid[0, :, 1:].any(-1), [True, False, True, False])
    np.testing.assert_array_equal(few.valid[0, 1], [True, False])
    np.testing.assert_array_equal(many.valid[0, :4], few.valid[0])
    assert not many.valid[0, 4:].any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(many))
    np.testing.assert_allclose(many.background, few.background, atol=1e-5)
    valid = np.asarray(few.valid[0])
    np.testing.assert_allclose(many.objects[0, :4][valid], few.objects[0][valid], atol=1e-5)


def test_invalid_frames_are_not_looked_at(encode, pyramid):
    objects = make_objects(4)
    objects["point_frames"][:] = 0
    before = encode(pyramid, objects)
    changed = {stride: x.at[:, 1].set(7.0) for stride, x in pyramid.items()}
    objects["masks"][:, :, 1] = True
    after = encode(changed, objects)
    np.testing.assert_array_equal(after.background, before.background)
    np.testing.assert_array_equal(after.objects, before.objects)


def test_an_object_without_pixels_is_invalid(encode, pyramid):
    objects = make_objects(4)
    objects["masks"][0, 0, 0] = False
    result = encode(pyramid, objects)
    assert not result.valid[0, 0].any() and result.valid[0, 2].all()


def test_objects_that_cover_everything_leave_finite_background_queries(encode, pyramid):
    objects = make_objects(4)
    objects["masks"][0, 0] = True
    result = encode(pyramid, objects)
    assert np.isfinite(result.background).all()


@pytest.mark.parametrize("exemplar_gradient", [False, True])
def test_gradient_reaches_the_maps_from_points_and_only_if_asked_from_masks(pyramid, exemplar_gradient):
    encoder = ObjectEncoder(dataclasses.replace(tiny.MODEL, exemplar_gradient=exemplar_gradient), rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoder)

    @jax.jit
    def gradient(pyramid, objects):
        def loss(pyramid):
            queries = nnx.merge(graphdef, state)(pyramid, **objects)
            return (queries.objects[:, :3] ** 3).sum()

        return jax.grad(loss)(pyramid)

    objects = make_objects(4)
    objects["is_point"][:] = False
    from_masks = gradient(pyramid, objects)
    assert bool(jnp.abs(from_masks[4]).max() > 0) == exemplar_gradient
    assert not any(jnp.any(from_masks[stride]) for stride in (8, 16, 32))
    from_all = gradient(pyramid, make_objects(4))
    for stride in (4, 8, 16, 32):
        row, column = int(0.3 * H / stride), int(0.6 * W / stride)
        assert jnp.abs(from_all[stride][0, 1, row, column]).max() > 0


def test_masks_of_another_size_are_refused(pyramid):
    objects = make_objects(4)
    objects["masks"] = objects["masks"][..., :32]
    with pytest.raises(ValueError, match=r"masks: expected shape .*\(1, 4, 2, 64, 64\), found \(1, 4, 2, 64, 32\)"):
        ObjectEncoder(tiny.MODEL, rngs=nnx.Rngs(0))(pyramid, **objects)
