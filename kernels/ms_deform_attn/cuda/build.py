"""Builds the CUDA library on first use, into a cache of the user.

    python -m kernels.ms_deform_attn.cuda.build [--arch 90 80]     # builds ahead of time and prints the path

The file's name carries a hash of the sources, the compiler, jaxlib (whose headers describe jax.ffi) and the
architectures: a change of any builds anew, and old files may be deleted at will.

With TARVIS_CUDA_ARCHITECTURES=90 (or 80,90), a machine without a GPU builds too, and can compile programs for one.
"""

import argparse
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence

import jax
import jaxlib

FOLDER = pathlib.Path(__file__).parent
_COMPILED = ("api.cu", "ffi.cc")
_INCLUDED = ("api.h", "msda.cuh", "primitives.cuh")
OLDEST_ARCHITECTURE = 80  # bfloat16
ENVIRONMENT_VARIABLE = "TARVIS_CUDA_ARCHITECTURES"

FLAGS = ("-std=c++17", "-O3")

_logger = logging.getLogger(__name__)


class BuildError(RuntimeError):
    """The library cannot be built here; the message says why."""


def find_nvcc() -> str | None:
    """Path of CUDA's compiler: of $CUDA_HOME, else on the PATH, else where CUDA installs itself."""
    folders = [f"{os.environ['CUDA_HOME']}/bin"] if os.environ.get("CUDA_HOME") else []
    for path in [*folders, None, "/usr/local/cuda/bin"]:
        found = shutil.which("nvcc", path=path)
        if found:
            return found
    return None


@functools.cache
def device_architectures() -> tuple[int, ...]:
    """Compute capabilities of the GPUs at hand, such as (90,), from the driver; empty where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    major_attribute, minor_attribute = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
    found = set()
    for ordinal in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(device), ordinal)
        driver.cuDeviceGetAttribute(ctypes.byref(major), major_attribute, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), minor_attribute, device)
        found.add(10 * major.value + minor.value)
    return tuple(sorted(found))


def target_architectures() -> tuple[int, ...]:
    """Compute capabilities to build for: those of $TARVIS_CUDA_ARCHITECTURES, else of the GPUs at hand.

    Raises:
      ValueError: the variable is no list of numbers.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if not named:
        return device_architectures()
    if not re.fullmatch(r"\d+(,\d+)*", named):
        raise ValueError(f"{ENVIRONMENT_VARIABLE}: expected compute capabilities such as 90 or 80,90, found {named!r}")
    return tuple(sorted({int(number) for number in named.split(",")}))


def why_not() -> str | None:
    """A sentence that says why the library cannot be used here, or None."""
    architectures = target_architectures()
    if not architectures:
        return "no NVIDIA GPU here"
    if architectures[0] < OLDEST_ARCHITECTURE:
        return f"a GPU of compute capability {architectures[0] / 10}, 8.0 needed"
    if find_nvcc() is None:
        return "CUDA's compiler nvcc is neither on the PATH nor in $CUDA_HOME"
    return None


def library_path(architectures: Sequence[int] | None = None) -> pathlib.Path:
    """Path of the library for these compute capabilities (None: `target_architectures`), built if need be.

    Processes that ask at once wait for one of them to build.

    Raises:
      BuildError: no GPU at hand and none named, no compiler, or what the compiler said.
    """
    architectures = tuple(sorted(set(target_architectures() if architectures is None else architectures)))
    if not architectures:
        raise BuildError("ms_deform_attn for CUDA: no NVIDIA GPU here to build for, and no architecture named")
    nvcc = find_nvcc()
    if nvcc is None:
        raise BuildError("ms_deform_attn for CUDA: nvcc is neither on the PATH nor in $CUDA_HOME")
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tarvis_jax"
    path = cache / f"ms_deform_attn_{_key(nvcc, architectures)}.so"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _build(nvcc, architectures, path)
    return path


def _key(nvcc: str, architectures: Sequence[int]) -> str:
    digest = hashlib.sha256()
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    digest.update(repr((version, jaxlib.__version__, tuple(architectures), FLAGS)).encode())
    for name in (*_COMPILED, *_INCLUDED):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()[:16]


def _build(nvcc: str, architectures: Sequence[int], path: pathlib.Path) -> None:
    # Into a file of its own, then renamed: whoever is stopped half way leaves nothing that looks finished.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = pathlib.Path(folder) / path.name
        command = [
            nvcc,
            *FLAGS,
            "-shared",
            "-Xcompiler",
            "-fPIC",
            "-Xlinker",
            "--exclude-libs=ALL",
            "-I",
            jax.ffi.include_dir(),
        ]
        command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
        command += ["-o", str(partial), *(str(FOLDER / name) for name in _COMPILED)]
        _logger.info("ms_deform_attn: building %s", path)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise BuildError(f"ms_deform_attn for CUDA: {' '.join(command)}\n{done.stdout}{done.stderr}")
        partial.rename(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Builds multi-scale deformable attention for CUDA; prints the path.")
    parser.add_argument("--arch", type=int, nargs="+", help="compute capabilities, such as 90")
    print(library_path(parser.parse_args().arch))
