"""Flags of XLA that make it compile faster for CPUs; what is computed is the same up to rounding.

Tests compile much and compute little, so they leave out LLVM's optimizations. They keep XLA's own.
"""

import importlib.metadata
from typing import Any

import pytest
from jax._src import compiler

QUICK = "--xla_backend_optimization_level=0"
# Kernels compile in two thirds of the time, and large ones run several times slower. XLA refuses flags that it does not
# know, and this one is about to go: other releases do without.
OLD_EMITTERS = (
    {"xla_cpu_use_fusion_emitters": False} if importlib.metadata.version("jaxlib").startswith("0.10.") else {}
)
QUICK += "".join(f" --{name}={str(value).lower()}" for name, value in OLD_EMITTERS.items())


def compile_quickly(patch: pytest.MonkeyPatch) -> None:
    """From here on, programs for CPUs are compiled with `OLD_EMITTERS`.

    JAX has no public way to give compiler options to all programs of a process.
    """
    options_as_asked = compiler.get_compile_options

    def options(*args: Any, env_options_overrides: dict | None = None, backend: Any = None, **more: Any) -> Any:
        if backend is None or backend.platform == "cpu":
            env_options_overrides = OLD_EMITTERS | (env_options_overrides or {})
        return options_as_asked(*args, env_options_overrides=env_options_overrides, backend=backend, **more)

    if OLD_EMITTERS:
        patch.setattr(compiler, "get_compile_options", options)
