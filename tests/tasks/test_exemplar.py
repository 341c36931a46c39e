"""Which objects of a batch are given by points."""

import jax
import numpy as np

from tarvis_jax.tasks.exemplar import draw


def test_each_object_is_a_point_by_its_own_draw():
    """Neither its place nor the other objects matter."""
    is_point = np.asarray(draw(jax.random.split(jax.random.key(0), 4000), 2, 4, 0.3).is_point)
    assert is_point.shape == (4000, 4)
    np.testing.assert_allclose(is_point.mean(0), 0.3, atol=0.03)  # four standard errors
    # Binomial(4, 0.3); the standard error of each share is below 0.008.
    counts = np.bincount(is_point.sum(1), minlength=5) / len(is_point)
    np.testing.assert_allclose(counts, [0.2401, 0.4116, 0.2646, 0.0756, 0.0081], atol=0.025)
