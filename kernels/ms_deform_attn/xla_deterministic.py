"""Multi-scale deformable attention in plain XLA whose gradients are the same bits in every run, on GPUs too.

Only the gradient of the values is a scatter, whose atomic additions a GPU does in any order. Here the contributions are
sorted by cell and each cell's are summed in that order. Slow: it sorts and stores all contributions of one frame and
head, 4 * P of every query, level by level.
"""

import jax
import jax.numpy as jnp

from kernels.ms_deform_attn import xla

supports = xla.supports
forward = xla.forward


def backward(value, offsets, scores, reference, level_shapes: xla.LevelShapes, out_grad, *, softmax: bool):
    """See `backends`."""
    return xla.backward(
        value, offsets, scores, reference, level_shapes, out_grad, softmax=softmax, scatter=sorted_scatter
    )


def sorted_scatter(num_cells: int, cell: jax.Array, weight: jax.Array, out_grad: jax.Array) -> jax.Array:
    """As `xla.scatter`, in an order that depends on nothing but the cells."""
    frames_and_heads = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (cell, weight, out_grad))
    cell_grads = jax.lax.map(lambda one: _sum_by_cell(num_cells, *one), frames_and_heads)
    return cell_grads.reshape(*cell.shape[:2], *cell_grads.shape[1:])


def _sum_by_cell(num_cells: int, cell: jax.Array, weight: jax.Array, out_grad: jax.Array) -> jax.Array:
    """int32 and float32 [Q, N], float32 [Q, D] -> float32 [num_cells, D]."""
    contributions = (weight[:, :, None] * out_grad[:, None, :]).reshape(-1, out_grad.shape[-1])
    order = jnp.argsort(cell.reshape(-1), stable=True)
    cell, contributions = cell.reshape(-1)[order], contributions[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), cell[1:] != cell[:-1]])

    def add(left, right):
        starts_left, sum_left = left
        starts_right, sum_right = right
        # A sum starts again at the first contribution to a cell.
        return starts_left | starts_right, jnp.where(starts_right, sum_right, sum_left + sum_right)

    _, sums = jax.lax.associative_scan(add, (is_first[:, None], contributions))
    cells = jnp.arange(num_cells, dtype=cell.dtype)
    last = jnp.searchsorted(cell, cells, side="right") - 1
    has_any = (last >= 0) & (cell[last] == cells)
    return jnp.where(has_any[:, None], sums[last], 0.0)
