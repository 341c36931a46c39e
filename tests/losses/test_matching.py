"""Assignment against scipy, on random, padded and degenerate problems; matching costs against slow numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.matching import all_finite, assign, match, matching_costs


@pytest.fixture(scope="module")
def jitted_match():
    return jax.jit(match)


def _check_against_scipy(costs, valid, found):
    """Equal pairs, in scipy's order."""
    for i in range(len(costs)):
        columns = np.flatnonzero(valid[i])
        rows, picked = linear_sum_assignment(costs[i][:, columns])
        count = len(columns)
        assert found.valid[i].tolist() == [True] * count + [False] * (valid.shape[1] - count)
        queries, targets = np.asarray(found.queries[i][:count]), np.asarray(found.targets[i][:count])
        assert sorted(targets) == columns.tolist()
        assert len(set(queries.tolist())) == count and np.all(np.diff(queries) > 0)
        assert sorted(np.asarray(found.targets[i]).tolist()) == list(range(valid.shape[1]))
        np.testing.assert_array_equal(queries, rows)
        np.testing.assert_array_equal(targets, columns[picked])


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_random_costs_give_scipys_pairs(jitted_match, scale):
    rng = np.random.default_rng(0)
    costs = (scale * rng.normal(size=(48, 24, 9))).astype(np.float32)
    valid = np.arange(9) < rng.integers(0, 10, size=(48, 1))
    valid[::5] = valid[::5][:, ::-1]  # padding need not come last
    costs[~np.broadcast_to(valid[:, None], costs.shape)] = 1e5  # padded columns hold anything
    _check_against_scipy(costs, valid, jitted_match(costs, valid))


def test_of_equally_good_pairs_scipys_are_taken(jitted_match):
    rng = np.random.default_rng(1)
    costs = rng.integers(0, 3, size=(48, 24, 9)).astype(np.float32)  # many ties
    costs[0] = 0.0
    costs[1] = np.arange(24)[:, None]  # every target wants the same queries
    costs[2] = np.arange(24)[:, None] * np.arange(9)
    costs[3, 5:] = 1e6  # fewer good queries than targets
    valid = np.ones((48, 9), bool)
    _check_against_scipy(costs, valid, jitted_match(costs, valid))


def test_square_problem():
    rng = np.random.default_rng(2)
    costs = rng.normal(size=(4, 8, 8)).astype(np.float32)
    valid = np.ones((4, 8), bool)
    _check_against_scipy(costs, valid, jax.jit(match)(costs, valid))


def test_padding_takes_no_steps():
    """5 targets in 64 slots: at least a step for each, at most the square; every target wants the same queries."""
    rng = np.random.default_rng(5)
    costs = rng.normal(size=(4, 128, 64)).astype(np.float32) * 0.1
    costs[2:] += rng.normal(size=(128, 1))
    valid = np.zeros((4, 64), bool)
    valid[:, 3:60:12] = True
    queries, steps = jax.jit(jax.vmap(assign))(costs, valid)
    assert ((queries < 128) == valid).all()
    assert np.all((steps >= 5) & (steps <= 25)), steps
    _, steps = jax.jit(jax.vmap(assign))(costs, np.zeros_like(valid))
    assert not steps.any()


def test_costs_that_are_not_numbers(jitted_match):
    rng = np.random.default_rng(3)
    costs = rng.normal(size=(48, 24, 9)).astype(np.float32)
    costs[:, 3] = np.nan
    costs[:, 4] = np.inf
    valid = np.ones((48, 9), bool)
    found = jitted_match(costs, valid)
    assert not np.isin(np.asarray(found.queries), [3, 4]).any()
    assert not all_finite(costs, valid)
    costs[:, 3:5] = 0.0
    costs[:, :, 8] = np.nan  # in padding it does not matter
    valid[:, 8] = False
    assert all_finite(costs, valid)


def test_more_targets_than_queries_is_an_error():
    with pytest.raises(ValueError, match="at most 3 targets.*found 4"):
        match(jnp.zeros((1, 3, 4)), jnp.ones((1, 4), bool))


def test_costs_equal_slow_numpy():
    rng = np.random.default_rng(4)
    num_queries, num_targets, frames, height, width, num_points = 5, 3, 2, 4, 6, 11
    mask_logits = rng.normal(size=(1, 1, num_queries, frames, height, width)).astype(np.float32)
    class_logits = rng.normal(size=(1, 1, num_queries, 4)).astype(np.float32)
    masks = rng.random((1, num_targets, frames, 4 * height, 4 * width)) < 0.4
    classes = np.array([[1, 3, 2]], np.int32)
    # points in the middle of pixels of a map and of a 4 times finer one never need interpolation between both
    columns, rows = rng.integers(0, width, num_points), rng.integers(0, height, num_points)
    points = np.stack([(columns + 0.5) / width, (rows + 0.5) / height], -1).astype(np.float32)
    config = LossConfig(num_points=num_points)
    found = matching_costs(
        mask_logits, class_logits, masks, classes, classes > 0, jnp.asarray(points[None, None]), config
    )
    for query in range(num_queries):
        logits = mask_logits[0, 0, query][:, rows, columns].astype(np.float64).ravel()
        probs = 1 / (1 + np.exp(-logits))
        class_probs = np.exp(class_logits[0, 0, query]) / np.exp(class_logits[0, 0, query]).sum()
        for target in range(num_targets):
            mask = masks[0, target].reshape(frames, height, 4, width, 4)
            labels = mask[:, :, 1:3, :, 1:3].mean((2, 4))[:, rows, columns].ravel()  # center of a 4x4 block
            cross_entropy = -(labels * np.log(probs) + (1 - labels) * np.log(1 - probs)).mean()
            dice = 1 - (2 * (labels * probs).sum() + 1) / (labels.sum() + probs.sum() + 1)
            expected = 5 * cross_entropy + 5 * dice - 2 * class_probs[classes[0, target]]
            assert float(found[0, 0, query, target]) == pytest.approx(expected, rel=1e-5)
