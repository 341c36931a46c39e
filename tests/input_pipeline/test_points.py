"""The point of a mask, against scipy's exact distance transform."""

import numpy as np
import pytest
from scipy import ndimage

from input_pipeline.points import mask_to_point


def slow_point(mask: np.ndarray) -> np.ndarray:
    distance = ndimage.distance_transform_edt(mask)
    candidates = np.argwhere(distance == distance.max())
    mean = np.argwhere(mask).mean(0)
    best = min(candidates.tolist(), key=lambda yx: abs(yx[0] - mean[0]) + abs(yx[1] - mean[1]))
    return (np.array(best) + 0.5) / mask.shape


def test_points_equal_the_exact_distance_transform():
    rng = np.random.default_rng(0)
    masks = np.zeros((40, 48, 72), bool)
    for mask in masks:
        for _ in range(rng.integers(1, 4)):
            y, x = rng.integers(0, 40), rng.integers(0, 60)
            mask[y : y + rng.integers(1, 30), x : x + rng.integers(1, 40)] = True
        mask &= rng.random(mask.shape) < rng.choice([0.9, 0.99, 1.0])
    expected = np.stack([slow_point(mask) for mask in masks])
    np.testing.assert_allclose(mask_to_point(masks), expected, atol=1e-7)


def test_point_of_a_mask_without_border_is_near_its_mean():
    point = mask_to_point(np.ones((1, 5, 9), bool))
    np.testing.assert_allclose(point, [[2.5 / 5, 4.5 / 9]], rtol=1e-6)


def test_empty_masks_are_named():
    masks = np.ones((3, 4, 4), bool)
    masks[1] = False
    with pytest.raises(ValueError, match=r"masks \[1\] of 3"):
        mask_to_point(masks)
