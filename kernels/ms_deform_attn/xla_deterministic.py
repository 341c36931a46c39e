"""Multi-scale deformable attention in plain XLA whose gradients are the same bits in every run, on GPUs too.

Only the gradient of the values is a scatter, whose atomic additions a GPU does in any order. Here the contributions are
sorted by cell and each cell's are summed in that order. Slow: one image and head after the other, it sorts all
4 * L * P contributions of every query.
"""

import jax
import jax.numpy as jnp

from kernels.ms_deform_attn import xla

supports = xla.supports
forward = xla.forward


def backward(value, offsets, scores, reference, level_shapes: xla.LevelShapes, out_grad, *, softmax: bool):
    """See `backends`."""
    return xla.grads(
        value,
        offsets,
        scores,
        reference,
        out_grad,
        level_shapes=level_shapes,
        softmax=softmax,
        chunk=None,
        over_heads=xla.one_by_one,
        add=_sum_by_cell,
    )


def _sum_by_cell(num_cells: int, cell: jax.Array, update: jax.Array, total: None) -> jax.Array:
    """As `xla.add_to_cells` to zeros, in an order that depends on nothing but the cells."""
    order = jnp.argsort(cell, stable=True)
    cell, update = cell[order], update[order]
    is_first = jnp.concatenate([jnp.ones(1, bool), cell[1:] != cell[:-1]])

    def add(left, right):
        starts_left, sum_left = left
        starts_right, sum_right = right
        # A sum starts again at the first contribution to a cell.
        return starts_left | starts_right, jnp.where(starts_right, sum_right, sum_left + sum_right)

    _, sums = jax.lax.associative_scan(add, (is_first[:, None], update))
    cells = jnp.arange(num_cells, dtype=cell.dtype)
    last = jnp.searchsorted(cell, cells, side="right") - 1
    has_any = (last >= 0) & (cell[last] == cells)
    return jnp.where(has_any[:, None], sums[last], 0.0)
