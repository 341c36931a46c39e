"""Packed parameters: nothing is lost on the way there and back, and an optimizer takes the same steps on them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tarvis_jax.run_config import OptimizerConfig
from tarvis_jax.train.optimizer import make_optimizer, packing_of
from tarvis_jax.train.packing import Packing

SHAPES = {
    "backbone/conv/kernel": (2, 3),
    "neck/input_norm/scale": (4,),
    "queries/instance": (5, 2),
    "decoder/dense/kernel": (3, 2),
    "backbone/norm/scale": (),
    "decoder/dense/bias": (2,),
}


def params(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}


def test_groups_share_a_vector_and_everything_comes_back():
    packing, arrays = packing_of(params(0)), params(0)
    assert packing.vectors == {
        "backbone decayed": ["backbone/conv/kernel"],
        "heads undecayed": ["neck/input_norm/scale", "queries/instance"],
        "heads decayed": ["decoder/dense/kernel", "decoder/dense/bias"],
        "backbone undecayed": ["backbone/norm/scale"],
    }
    for vectors in (packing.pack(arrays), jax.jit(packing.pack)(arrays), packing.pack(jax.device_get(arrays), np)):
        assert jax.tree.map(jnp.shape, vectors) == {name: shape.shape for name, shape in packing.shapes().items()}
        found = packing.unpack(vectors)
        assert list(found) == list(arrays)
        jax.tree.map(np.testing.assert_array_equal, found, arrays)


def test_trees_are_packed_where_they_hold_all_arrays():
    packing = packing_of(params(0))
    tree = (params(0), {"mu": params(1), "count": jnp.int32(3)}, {"backbone/conv/kernel": jnp.ones(())})
    packed = packing.pack_tree(tree)
    assert set(packed[0]) == set(packed[1]["mu"]) == set(packing.vectors)
    assert packed[2] == tree[2] and packed[1]["count"] == 3
    assert packing.pack_tree(packed) == packed
    jax.tree.map(np.testing.assert_array_equal, packing.unpack_tree(packed), tree)


def test_one_dtype():
    shapes = {"a": jax.ShapeDtypeStruct((1,), jnp.float32), "b": jax.ShapeDtypeStruct((1,), jnp.bfloat16)}
    with pytest.raises(ValueError, match=r"expected one dtype, found \['bfloat16', 'float32'\]"):
        Packing(shapes, {"a": "all", "b": "all"})


def test_the_optimizer_takes_the_same_steps():
    """Clipping, decay and the backbone's learning rate act on each parameter as without packing."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, backbone_multiplier=0.1, clip_norm=0.3)
    packing, expected = packing_of(params(0)), params(0)
    optimizer = make_optimizer(config, expected, packing)
    found = packing.pack(expected)
    states = [optimizer.init(expected), optimizer.init(found)]
    for step in range(3):
        grads = params(1 + step)
        updates, states[0] = optimizer.update(grads, states[0], expected)
        expected = optax.apply_updates(expected, updates)
        updates, states[1] = optimizer.update(packing.pack(grads), states[1], found)
        found = optax.apply_updates(found, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), packing.unpack(found), expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), packing.unpack_tree(states[1]), states[0]
    )
