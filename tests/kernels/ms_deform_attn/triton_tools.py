"""From a jitted function to NVIDIA machine code, with no GPU: what Pallas emits, compiled by the `triton` package."""

import collections
import contextlib
import dataclasses
import pathlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import jax
import pytest
from jax.extend.mlir import ir
from jaxlib.triton import dialect

TRITON_VERSION = "3.6.0"


@dataclasses.dataclass(frozen=True)
class MachineCode:
    """Of one kernel.

    Attributes:
      counts: number of instructions by full name (such as LDG.E.128), without those that only fill space.
      registers: per thread.
      spilled_bytes: per thread.
      shared_bytes: per block.
    """

    counts: collections.Counter
    registers: int
    spilled_bytes: int
    shared_bytes: int

    def count(self, pattern: str) -> int:
        """Instructions whose name begins with the regular expression."""
        return sum(number for name, number in self.counts.items() if re.match(pattern, name))


def triton_ir(function: Callable, *shapes: jax.ShapeDtypeStruct) -> tuple[str, int, tuple[int, int, int]]:
    """(Triton IR, warps, grid) of the only Pallas kernel in a function of arrays, lowered for an H200."""
    with compiling_for("NVIDIA H200"):
        lowered = jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",))
    kernels = [op for op in _operations(lowered.compiler_ir().operation) if _is_triton_call(op)]
    [kernel] = kernels
    config = kernel.attributes["mhlo.backend_config"]
    config = {entry.name: entry.attr for entry in config}
    with kernel.context:
        dialect.register_dialect(kernel.context)
        text = ir.Module.parse(config["ir"].value_bytes).operation.get_asm()
    return text, config["num_warps"].value, tuple(config[f"grid_{axis}"].value for axis in "xyz")


def compiling_for(gpu: str) -> contextlib.AbstractContextManager:
    """Pallas lowers for this GPU, by the name that its driver gives it, whether or not there is one."""
    if jax.__version_info__ < (0, 11):  # without a GPU, these lower for what an H200 has: compute capability 9.0
        return contextlib.nullcontext()
    device = jax.sharding.AbstractDevice(device_kind=gpu, num_cores=None, platform="cuda")
    return jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))


def _is_triton_call(operation) -> bool:
    attributes = operation.attributes
    return "call_target_name" in attributes and attributes["call_target_name"].value == "__gpu$xla.gpu.triton"


def _operations(operation) -> Iterator:
    for region in operation.regions:
        for block in region.blocks:
            for op in block.operations:
                yield op.operation
                yield from _operations(op.operation)


def compile_for_h200(source, num_warps: int) -> MachineCode:
    """Machine code, for compute capability 9.0, of Triton IR (text) or of what else `triton.compile` takes.

    Skips the test where the triton package is missing.
    """
    reason = f"needs triton to compile for a GPU (pip install triton=={TRITON_VERSION})"
    triton = pytest.importorskip("triton", reason=reason)
    from triton.backends.compiler import GPUTarget

    tools = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_CACHE_DIR", folder)
        if isinstance(source, str):
            file = pathlib.Path(folder, "kernel.ttir")
            file.write_text(source)
            source = str(file)
        kernel = triton.compile(
            source, target=GPUTarget("cuda", 90, 32), options={"num_warps": num_warps, "num_stages": 1}
        )
        cubin = pathlib.Path(folder, "kernel.cubin")
        cubin.write_bytes(kernel.asm["cubin"])
        command = [tools / "cuobjdump", "-sass", "-res-usage", cubin]
        listing = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse_listing(listing.stdout + listing.stderr)


def parse_listing(listing: str) -> MachineCode:
    """Of what `cuobjdump -sass -res-usage` prints."""
    instruction = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\S*)", re.MULTILINE)
    counts = collections.Counter(name.rstrip(";") for name in instruction.findall(listing))
    for name in [name for name in counts if name.startswith("NOP")]:
        del counts[name]
    assert counts, f"no instructions in:\n{listing[:2000]}"
    registers, stack, shared, local = map(
        int, re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", listing).groups()
    )
    return MachineCode(counts, registers, stack + local, shared)
