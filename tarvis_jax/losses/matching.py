"""Which query answers for which target: matching cost and optimal assignment, both inside the compiled step.

Source: DETR (Carion et al., ECCV 2020), with Mask2Former's costs on shared random points; here all masks and all frames
of a clip share the points.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import sample_channels, uniform

_LARGE_COST = 1e6  # stands in for NaN and infinity, so that the search ends; the loss then turns NaN


class Matching(NamedTuple):
    """Matched pairs, in ascending order of query; padding comes last.

    Attributes:
      queries: int32 [..., N], the query of each pair; 0 in padding.
      targets: int32 [..., N], the target of each pair; a permutation of 0..N-1.
      valid: bool [..., N], which pairs are real.
    """

    queries: jax.Array
    targets: jax.Array
    valid: jax.Array


def assign(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """Minimum-cost assignment of one query to each valid target (shortest augmenting paths, Jonker and Volgenant 1987).

    Written for compiled code: a target is inserted by a search that looks at all queries at once, so the number of
    sequential steps is about N times the length of a path, not N * Q as in `optax.assignment.hungarian_algorithm`.

    Args:
      costs: float32 [Q, N], finite where the target is valid. Q >= N.
      valid: bool [N]; costs of invalid targets are never read.

    Returns:
      int32 [N], the query of each target; Q where the target is invalid.
    """
    num_queries, num_targets = costs.shape
    if num_targets > num_queries:
        raise ValueError(f"matching: expected at most {num_queries} targets (one per query), found {num_targets}")
    # Target N is a stand-in for "none"; column Q holds the target that is being inserted.
    rows = jnp.concatenate([costs.T.astype(jnp.float32), jnp.zeros((1, num_queries), jnp.float32)])
    rows = jnp.pad(rows, ((0, 0), (0, 1)), constant_values=jnp.inf)  # [N + 1, Q + 1]
    free = num_targets

    def insert(target, state):
        owner, target_price, query_price = state
        owner = owner.at[num_queries].set(target)

        def searching(search):
            return valid[target] & (owner[search[0]] != free)

        def extend(search):
            query, visited, distance, previous, target_price, query_price = search
            visited = visited.at[query].set(True)
            row = owner[query]
            reduced = rows[row] - target_price[row] - query_price
            closer = ~visited & (reduced < distance)
            distance = jnp.where(closer, reduced, distance)
            previous = jnp.where(closer, query, previous)
            open_distance = jnp.where(visited, jnp.inf, distance)
            nearest = jnp.argmin(open_distance)
            step = open_distance[nearest]
            # every visited query's owner pays `step` more, and the query costs `step` less
            target_price = target_price.at[jnp.where(visited, owner, num_targets + 1)].add(step, mode="drop")
            query_price = jnp.where(visited, query_price - step, query_price)
            distance = jnp.where(visited, distance, distance - step)
            return nearest.astype(jnp.int32), visited, distance, previous, target_price, query_price

        last, _, _, previous, target_price, query_price = jax.lax.while_loop(
            searching,
            extend,
            (
                jnp.int32(num_queries),
                jnp.zeros(num_queries + 1, bool),
                jnp.full(num_queries + 1, jnp.inf, jnp.float32),
                jnp.full(num_queries + 1, num_queries, jnp.int32),
                target_price,
                query_price,
            ),
        )

        def hand_over(pair):
            query, owner = pair
            return previous[query], owner.at[query].set(owner[previous[query]])

        _, owner = jax.lax.while_loop(lambda pair: pair[0] != num_queries, hand_over, (last, owner))
        return owner, target_price, query_price

    owner = jnp.full(num_queries + 1, free, jnp.int32)
    state = (owner, jnp.zeros(num_targets + 1, jnp.float32), jnp.zeros(num_queries + 1, jnp.float32))
    owner = jax.lax.fori_loop(0, num_targets, insert, state)[0][:num_queries]
    owned = owner[None, :] == jnp.arange(num_targets)[:, None]  # [N, Q]
    return jnp.where(owned.any(1), owned.argmax(1), num_queries).astype(jnp.int32)


def match(costs: jax.Array, valid: jax.Array) -> Matching:
    """Pairs queries and targets at minimum total cost.

    Padding does not change the pairs: they are those that `scipy.optimize.linear_sum_assignment` finds on the columns
    of the valid targets alone, in its order. A NaN or infinite cost counts as very expensive here; the caller makes the
    loss NaN (`all_finite`), so that the run stops there and not in the search.

    Args:
      costs: float32 [..., Q, N].
      valid: bool [..., N], which targets are real.

    Raises:
      ValueError: more target slots than queries.
    """
    num_queries, num_targets = costs.shape[-2:]
    batch_shape = costs.shape[:-2]
    costs = jnp.where(jnp.isfinite(costs), costs, _LARGE_COST)
    valid = jnp.broadcast_to(valid, (*batch_shape, num_targets))
    query_of_target = jax.vmap(assign)(
        costs.reshape(-1, num_queries, num_targets), valid.reshape(-1, num_targets)
    ).reshape(valid.shape)
    targets = jnp.argsort(query_of_target, axis=-1).astype(jnp.int32)  # stable: padding keeps its order at the end
    queries = jnp.take_along_axis(query_of_target, targets, axis=-1)
    is_pair = queries < num_queries
    return Matching(jnp.where(is_pair, queries, 0), targets, is_pair)


def all_finite(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """Whether every cost of a valid target is a number: costs [..., Q, N], valid [..., N] -> bool scalar."""
    return jnp.all(jnp.isfinite(costs) | ~valid[..., None, :])


def matching_costs(
    mask_logits: jax.Array,
    class_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    draws: jax.Array,
    config: LossConfig,
) -> jax.Array:
    """Cost of every pair of query and target, on P random points that all masks and frames of a clip share.

    Args:
      mask_logits: [L, B, Q, T, h, w].
      class_logits: [L, B, Q, 1 + K], column 0 = background.
      masks: bool [B, N, T, H, W].
      classes: int32 [B, N], 1..K; 0 in padding.
      draws: keys [L] or uniform numbers [L, B, P, 2], (x, y).
      config: weights and number of points.

    Returns:
      float32 [L, B, Q, N], without gradient: -p(class), mean cross-entropy and dice, weighted.
    """
    mask_logits, class_logits = jax.lax.stop_gradient((mask_logits, class_logits))
    batch, queries, frames, height, width = mask_logits.shape[1:]
    targets = masks.shape[1]
    masks_last = jnp.moveaxis(masks.reshape(batch, targets * frames, *masks.shape[-2:]), 1, -1)  # [B, H, W, N*T]

    def layer_costs(layer):
        mask_logits, class_logits, draw = layer
        points_xy = uniform(draw, (batch, config.num_points, 2))
        labels = sample_channels(masks_last, points_xy).reshape(batch, -1, targets, frames)  # [B, P, N, T]
        logits_last = jnp.moveaxis(mask_logits.reshape(batch, queries * frames, height, width), 1, -1)
        logits = sample_channels(logits_last, points_xy).reshape(batch, -1, queries, frames)  # [B, P, Q, T]
        probs = jax.nn.sigmoid(logits)

        def overlap(x):
            return jnp.einsum("bpqt,bpnt->bqn", x, labels, precision=jax.lax.Precision.HIGHEST)

        # cross-entropy against label y is softplus(x) - x * y, so one product serves both signs
        cross_entropy = jax.nn.softplus(logits).sum((1, 3))[..., None] - overlap(logits)
        cross_entropy = cross_entropy / (config.num_points * frames)
        sizes = probs.sum((1, 3))[..., None] + labels.sum((1, 3))[:, None]
        dice = 1 - (2 * overlap(probs) + 1) / (sizes + 1)
        class_probs = jax.nn.softmax(class_logits.astype(jnp.float32), -1)  # [B, Q, 1 + K]
        class_cost = -jnp.take_along_axis(class_probs, classes[:, None, :], axis=-1)  # [B, Q, N]
        return config.mask_weight * cross_entropy + config.class_weight * class_cost + config.dice_weight * dice

    return jax.lax.map(layer_costs, (mask_logits, class_logits, draws))
