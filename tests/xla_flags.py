"""Flags of XLA that make it compile faster for CPUs; what is computed is the same up to rounding.

Tests compile much and compute little, so they leave out LLVM's optimizations. They keep XLA's own.
"""

import importlib.metadata

QUICK = "--xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    # XLA refuses flags that it does not know, and this one is about to go: other releases do without.
    QUICK += " --xla_cpu_use_fusion_emitters=false"
