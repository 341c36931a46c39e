"""Which query answers for which target: matching cost and optimal assignment, both inside the compiled step.

Source: DETR (Carion et al., ECCV 2020), with Mask2Former's costs on shared random points; here all masks and all frames
of a clip share the points.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.losses.points import sample_channels, sample_points, uniform
from tarvis_jax.parallel.clips import map_devices

BLOCK_SIZE = 8  # targets whose costs are computed at once

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


class _Path(NamedTuple):
    """The search for the shortest path from a row to a free column; rows are valid targets, columns are queries.

    Attributes:
      end: int32 [], the column at the end of the path while it is turned into pairs; Q while it is looked for.
      nearest_row: int32 [], the row from which paths are extended next.
      distance: float32 [], the length of the path to it.
      distances: float32 [Q], length of the shortest path to each column.
      previous: int32 [Q], the row before each column on that path.
      is_reached: bool [Q], columns to which the shortest path is known.
      place: int32 [Q], place of the other columns in scipy's list of them, which decides ties.
    """

    end: jax.Array
    nearest_row: jax.Array
    distance: jax.Array
    distances: jax.Array
    previous: jax.Array
    is_reached: jax.Array
    place: jax.Array


class _State(NamedTuple):
    """State of `assign`.

    Attributes:
      step: int32 [], steps so far.
      row: int32 [], which row is being assigned; all before it are.
      row_duals: float32 [N].
      column_duals: float32 [Q].
      column_of_row: int32 [N]; Q where the row has none.
      row_of_column: int32 [Q]; -1 where the column is free.
      path: from `row`.
    """

    step: jax.Array
    row: jax.Array
    row_duals: jax.Array
    column_duals: jax.Array
    column_of_row: jax.Array
    row_of_column: jax.Array
    path: _Path


def _select(condition: jax.Array, if_true: _State, if_false: _State) -> _State:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)


def _no_path(row: jax.Array, num_queries: int) -> _Path:
    return _Path(
        end=jnp.int32(num_queries),
        nearest_row=row,
        distance=jnp.float32(0),
        distances=jnp.full(num_queries, jnp.inf, jnp.float32),
        previous=jnp.full(num_queries, -1, jnp.int32),
        is_reached=jnp.zeros(num_queries, bool),
        place=num_queries - 1 - jnp.arange(num_queries, dtype=jnp.int32),
    )


def _extend(costs: jax.Array, state: _State) -> _State:
    """Reaches the nearest column; if it is free, the path ends there and the duals are updated. Costs [N, Q]."""
    num_rows, num_queries = costs.shape
    path = state.path
    lengths = path.distance + costs[path.nearest_row] - state.row_duals[path.nearest_row] - state.column_duals
    is_shorter = ~path.is_reached & (lengths < path.distances)
    distances = jnp.where(is_shorter, lengths, path.distances)
    open_distances = jnp.where(path.is_reached, jnp.inf, distances)
    distance = open_distances.min()
    # Of equally near columns scipy takes the last free one in its list, or else the first one.
    is_free = state.row_of_column < 0
    is_nearest = ~path.is_reached & (open_distances == distance)
    rank = jnp.where(is_free, path.place, -1 - path.place)
    column = jnp.where(is_nearest, rank, -1 - num_queries).argmax().astype(jnp.int32)
    last_place = num_queries - 1 - path.is_reached.sum()
    is_reached = path.is_reached | (jnp.arange(num_queries) == column)
    extended = state._replace(
        path=_Path(
            end=jnp.where(is_free[column], column, path.end),
            nearest_row=jnp.maximum(state.row_of_column[column], 0),
            distance=distance,
            distances=distances,
            previous=jnp.where(is_shorter, path.nearest_row, path.previous),
            is_reached=is_reached,
            place=jnp.where(path.place == last_place, path.place[column], path.place),  # the last one fills the gap
        )
    )
    slack = jnp.where(is_reached, distance - distances, 0)
    of_rows = jnp.take(slack, state.column_of_row, mode="fill", fill_value=0)
    row_duals = state.row_duals + jnp.where(jnp.arange(num_rows) == state.row, distance, of_rows)
    ended = extended._replace(row_duals=row_duals, column_duals=state.column_duals - slack)
    return _select(is_free[column], ended, extended)


def _pair(state: _State) -> _State:
    """Pairs the column at the end of the path with the row before it, whose own column is the next end."""
    end, num_queries = state.path.end, len(state.column_duals)
    row = state.path.previous[end]
    is_done = row == state.row
    next_row = state.row + 1
    state = state._replace(
        row_of_column=jnp.where(jnp.arange(num_queries) == end, row, state.row_of_column),
        column_of_row=jnp.where(jnp.arange(len(state.row_duals)) == row, end, state.column_of_row),
        path=state.path._replace(end=state.column_of_row[row]),
    )
    return _select(is_done, state._replace(row=next_row, path=_no_path(next_row, num_queries)), state)


def assign(costs: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Minimum-cost assignment of one query to each valid target: shortest augmenting paths, one target after another.

    It finds what `scipy.optimize.linear_sum_assignment` finds on the columns of the valid targets, also among equally
    good assignments where float32 is exact. Source: Crouse, "On implementing 2D rectangular assignment algorithms"
    (2016).

    A single loop does all of it: problems that are mapped over do not wait for each other's inner loops, and each turn
    of a loop costs a GPU a read by the host.

    Args:
      costs: float32 [Q, N], finite where the target is valid. Q >= N.
      valid: bool [N]; costs of invalid targets are never read.

    Returns:
      (int32 [N], int32 []): the query of each target, Q where the target is invalid; and the turns of the loop: for n
      valid targets at least n and at most n^2.

    Raises:
      ValueError: more target slots than queries.
    """
    num_queries, num_targets = costs.shape
    if num_targets > num_queries:
        raise ValueError(f"matching: expected at most {num_queries} targets (one per query), found {num_targets}")
    order = jnp.argsort(~valid, stable=True)  # valid targets first
    costs, num_rows = costs.astype(jnp.float32).T[order], valid.sum()

    def step(state: _State) -> _State:
        state = _select(state.path.end == num_queries, _extend(costs, state), state)
        state = _select(state.path.end < num_queries, _pair(state), state)
        return state._replace(step=state.step + 1)

    start = _State(
        step=jnp.int32(0),
        row=jnp.int32(0),
        row_duals=jnp.zeros(num_targets, jnp.float32),
        column_duals=jnp.zeros(num_queries, jnp.float32),
        column_of_row=jnp.full(num_targets, num_queries, jnp.int32),
        row_of_column=jnp.full(num_queries, -1, jnp.int32),
        path=_no_path(jnp.int32(0), num_queries),
    )
    end = jax.lax.while_loop(lambda state: state.row < num_rows, step, start)
    return jnp.zeros(num_targets, jnp.int32).at[order].set(end.column_of_row), end.step


@jax.named_scope("matching")
def match(costs: jax.Array, valid: jax.Array) -> Matching:
    """Pairs queries and targets at minimum total cost.

    Padding does not change the pairs: they are those that `scipy.optimize.linear_sum_assignment` finds on the columns
    of the valid targets alone, in its order. A NaN or infinite cost counts as very expensive here; the caller makes the
    loss NaN (`all_finite`), so that the run stops there and not in the search.

    Args:
      costs: float32 [..., B, Q, N].
      valid: bool [B, N] or [..., B, N], which targets are real.

    Raises:
      ValueError: more target slots than queries.
    """
    num_queries, num_targets = costs.shape[-2:]
    costs = jnp.where(jnp.isfinite(costs), costs, _LARGE_COST)
    valid = jnp.broadcast_to(valid, (*costs.shape[:-2], num_targets))
    clip_axis = valid.ndim - 2
    query_of_target = map_devices(_assign_all, (clip_axis, clip_axis), clip_axis)(costs, valid)
    targets = jnp.argsort(query_of_target, axis=-1).astype(jnp.int32)  # stable: padding keeps its order at the end
    queries = jnp.take_along_axis(query_of_target, targets, axis=-1)
    is_pair = queries < num_queries
    return Matching(jnp.where(is_pair, queries, 0), targets, is_pair)


def _assign_all(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """`assign` of all problems of one device: costs [..., Q, N], valid [..., N] -> int32 [..., N]."""
    queries, _ = jax.vmap(assign)(costs.reshape(-1, *costs.shape[-2:]), valid.reshape(-1, valid.shape[-1]))
    return queries.reshape(valid.shape)


def all_finite(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """Whether every cost of a valid target is a number: costs [..., Q, N], valid [..., N] -> bool scalar."""
    return jnp.all(jnp.isfinite(costs) | ~valid[..., None, :])


@jax.named_scope("matching_costs")
def matching_costs(
    mask_logits: jax.Array,
    class_logits: jax.Array,
    masks: jax.Array,
    classes: jax.Array,
    valid: jax.Array,
    draws: jax.Array,
    config: LossConfig,
) -> jax.Array:
    """Cost of every pair of query and valid target, on P random points that all masks and frames of a clip share.

    Args:
      mask_logits: [L, B, Q, T, h, w].
      class_logits: [L, B, Q, 1 + K], column 0 = background.
      masks: bool [B, N, T, H, W].
      classes: int32 [B, N], 1..K; 0 in padding.
      valid: bool [B, N].
      draws: keys [L, B] or uniform numbers [L, B, P, 2], (x, y).
      config: weights and number of points.

    Returns:
      float32 [L, B, Q, N], without gradient: -p(class), mean cross-entropy and dice, weighted; anything in padding.
    """
    inputs = jax.lax.stop_gradient((mask_logits, class_logits)), masks, classes, valid, draws
    return map_devices(functools.partial(_costs_on_device, config), (1, 0, 0, 0, 1), 1)(*inputs)


def _costs_on_device(config, logits, masks, classes, valid, draws):
    batch, queries, frames, height, width = logits[0].shape[1:]
    num_targets = masks.shape[1]
    order = jnp.argsort(~valid, axis=-1, stable=True)  # valid targets first
    block_size = min(BLOCK_SIZE, num_targets)
    num_blocks = -(-valid.sum(-1).max() // block_size)  # of the clip with the most targets

    def layer_costs(layer):
        (mask_logits, class_logits), draw = layer
        points_xy = uniform(draw, (batch, config.num_points, 2))
        logits_last = jnp.moveaxis(mask_logits.reshape(batch, queries * frames, height, width), 1, -1)
        logits = sample_channels(logits_last, points_xy).reshape(batch, -1, queries, frames)  # [B, P, Q, T]
        probs = jax.nn.sigmoid(logits)
        sums = jax.nn.softplus(logits).sum((1, 3))[..., None], probs.sum((1, 3))[..., None]  # [B, Q, 1]

        def of_block(i, costs):
            # The last block begins earlier where it would not be full: it then computes some costs again.
            targets = jax.lax.dynamic_slice_in_dim(order, i * block_size, block_size, axis=1)  # [B, S]
            block = jnp.take_along_axis(masks, targets[:, :, None, None, None], axis=1)  # [B, S, T, H, W]
            at = jnp.broadcast_to(points_xy[:, None, None], (*block.shape[:3], *points_xy.shape[1:]))
            labels = sample_points(block, at)  # [B, S, T, P]

            def overlap(x):
                return jnp.einsum("bpqt,bntp->bqn", x, labels, precision=jax.lax.Precision.HIGHEST)

            # cross-entropy against label y is softplus(x) - x * y, so one product serves both signs
            cross_entropy = (sums[0] - overlap(logits)) / (config.num_points * frames)
            dice = 1 - (2 * overlap(probs) + 1) / (sums[1] + labels.sum((2, 3))[:, None] + 1)
            new = config.mask_weight * cross_entropy + config.dice_weight * dice
            return jax.vmap(lambda costs, targets, new: costs.at[:, targets].set(new))(costs, targets, new)

        mask_costs = jnp.zeros((batch, queries, num_targets), jnp.float32)
        mask_costs = jax.lax.fori_loop(0, num_blocks, of_block, mask_costs)
        class_probs = jax.nn.softmax(class_logits.astype(jnp.float32), -1)  # [B, Q, 1 + K]
        class_costs = -jnp.take_along_axis(class_probs, classes[:, None, :], axis=-1)  # [B, Q, N]
        return mask_costs + config.class_weight * class_costs

    return jax.lax.map(layer_costs, (logits, draws))
