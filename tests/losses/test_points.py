"""Point sampling against torch's grid_sample, and the choice of uncertain points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import (
    PointDraws,
    draw_points,
    sample_channels,
    sample_nearest,
    sample_points,
    uncertain_points,
    uniform,
)


def _points(rng, *batch):
    """Random points with the corners and edges of the map among them."""
    points = rng.random((*batch, 40, 2)).astype(np.float32)
    points[..., :5, :] = [[0, 0], [1, 1], [0, 1], [0.5, 1], [1, 0.25]]
    return points


def _grid_sample(maps, points, mode):
    """torch's result for maps [N, C, h, w] and points [N, P, 2]: [N, C, P]."""
    torch = pytest.importorskip("torch")
    grid = 2 * torch.tensor(points)[:, :, None] - 1
    return torch.nn.functional.grid_sample(torch.tensor(maps), grid, mode=mode, align_corners=False)[..., 0].numpy()


def test_bilinear_equals_torch():
    rng = np.random.default_rng(0)
    maps, points = rng.normal(size=(3, 1, 5, 7)).astype(np.float32), _points(rng, 3)
    found = sample_points(maps[:, 0], points)
    np.testing.assert_allclose(found, _grid_sample(maps, points, "bilinear")[:, 0], rtol=1e-5, atol=1e-6)


def test_channels_share_points():
    rng = np.random.default_rng(1)
    maps, points = rng.normal(size=(3, 4, 5, 7)).astype(np.float32), _points(rng, 3)
    found = sample_channels(np.moveaxis(maps, 1, -1), points)
    expected = np.moveaxis(_grid_sample(maps, points, "bilinear"), 1, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gradient_equals_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(2)
    maps, points = rng.normal(size=(2, 1, 5, 7)).astype(np.float32), _points(rng, 2)
    weights = rng.normal(size=(2, 40)).astype(np.float32)
    ours = jax.grad(lambda m: (sample_points(m, points) * weights).sum())(maps[:, 0])
    theirs = torch.tensor(maps, requires_grad=True)
    grid = 2 * torch.tensor(points)[:, :, None] - 1
    sampled = torch.nn.functional.grid_sample(theirs, grid, align_corners=False)[:, 0, :, 0]
    (sampled * torch.tensor(weights)).sum().backward()
    np.testing.assert_allclose(ours, theirs.grad.numpy()[:, 0], rtol=1e-4, atol=1e-5)


def test_nearest_equals_torch_and_keeps_the_dtype():
    rng = np.random.default_rng(3)
    maps, points = rng.integers(0, 9, size=(3, 1, 5, 7)), rng.random((3, 40, 2)).astype(np.float32)
    found = sample_nearest(jnp.asarray(maps[:, 0], jnp.int32), points)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, _grid_sample(maps.astype(np.float32), points, "nearest")[:, 0])


def test_the_most_uncertain_candidates_are_chosen():
    rng = np.random.default_rng(4)
    config = LossConfig(oversample_ratio=3.0, importance_ratio=0.75)
    draws = PointDraws(
        jnp.asarray(rng.random((2, 24, 2)), jnp.float32), jnp.asarray(rng.random((2, 2, 2)), jnp.float32)
    )
    found = np.asarray(uncertain_points(lambda points: -points[..., 0], (2,), 8, draws, config))
    assert found.shape == (2, 8, 2)
    for i in range(2):
        order = np.argsort(np.asarray(draws.candidates[i, :, 0]))[:6]
        np.testing.assert_array_equal(found[i, :6], np.asarray(draws.candidates[i])[order])
        np.testing.assert_array_equal(found[i, 6:], draws.random[i])


def test_draws_are_keys_or_numbers():
    keys = jax.random.split(jax.random.key(0), 2)
    draws = draw_points(keys, num_layers=3)
    assert draws.candidates.shape == draws.random.shape == (3, 2)
    numbers = [uniform(draw, (2, 50)) for draw in (*draws.candidates, *draws.random)]
    assert len({float(x[i, 0]) for x in numbers for i in range(2)}) == 12
    alone = draw_points(keys[1:], num_layers=3)  # a clip's numbers do not depend on the clips beside it
    np.testing.assert_array_equal(uniform(alone.random[2], (1, 50)), numbers[-1][1:])
    assert all(0 <= float(x.min()) and float(x.max()) < 1 for x in numbers)
    np.testing.assert_array_equal(uniform(numbers[0], (2, 50)), numbers[0])
    with pytest.raises(ValueError, match=r"expected shape \(2, 7\), found \(2, 50\)"):
        uniform(numbers[0], (2, 7))
    with pytest.raises(ValueError, match=r"one for each clip, found \(2,\)"):
        uniform(keys, (3, 7))
