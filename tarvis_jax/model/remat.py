"""Which activations of a block are kept for the backward pass, and which are computed again."""

from collections.abc import Callable

import jax


def rematerialize(function: Callable, remat: str) -> Callable:
    """`function`, which is to be differentiated, with fewer activations kept.

    Keeping the results of matrix products and computing the rest again is not among the settings: it would keep what
    attention computes again by itself to bound its memory, and so need more than "none".

    Args:
      function: a block of the network.
      remat: "none" keeps what the gradient needs; "blocks" keeps the arguments alone and computes all of the block
        again.
    """
    return jax.checkpoint(function) if remat == "blocks" else function
