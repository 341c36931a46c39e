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
from input_pipeline.targets import may_be_id_map, num_planes
from tarvis_jax.parallel.mesh import make_mesh, put_batch, split_over_devices


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
        arrays["bit_planes"] = jax.make_array_from_single_device_arrays(shape, ids.sharding, _local_planes(ids, planes))
    return arrays


def prepare_transfer(batch: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh) -> None:
    """Compiles what `to_devices` runs for batches of these shapes [A, B / A, ...], if their masks may be an id map."""
    microbatches, size, _, *volume = batch["bit_planes"].shape
    num_slots = batch["classes"].shape[-1]
    if may_be_id_map(num_slots):
        local = microbatches * size // jax.process_count()
        ids, classes = np.zeros((local, *volume), np.uint8), np.zeros((local, num_slots), np.int32)
        to_devices({"id_map": ids, "classes": classes}, microbatches, mesh)


def _local_planes(ids: jax.Array, planes: int) -> list[jax.Array]:
    """The bit planes of the shards of this process, made by one program for all of its devices."""
    shards = ids.addressable_shards
    sharding = split_over_devices(make_mesh([shard.device for shard in shards]))
    shape = (len(shards) * shards[0].data.shape[0], *shards[0].data.shape[1:])
    joined = jax.make_array_from_single_device_arrays(shape, sharding, [shard.data for shard in shards])
    return [shard.data for shard in _planes_of(joined, planes).addressable_shards]


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
