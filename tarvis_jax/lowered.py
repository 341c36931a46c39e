"""Lowered programs, kept from one process to the next: what Python makes of a function before the compiler works.

JAX keeps what the compiler makes (`compiled.keep_between_runs`), but finds it by the lowered program. Tracing and
lowering a training step is Python's work and takes seconds for each of its programs, at every start of a run. Here the
lowered program is kept in the same folder, as `jax.export` serializes it, under a digest of all that it is made from.
"""

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import sys
import sysconfig
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from jax import export

_ROOT = pathlib.Path(__file__).resolve().parents[1]
_PACKAGES = ("tarvis_jax", "kernels")  # whose code programs are made from
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy")
_DIGEST_BYTES = 32


def lower(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], origin: str | None = None
) -> jax.stages.Lowered:
    """`function`, traced and lowered, or as an earlier process has kept it.

    Args:
      function: pure; its results are arrays in dicts, lists and tuples.
      arguments: their shapes and dtypes, in dicts, lists and tuples.
      options: keyword arguments of `jax.jit`.
      origin: in words, all that `function` depends on besides the code of this project, the versions of libraries and
        JAX's settings. None: nothing is kept. Nothing is either where JAX keeps no compiled programs in a folder of
        this machine, and in sessions whose own code is in no file, such as notebooks, or in one that is gone.
    """
    folder = None if origin is None else _folder()
    if folder is None or _code() is None:
        return jax.jit(function, **options).trace(*arguments).lower()
    file = folder / f"lowered-{_digest(function.__name__, arguments, options, origin)}"
    exported = _read(file)
    if exported is None:
        exported = export.export(jax.jit(function, **options))(*arguments)
        _write(file, bytes(exported.serialize()))

    def call(*values: Any) -> Any:
        return exported.call(*values)

    call.__name__ = function.__name__  # names the program in profiles
    # Also when it was made just now: JAX finds the compiled program only if the compiler is given the same.
    return jax.jit(call, **options).lower(*arguments)


def _folder() -> pathlib.Path | None:
    """Where JAX keeps compiled programs, if it does and on a disk."""
    folder = jax.config.jax_compilation_cache_dir
    if not folder or "://" in folder or not jax.config.jax_enable_compilation_cache:
        return None
    return pathlib.Path(folder)


def _digest(name: str, arguments: Any, options: dict[str, Any], origin: str) -> str:
    settings = sorted((key, repr(value)) for key, value in jax.config.values.items() if not key.endswith("_dir"))
    environment = sorted((key, value) for key, value in os.environ.items() if key.startswith(("TARVIS_", "XLA_")))
    parts = [name, jax.tree.flatten(arguments), options, origin, settings, environment, _code(), _versions()]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@functools.cache
def _code() -> str | None:
    """Digest of the source files that a program can be made from; None where they are not all there is.

    They are those of this project and of every module that is loaded and of no library: what a user adds.
    """
    if not getattr(sys.modules["__main__"], "__file__", None):
        return None
    sources = {str(path.relative_to(_ROOT)): path for package in _PACKAGES for path in (_ROOT / package).rglob("*.py")}
    libraries = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and file.endswith(".py") and not os.path.abspath(file).startswith(libraries):
            sources[name] = pathlib.Path(file)
    digest = hashlib.sha256()
    for name, path in sorted(sources.items()):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # nobody can tell what was loaded from it
            return None
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _versions() -> list[str]:
    return [f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES]


def _read(file: pathlib.Path) -> export.Exported | None:
    """What is kept in `file`; None if there is nothing, or not what was written."""
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logging.warning("%s: a kept program cannot be read, it is made anew: %s", file, error)
        return None
    digest, program = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if hashlib.sha256(program).digest() != digest:
        logging.warning("%s: a kept program is damaged, it is made anew", file)
        return None
    return export.deserialize(bytearray(program))


def _write(file: pathlib.Path, program: bytes) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(hashlib.sha256(program).digest() + program)
        part.replace(file)
    except OSError as error:
        logging.warning("%s: a program cannot be kept for later runs: %s", file, error)
        part.unlink(missing_ok=True)
