"""Which activations of a block are kept for the backward pass, and which are computed again."""

from collections.abc import Callable

import jax

_PRODUCTS = ("dot_general", "conv_general_dilated", "ms_deform_attn")


def rematerialize(function: Callable, remat: str) -> Callable:
    """`function`, which is to be differentiated, with fewer activations kept.

    Args:
      function: a block of the network.
      remat: "none" keeps what the gradient needs; "products" keeps the results of matrix products, convolutions and
        deformable attention, and computes norms, softmax and activation functions again; "blocks" keeps the arguments
        alone and computes all of the block again.
    """
    if remat == "none":
        return function
    return jax.checkpoint(function, policy=None if remat == "blocks" else _is_product)


def _is_product(primitive: jax.extend.core.Primitive, *_, **__) -> bool:
    return primitive.name in _PRODUCTS
