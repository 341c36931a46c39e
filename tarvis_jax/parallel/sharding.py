"""Which arrays of a training are split over the axis "fsdp": rules from an array's path and shape."""

import math
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tarvis_jax.parallel.mesh import FSDP_AXIS

# What `train.shard` splits: the first component of an array's path, in the state or beside it.
_SPLIT = {
    "none": (),
    "optimizer": ("opt_state", "ema", "grads"),
    "parameters": ("opt_state", "ema", "grads", "params"),
}
_SMALLEST = 2**14  # elements; splitting fewer saves no memory worth an exchange


def partition_spec(path: str, shape: tuple[int, ...], shard: str, fsdp_devices: int) -> PartitionSpec:
    """How one array lies on a mesh whose axis "fsdp" has `fsdp_devices` devices.

    Args:
      path: slash-separated; begins with "params", "frozen", "opt_state", "ema", "step", "is_healthy" (fields of
        `TrainState`) or "grads".
      shape: of the whole array.
      shard: "none", "optimizer" (the optimizer's state, the moving average and the gradients are split) or
        "parameters" (the parameters, too).
      fsdp_devices: at least 1.
    Returns:
      The largest of the dimensions that the devices divide is split, the last among equals; an array that has none, or
      fewer than 16 384 elements, lies whole on every device.
    """
    if fsdp_devices == 1 or path.split("/")[0] not in _SPLIT[shard] or math.prod(shape) < _SMALLEST:
        return PartitionSpec()
    divisible = [(size, axis) for axis, size in enumerate(shape) if size % fsdp_devices == 0]
    if not divisible:
        return PartitionSpec()
    _, axis = max(divisible)
    return PartitionSpec(*[None] * axis, FSDP_AXIS)


def shardings_of(tree: Any, shard: str, mesh: Mesh, prefix: str = "") -> Any:
    """A tree of NamedShardings by `partition_spec` for a tree of arrays or shapes, whose paths begin with `prefix`."""

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        name = "/".join(filter(None, (prefix, jax.tree_util.keystr(path, simple=True, separator="/"))))
        return NamedSharding(mesh, partition_spec(name, leaf.shape, shard, mesh.shape[FSDP_AXIS]))

    return jax.tree_util.tree_map_with_path(sharding, tree)


GATHERED = "gathered"  # what `gather` calls its results, for policies of `jax.checkpoint`


def gather(arrays: dict[str, jax.Array], shardings: dict[str, NamedSharding]) -> dict[str, jax.Array]:
    """Whole arrays on every device of arrays that lie by `shardings`; their gradients are summed where they lie.

    For use inside of a compiled function.
    """

    def gather_one(array: jax.Array, sharding: NamedSharding) -> jax.Array:
        if sharding.is_fully_replicated:
            return array
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        run = jax.custom_vjp(lambda array: jax.lax.with_sharding_constraint(array, whole))
        run.defvjp(
            lambda array: (jax.lax.with_sharding_constraint(array, whole), None),
            lambda _, gradient: (jax.lax.with_sharding_constraint(gradient, sharding),),
        )
        return checkpoint_name(run(array), GATHERED)

    return {name: gather_one(array, shardings[name]) for name, array in arrays.items()}
