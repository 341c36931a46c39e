"""How many bytes of attention logits (float32) may exist at once: the only place with such numbers."""

from collections.abc import Callable

import jax

MIB = 2**20

# A CPU computes logits that stay in its cache 3 to 4 times as fast as those that do not, and a TPU those that stay in
# VMEM 1.5 times as fast (docs/benchmarks.md). On a GPU each part starts a dozen kernels: few, large parts.
CPU_LOGIT_BYTES = 8 * MIB
TPU_LOGIT_BYTES = 16 * MIB
GPU_LOGIT_BYTES = 128 * MIB


def under_limit(
    function: Callable[..., jax.Array], *args: jax.Array, num_bytes: int, max_bytes: int | None
) -> jax.Array:
    """Calls function(limit, *args) with the limit of the platform that the program is lowered for.

    Args:
      function: computes the same for every limit, in parts if it would need more.
      *args: pytrees of arrays.
      num_bytes: what all logits would take; up to the least limit there is nothing to choose.
      max_bytes: another limit, for every platform; None = the platform's.
    """
    if max_bytes is not None:
        return function(max_bytes, *args)
    if num_bytes <= CPU_LOGIT_BYTES:
        return function(CPU_LOGIT_BYTES, *args)
    return jax.lax.platform_dependent(
        *args,
        cpu=lambda *args: function(CPU_LOGIT_BYTES, *args),
        tpu=lambda *args: function(TPU_LOGIT_BYTES, *args),
        default=lambda *args: function(GPU_LOGIT_BYTES, *args),
    )
