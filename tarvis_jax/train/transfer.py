"""What crosses to the device: batches in their small form, expanded where the loss needs them.

Masks cross as an id map or as bit planes (`input_pipeline/targets.py`), classes and ignored pixels as one class map of
8 bits. The compiled step takes bit planes, whatever crossed, so that there is one program for both forms. It expands
them for one microbatch at a time: the masks of a whole batch never exist at once.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from input_pipeline.images import VOID
from input_pipeline.targets import num_planes
from tarvis_jax.parallel.mesh import put_batch


def to_devices(batch: Mapping[str, np.ndarray], microbatches: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Moves a batch to the devices, in microbatches, its masks as bit planes.

    Each process and each device decodes what it received by itself: id maps on one host and bit planes on another,
    where masks overlap, make one batch.

    Args:
      batch: the batch contract's arrays [B, ...] (docs/architecture.md); this process's share of them.
      microbatches, mesh: see `put_batch`.
    Returns:
      Arrays [A, B / A, ...]; instead of `id_map` there is `bit_planes` uint8 [A, B / A, P, T, H, W].
    """
    arrays = put_batch(batch, microbatches, mesh)
    if "id_map" in arrays:
        ids, planes = arrays.pop("id_map"), num_planes(batch["classes"].shape[1])
        shape = (*ids.shape[:2], planes, *ids.shape[2:])
        shards = [_planes_of(shard.data, planes) for shard in ids.addressable_shards]
        arrays["bit_planes"] = jax.make_array_from_single_device_arrays(shape, ids.sharding, shards)
    return arrays


@functools.partial(jax.jit, static_argnums=1)
def _planes_of(id_map: jax.Array, planes: int) -> jax.Array:
    """Bit planes uint8 [A, B / A, P, T, H, W] of an id map uint8 [A, B / A, T, H, W]."""
    ids = id_map[:, :, None].astype(jnp.int32) - 1  # slots; -1: none
    own = ids // 8 == jnp.arange(planes).reshape(-1, 1, 1, 1)
    return jnp.where(own, 1 << (ids % 8), 0).astype(jnp.uint8)


def expand(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A microbatch as the losses take it; arrays that have no small form stay as they are.

    Args:
      batch: arrays [B, ...].
    Returns:
      Instead of `bit_planes` uint8 [B, P, T, H, W]: `masks` bool [B, N, T, H, W]. Instead of `class_map` uint8
      [B, T, H, W]: `semantic_map` int32 [B, T, H, W] (0..K-1, 0 where ignored) and `ignore_mask` bool [B, T, H, W].
    """
    batch = dict(batch)
    if "bit_planes" in batch:
        planes = batch.pop("bit_planes")
        bits = planes[:, :, None] >> jnp.arange(8, dtype=jnp.uint8).reshape(-1, 1, 1, 1) & 1  # [B, P, 8, T, H, W]
        masks = bits.astype(bool).reshape(planes.shape[0], -1, *planes.shape[2:])
        batch["masks"] = masks[:, : batch["valid_instances"].shape[1]]
    if "class_map" in batch:
        class_map = batch.pop("class_map")
        batch["ignore_mask"] = class_map == VOID
        batch["semantic_map"] = jnp.where(batch["ignore_mask"], 0, class_map.astype(jnp.int32))
    return batch
