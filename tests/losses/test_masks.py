"""Losses of blocks of pairs against the same of all slots at once, and what is not computed for padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.instance import draw_instance, instance_loss
from tarvis_jax.losses.masks import BLOCK_SIZE, mask_terms, pair_losses
from tarvis_jax.losses.points import PointDraws, draw_points, of_slots, uniform

L, B, Q, N, T, H, W, P = 2, 3, 7, 5, 2, 4, 6, 8
CONFIG = LossConfig(num_points=P)
WEIGHTS = (5.0, 3.0)


def _inputs(seed: int) -> tuple:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(L, B, Q, T, H, W)).astype(np.float32)
    masks = rng.random((B, N, T, 4 * H, 4 * W)) < 0.4
    queries = np.argsort(rng.random((L, B, Q)))[..., :N].astype(np.int32)
    targets = np.argsort(rng.random((L, B, N))).astype(np.int32)
    draws = PointDraws(
        rng.random((L, B, N, T, 3 * P, 2)).astype(np.float32), rng.random((L, B, N, T, P // 4, 2)).astype(np.float32)
    )
    return logits, masks, queries, targets, draws


def _all_slots(logits, masks, queries, targets, is_pair, draws):
    """The definition: every slot is sampled, and what is no pair counts 0."""
    layers, clips = np.ogrid[:L, :B]
    terms = mask_terms(
        logits[layers[..., None], clips[..., None], queries], masks[clips[..., None], targets], draws, CONFIG
    )
    cross_entropy, dice = (jnp.where(is_pair, x.mean(-1), 0) for x in terms)
    return WEIGHTS[0] * cross_entropy + WEIGHTS[1] * dice, cross_entropy, dice


@pytest.fixture(scope="module")
def both():
    """(losses, gradient) of blocks and of all slots for the same inputs; the slots' totals are weighted."""
    slot_weights = np.random.default_rng(1).random((L, B, N)).astype(np.float32)

    def of(function):
        def weighted(logits, *args):
            losses = function(logits, *args)
            return (losses[0] * slot_weights).sum(), losses

        return jax.jit(jax.value_and_grad(weighted, has_aux=True))

    return of(lambda *args: pair_losses(*args, CONFIG, WEIGHTS)), of(_all_slots)


@pytest.mark.parametrize("num_pairs", [0, 1, BLOCK_SIZE, BLOCK_SIZE + 3, L * B * N])
def test_blocks_equal_all_slots(both, num_pairs):
    logits, masks, queries, targets, draws = _inputs(num_pairs)
    is_pair = np.random.default_rng(num_pairs).permutation(L * B * N).reshape(L, B, N) < num_pairs
    ((_, found), gradient), ((_, expected), expected_gradient) = (
        function(logits, masks, queries, targets, is_pair, draws) for function in both
    )
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert not np.asarray(ours)[~is_pair].any()
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_draws_of_a_slot_depend_on_its_clip_layer_and_place():
    draws = draw_points(jax.random.split(jax.random.key(0), B), L)
    index = tuple(jnp.array(each) for each in ([0, 0, 0, 1], [1, 1, 2, 1], [4, 0, 4, 4]))
    numbers = [uniform(draw, (4, 50)) for draw in of_slots(draws, *index)]
    assert len({float(x[i, 0]) for x in numbers for i in range(4)}) == 8
    again = of_slots(draws, *(each[2:3] for each in index))
    np.testing.assert_array_equal(uniform(again.random, (1, 50))[0], numbers[1][2])


def _shapes(jaxpr) -> list[tuple[int, ...]]:
    """Of everything that is computed, in loops and calls too."""
    found = []
    for equation in jaxpr.eqns:
        found += [variable.aval.shape for variable in equation.outvars]
        for inner in jax.core.jaxprs_in_params(equation.params):
            found += _shapes(inner)
    return found


def test_padding_is_not_sampled():
    """No array has an axis of slots and one of points: all of them are of blocks. The numbers tell axes apart."""
    slots, points = 61, 53
    config = LossConfig(num_points=points)
    shapes = jax.ShapeDtypeStruct
    arguments = (
        shapes((L, B, 64, T, H, W), jnp.float32),
        shapes((L, B, 64, 5), jnp.float32),
        shapes((B, slots, T, 4 * H, 4 * W), bool),
        shapes((B, slots), jnp.int32),
        shapes((B, slots), bool),
    )

    def loss(mask_logits, *others):
        keys = jax.random.split(jax.random.key(0), B)
        return instance_loss(mask_logits, *others, draw_instance(keys, L), config)[0]

    found = _shapes(jax.make_jaxpr(jax.grad(loss))(*arguments).jaxpr)
    numbers_of_points = {points, 3 * points, int(0.75 * points), 4 * points, points - int(0.75 * points)}
    assert any(BLOCK_SIZE in shape and 3 * points in shape for shape in found)
    assert not [shape for shape in found if slots in shape and numbers_of_points & set(shape)]
