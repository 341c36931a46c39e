"""Devices as a mesh, and how batches lie on it.

Two axes, "data" and "fsdp": each (micro)batch is split over both, and what of the state is split (`sharding.py`), over
"fsdp" alone. XLA inserts the gradient sum. Everything that names an axis is in this folder.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)  # over which the clips of a batch are split


def make_mesh(devices: Sequence[jax.Device] | None = None, fsdp_devices: int = 1) -> Mesh:
    """A mesh (data, fsdp) over all devices of all processes (or over `devices`), in their order.

    So the devices of an fsdp group, which exchange the most, are of one process where it has enough of them.

    Args:
      devices: of the mesh.
      fsdp_devices: size of the axis "fsdp"; 0: all devices.
    Raises:
      ValueError: `fsdp_devices` does not divide the number of devices.
    """
    devices = np.asarray(jax.devices() if devices is None else devices)
    fsdp_devices = fsdp_devices or devices.size
    if devices.size % fsdp_devices:
        raise ValueError(
            f"train.fsdp_devices: {devices.size} devices cannot be grouped by {fsdp_devices}; "
            f"expected a divisor of {devices.size}, or 0 for all of them"
        )
    return Mesh(devices.reshape(-1, fsdp_devices), BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def microbatch_sharding(mesh: Mesh) -> NamedSharding:
    """For arrays [A, B, ...]: A microbatches, one after the other; the B samples of each are split over devices."""
    return NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))


def split_over_devices(mesh: Mesh) -> NamedSharding:
    """For arrays [number of devices, ...]: one row on each."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def num_microbatches(batch_size: int, max_samples_per_device: int, mesh: Mesh) -> int:
    """How many microbatches a global batch needs so that no device holds more than `max_samples_per_device` samples.

    Raises:
      ValueError: the batch cannot be split evenly over the devices.
    """
    num_devices = mesh.size
    if batch_size % num_devices:
        largest = max(number for number in range(1, num_devices) if batch_size % number == 0)
        raise ValueError(
            f"data.batch_size: {batch_size} samples cannot be split evenly over {num_devices} devices; use {largest} "
            f"of them, or a multiple of {num_devices} samples (docs/multihost.md, More chips than clips)"
        )
    per_device = batch_size // num_devices
    if max_samples_per_device <= 0:
        return 1
    for count in range(1, per_device + 1):
        if per_device % count == 0 and per_device // count <= max_samples_per_device:
            return count
    raise AssertionError("unreachable: one sample per device and microbatch always fits")


def put(value: np.ndarray | jax.Array, dtype: np.dtype, sharding: NamedSharding) -> jax.Array:
    """Places a value that every process has whole; an array that already lies on the devices of all stays there."""
    if isinstance(value, jax.Array) and not (value.is_fully_addressable or value.is_fully_replicated):
        return jnp.array(jax.device_put(value, sharding), dtype, copy=True)
    value = np.asarray(value, dtype)
    # Unlike `jax.device_put`, this does not compare the values of all processes, which would be a message for each.
    return jax.make_array_from_callback(value.shape, sharding, value.__getitem__)


def samples_of_process(batch_size: int, microbatches: int, mesh: Mesh) -> list[int]:
    """Which samples of each global batch this process loads: those that its devices hold.

    Microbatch a holds samples a * B / A up to (a + 1) * B / A, however many processes there are.

    Args:
      batch_size: B, of the global batch.
      microbatches: A; must divide B.
      mesh: the devices.
    Returns:
      Numbers 0..B-1, ascending.
    """
    size = batch_size // microbatches
    shares = microbatch_sharding(mesh).addressable_devices_indices_map((microbatches, size))
    columns = sorted({column for _, share in shares.values() for column in range(size)[share]})
    return [a * size + column for a in range(microbatches) for column in columns]


def put_batch(batch: Mapping[str, np.ndarray], microbatches: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Moves a batch to the devices, split into microbatches.

    Args:
      batch: arrays [B, ...]; in a run of several processes, the samples that `samples_of_process` says.
      microbatches: A; must divide B.
      mesh: the devices.
    Returns:
      Arrays [A, B / A, ...] with `microbatch_sharding`, and "place", int32: the number of each sample in the global
      batch, which is the same however the batch is split.
    """
    sharding = microbatch_sharding(mesh)
    batch_size = len(next(iter(batch.values()))) * jax.process_count()
    place = np.array(samples_of_process(batch_size, microbatches, mesh), np.int32)

    def put(array: np.ndarray) -> jax.Array:
        split = array.reshape(microbatches, array.shape[0] // microbatches, *array.shape[1:])
        if jax.process_count() == 1:
            return jax.device_put(split, sharding)
        shape = (microbatches, batch_size // microbatches, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, split, shape)

    return {name: put(array) for name, array in (dict(batch) | {"place": place}).items()}
