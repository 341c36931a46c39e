"""What chips can do by their makers' pages, and slices or machines of them that are not here.

Sources of the figures, read in November 2026: Google Cloud's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" (peak
bfloat16 FLOP/s, memory bandwidth, interchip interconnect bandwidth of a chip, all links together), NVIDIA's data sheets
"H100" and "H200" (SXM; dense bfloat16, without sparsity; NVLink, one direction). The memory of TPUs is what libtpu
0.0.51 says that a program may use; that of GPUs is the data sheet's, of which JAX takes three quarters unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
"""

import dataclasses
import re

import jax

from kernels.aot import gpu, tpu


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
      kind: JAX's `device_kind`.
      flops: per second at most, products of bfloat16 with sums in float32.
      memory_bytes: what a program may use.
      bytes_per_second: of its memory.
      link_bytes_per_second: that it can send to other chips of its slice or machine.
    """

    kind: str
    flops: float
    memory_bytes: int
    bytes_per_second: float
    link_bytes_per_second: float


CHIPS = {
    "v4": Chip("TPU v4", 275e12, int(30.75 * 2**30), 1200e9, 300e9),
    "v5e": Chip("TPU v5 lite", 197e12, int(15.75 * 2**30), 819e9, 200e9),
    "v5p": Chip("TPU v5", 459e12, int(95.73 * 2**30), 2765e9, 600e9),
    "v6e": Chip("TPU v6 lite", 918e12, int(31.24 * 2**30), 1600e9, 400e9),
    "h100": Chip("NVIDIA H100 80GB HBM3", 989e12, int(0.75 * 80e9), 3350e9, 450e9),
    "h200": Chip("NVIDIA H200", 989e12, int(0.75 * 141e9), 4800e9, 450e9),
}


def prepare(topology: str) -> None:
    """Sets the environment for compiling for `topology`; call before JAX initializes its back ends."""
    if topology.startswith("v"):
        tpu.prepare()
    else:
        gpu.prepare()


def devices_of(topology: str) -> tuple[Chip, list[jax.Device]]:
    """(chip, devices) of a TPU slice such as "v5e:4x4" or of GPUs of one machine such as "h100:8"; nothing can run.

    `prepare` comes first.

    Raises:
      ValueError: not known here, or what compiles for it is not installed.
    """
    name, _, size = topology.partition(":")
    if name not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
        raise ValueError(
            f"--topology={topology}: expected a TPU slice such as v5e:4x4 or v4:2x2x2, or GPUs of one machine such as "
            f"h100:8; the chips are {', '.join(CHIPS)}"
        )
    chip = CHIPS[name]
    if name.startswith("v"):
        return chip, tpu.topology_devices(topology)
    if "x" in size:
        raise ValueError(f"--topology={topology}: expected a number of GPUs, as in {name}:8")
    try:
        return chip, gpu.devices(int(size), gpu.DESCRIPTIONS[name])
    except RuntimeError as error:
        raise ValueError(f"--topology={topology}: compiling for GPUs that are not here needs {error}") from error


def chip_of(device: jax.Device) -> Chip | None:
    """The row of a device that is here; None for one that the table does not have, such as a CPU."""
    return next((chip for chip in CHIPS.values() if chip.kind == device.device_kind), None)


def memory_of(device: jax.Device) -> int | None:
    """Bytes that programs may use on a device that is here; None where nobody says, as on CPUs."""
    if device.platform == "cpu":
        return None
    chip = chip_of(device)
    return (device.memory_stats() or {}).get("bytes_limit") or (chip and chip.memory_bytes)
