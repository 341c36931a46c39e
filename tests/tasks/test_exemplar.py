"""Which objects of a batch are given by points."""

import jax
import numpy as np

from tarvis_jax.tasks.exemplar import are_points, draw


def test_the_last_valid_objects_are_points():
    valid = np.array([[True, True, True, False], [True, False, False, False], [True, False, True, True]])
    for num_points in range(5):
        found = np.asarray(are_points(valid, num_points))
        for row, is_point in zip(valid, found, strict=True):
            expected = np.zeros(4, bool)
            slots = np.flatnonzero(row)
            expected[slots[len(slots) - min(num_points, len(slots)) :]] = True
            np.testing.assert_array_equal(is_point, expected)


def test_number_of_points_is_binomial():
    keys = jax.random.split(jax.random.key(0), 4000)
    counts = np.asarray(jax.vmap(lambda key: draw(key, 2, 4, 0.3).num_points)(keys))
    found = np.bincount(counts, minlength=5) / len(counts)
    # Binomial(4, 0.3); the standard error of each share is below 0.008.
    np.testing.assert_allclose(found, [0.2401, 0.4116, 0.2646, 0.0756, 0.0081], atol=0.025)
