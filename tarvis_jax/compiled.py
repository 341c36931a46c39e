"""How programs are compiled that run once and do little."""


def quick_compiler_options(platform: str) -> dict[str, int]:
    """Options for `jax.jit(compiler_options=...)` of a program that runs once, such as the drawing of weights.

    On CPUs, compiling without optimization is several times faster. No other platform has been tried.

    Args:
      platform: JAX's name of what is compiled for, such as "cpu" (`jax.Device.platform`).
    """
    return {"xla_backend_optimization_level": 0} if platform == "cpu" else {}
