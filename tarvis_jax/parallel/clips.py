"""Work that each device does on its own clips, whatever XLA would make of it."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec

from tarvis_jax.parallel.mesh import BATCH_AXES


def map_devices(function: Callable, in_axes: Any, out_axes: Any) -> Callable:
    """`function` of the clips of one device, run on every device's share of a batch, without communication.

    It is for programs whose work depends on the data: a loop that runs as often as the clips of one device need, and
    gathers of some clips' maps, which XLA would otherwise do on the clips of all devices. Outside of
    `jax.set_mesh`, and where nothing is split, it is `function` itself.

    Args:
      function: arrays -> arrays; what it computes of a clip may not depend on the clips beside it.
      in_axes: for each argument, which axis holds the clips, for all its arrays alike; None = none, all devices get
        the whole.
      out_axes: the same for the result, or a tuple for a tuple.

    Returns:
      A function like `function`. ValueError of JAX if the clips cannot be split evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    kinds = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    axes = tuple(name for name in BATCH_AXES if name in kinds and kinds[name] != AxisType.Manual)
    if all(mesh.shape[name] == 1 for name in axes):
        return function

    def spec(axis: int | None) -> PartitionSpec:
        return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, axes)

    out_specs = tuple(map(spec, out_axes)) if isinstance(out_axes, tuple) else spec(out_axes)
    return jax.shard_map(
        function, in_specs=tuple(map(spec, in_axes)), out_specs=out_specs, axis_names=set(axes), check_vma=False
    )
