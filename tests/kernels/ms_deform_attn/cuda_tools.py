"""Tools of the CUDA tests: the emulated library, and what a compiled kernel's machine code holds."""

import collections
import os
import pathlib
import re
import shutil
import site
import subprocess

import jax

from kernels.ms_deform_attn.cuda import build

HERE = pathlib.Path(__file__).parent
USUAL_KERNELS = HERE / "cuda_usual_kernels.cu"


def build_emulation(folder: pathlib.Path) -> pathlib.Path:
    """Compiles the library for the CPU (cuda_emulation.h); undefined behavior traps."""
    path = folder / "emulation.so"
    command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", str(HERE / "cuda_emulation.cc"), "-o", str(path)]
    command += ["-fsanitize=undefined", "-fsanitize-undefined-trap-on-error"]
    command += ["-I", str(HERE), "-I", str(build.FOLDER), "-I", jax.ffi.include_dir()]
    subprocess.run(command, check=True)
    return path


def find_cuobjdump() -> str | None:
    """CUDA's disassembler: on the PATH, beside nvcc, or in the package nvidia-cuda-cuobjdump (or triton).

    It calls nvdisasm, which comes in a package of its own and must lie beside it.
    """
    nvcc = build.find_nvcc()
    folders = [pathlib.Path(nvcc).resolve().parent] if nvcc else []
    for packages in (*site.getsitepackages(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        folders += [*pathlib.Path(packages).glob("nvidia/*/bin"), pathlib.Path(packages, "triton/backends/nvidia/bin")]
    for path in [None, *map(str, folders)]:
        found = shutil.which("cuobjdump", path=path)
        if found and shutil.which("nvdisasm", path=path):
            return found
    return None


def compile_cubin(source: pathlib.Path, architecture: str, cubin: pathlib.Path) -> dict[str, dict[str, int]]:
    """Compiles for one architecture ("sm_90a").

    Returns:
      What ptxas says of each kernel: registers, and bytes of stack, spill_stores and spill_loads.
    """
    command = [build.find_nvcc(), *build.FLAGS, f"-arch={architecture}", "-cubin", "-Xptxas", "-v"]
    command += ["-I", str(build.FOLDER), str(source), "-o", str(cubin)]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.findall(
        r"Function properties for (\S+)\n\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r"\n.*Used (\d+) registers",
        log,
    )
    names = ("stack", "spill_stores", "spill_loads", "registers")
    return {kernel: dict(zip(names, map(int, numbers), strict=True)) for kernel, *numbers in found}


Instruction = collections.namedtuple("Instruction", "address predicate name operands")


def disassemble(cubin: pathlib.Path) -> dict[str, list[Instruction]]:
    """Instructions of each kernel, without padding."""
    text = subprocess.run([find_cuobjdump(), "-sass", str(cubin)], check=True, capture_output=True, text=True).stdout
    kernels, current = {}, None
    for line in text.splitlines():
        if found := re.search(r"Function : (\S+)", line):
            current = kernels.setdefault(found.group(1), [])
        elif found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+)?\s*([A-Z][\w.]*)(.*?);", line):
            address, predicate, name, operands = found.groups()
            if name != "NOP":
                current.append(Instruction(int(address, 16), predicate, name, operands))
    return kernels


def executed(instructions: list[Instruction], loop_trips: int) -> collections.Counter:
    """Names of the instructions that a warp issues, by walking through the code.

    Conditional branches forward are not taken: the compiler places there what is rare (the kernels' slow path for
    weights of zero among it). Branches back are taken until the loop has run `loop_trips` times.
    """
    position = {instruction.address: i for i, instruction in enumerate(instructions)}
    counts, taken, i = collections.Counter(), collections.Counter(), 0
    while sum(counts.values()) < 100_000:
        address, predicate, name, operands = instructions[i]
        counts[name] += 1
        i += 1
        if name == "EXIT" and predicate is None:
            return counts
        if name == "BRA":
            target = int(re.search(r"0x([0-9a-f]+)", operands).group(1), 16)
            is_conditional = predicate is not None or "P" in operands
            if not is_conditional:
                i = position[target]
            elif target < address and taken[address] < loop_trips - 1:
                taken[address] += 1
                i = position[target]
    raise ValueError("the walk through the machine code does not come to an end: its loops have another form")


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "kernels.cubin"
        resources = compile_cubin(USUAL_KERNELS, "sm_90a", cubin)
        for kernel, instructions in disassemble(cubin).items():
            counts = executed(instructions, loop_trips=3)
            print(kernel, sum(counts.values()) / 8, "per item;", len(instructions), "in all;", resources[kernel])
            print("   ", dict(counts.most_common(12)), flush=True)
