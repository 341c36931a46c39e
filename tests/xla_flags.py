"""Flags of XLA that make it compile faster for CPUs; what is computed is the same up to rounding.

Tests compile much and compute little, so they leave out LLVM's optimizations. They keep XLA's own.
"""

import importlib.metadata

import jax
import pytest

QUICK = "--xla_backend_optimization_level=0"
# Kernels compile in two thirds of the time, and large ones run several times slower. XLA refuses flags that it does not
# know, and this one is about to go: other releases do without.
OLD_EMITTERS = (
    {"xla_cpu_use_fusion_emitters": False} if importlib.metadata.version("jaxlib").startswith("0.10.") else {}
)
QUICK += "".join(f" --{name}={str(value).lower()}" for name, value in OLD_EMITTERS.items())


def compile_quickly(patch: pytest.MonkeyPatch) -> None:
    """From here on, programs that are lowered and then compiled for CPUs take `OLD_EMITTERS`."""
    compile_as_asked = jax.stages.Lowered.compile

    def compile_lowered(
        lowered: jax.stages.Lowered, compiler_options: dict | None = None, **more
    ) -> jax.stages.Compiled:
        return compile_as_asked(lowered, OLD_EMITTERS | (compiler_options or {}), **more)

    patch.setattr(jax.stages.Lowered, "compile", compile_lowered)
