"""Checkpoints come back bit for bit, and do not fit another model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tarvis_jax.parallel.mesh import make_mesh, replicated
from tarvis_jax.train.state import from_items, new_state, to_items
from tarvis_jax.weights.checkpoints import Checkpoints


@pytest.mark.parametrize("keep_ema", [False, True])
def test_round_trip(tmp_path, keep_ema):
    sharding = replicated(make_mesh(jax.devices()[:1]))
    params = {"decoder/layers/0/kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = jax.device_put(new_state(params, {"pixel_mean": jnp.ones(3)}, optimizer, keep_ema), sharding)
    checkpoints = Checkpoints(tmp_path, keep=2, create=True)
    assert checkpoints.latest_step is None
    for step in (3, 6, 9):
        checkpoints.save(
            step, *to_items(dataclasses.replace(state, step=jnp.int32(step))), {"model": {"hidden_size": 4}}
        )
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()) == ["6", "9"]

    checkpoints = Checkpoints(tmp_path)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)
    restored = from_items(like, *checkpoints.restore(*to_items(like)))
    assert int(restored.step) == 9
    expected = dataclasses.replace(state, step=jnp.int32(9))
    assert jax.tree.all(jax.tree.map(np.array_equal, restored, expected))
    weights, frozen = checkpoints.restore_weights()
    assert weights.keys() == params.keys() and frozen.keys() == {"pixel_mean"}
    assert checkpoints.restore_config() == {"model": {"hidden_size": 4}}

    wrong = dict(like.params, bias=jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding))
    with pytest.raises(ValueError, match="does not fit this config"):
        checkpoints.restore(*to_items(dataclasses.replace(like, params=wrong)))
    checkpoints.close()


def test_a_workdir_without_checkpoints(tmp_path):
    with pytest.raises(ValueError, match="no such folder, expected the workdir of a run"):
        Checkpoints(tmp_path)
