"""Random keys of initial weights."""

import jax
import numpy as np
from flax import nnx

from tarvis_jax.model.variables import Keys


def test_keys_are_those_of_nnx():
    ours, theirs = Keys(jax.random.key(3)), nnx.Rngs(jax.random.key(3))
    for _ in range(3):
        np.testing.assert_array_equal(jax.random.key_data(ours.params()), jax.random.key_data(theirs.params()))
