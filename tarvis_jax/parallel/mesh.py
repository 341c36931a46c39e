"""Devices as a mesh, and how batches lie on it.

Two axes, "data" and "fsdp": each (micro)batch is split over both, and what of the state is split (`sharding.py`), over
"fsdp" alone. XLA inserts the gradient sum. Everything that names an axis is in this folder.
"""

import os
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
BATCH_AXES = (DATA_AXIS, FSDP_AXIS)  # over which the clips of a batch are split


def initialize_distributed() -> None:
    """Joins the other processes of a multi-host run; call before anything touches a device.

    On cloud TPUs and under Slurm or Open MPI, JAX finds the coordinator by itself; elsewhere set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. ValueError for a number that is none.
    """
    numbers = {}  # JAX reads the address alone from the environment
    for argument, variable in (("num_processes", "JAX_NUM_PROCESSES"), ("process_id", "JAX_PROCESS_ID")):
        text = os.environ.get(variable)
        if text is not None and not text.isdecimal():
            raise ValueError(f"{variable}: expected a whole number, found {text!r}")
        numbers[argument] = None if text is None else int(text)
    jax.distributed.initialize(**numbers)


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


def put_batch(batch: Mapping[str, np.ndarray], microbatches: int, mesh: Mesh) -> dict[str, jax.Array]:
    """Moves a batch to the devices, split into microbatches.

    Args:
      batch: arrays [B, ...]; in a multi-host run, this process's share of the global batch, which lies there in the
        order of the processes.
      microbatches: A; must divide B.
      mesh: the devices.
    Returns:
      Arrays [A, B / A, ...] with `microbatch_sharding`, and "place", int32: the number of each sample in the global
      batch, which is the same however the batch is split.
    """
    sharding = microbatch_sharding(mesh)
    size = len(next(iter(batch.values())))
    place = np.arange(size, dtype=np.int32) + np.int32(size * jax.process_index())

    def put(array: np.ndarray) -> jax.Array:
        split = array.reshape(microbatches, array.shape[0] // microbatches, *array.shape[1:])
        if jax.process_count() == 1:
            return jax.device_put(split, sharding)
        return jax.make_array_from_process_local_data(sharding, split)

    return {name: put(array) for name, array in (dict(batch) | {"place": place}).items()}
