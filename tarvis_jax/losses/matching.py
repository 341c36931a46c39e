"""Which query answers for which target: matching cost and optimal assignment, both inside the compiled step.

Source: DETR (Carion et al., ECCV 2020), with Mask2Former's costs on shared random points; here all masks and all frames
of a clip share the points.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

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
    """Minimum-cost assignment of one query to each valid target.

    Args:
      costs: float32 [Q, N], finite where the target is valid. Q >= N.
      valid: bool [N]; costs of invalid targets are never read.

    Returns:
      int32 [N], the query of each target; Q where the target is invalid.
    """
    num_queries, num_targets = costs.shape
    if num_targets > num_queries:
        raise ValueError(f"matching: expected at most {num_queries} targets (one per query), found {num_targets}")
    # Padding takes any query that is left, at no cost: it does not change which queries the valid targets get.
    queries, targets = optax.assignment.hungarian_algorithm(jnp.where(valid, costs.astype(jnp.float32), 0.0))
    query_of_target = jnp.zeros(num_targets, jnp.int32).at[targets].set(queries.astype(jnp.int32))
    return jnp.where(valid, query_of_target, num_queries)


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
      draws: keys [L, B] or uniform numbers [L, B, P, 2], (x, y).
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
