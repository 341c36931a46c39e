"""The CUDA library as a back end of ms_deform_attn, through jax.ffi; see `backends` for the two functions."""

import ctypes
import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from kernels.ms_deform_attn.cuda import build

# As in msda.cuh.
MAX_LEVELS = 16
MAX_POINTS = 128  # levels * points
MAX_HEAD_SIZE = 256

_TARGETS = {"forward": "tarvis_msda_forward", "backward": "tarvis_msda_backward"}

LevelShapes = tuple[tuple[int, int], ...]


def supports(
    value_dtype: jnp.dtype, head_size: int, *, platform: str, level_shapes: LevelShapes, num_points: int
) -> str | None:
    """Why this back end cannot be used, or None."""
    if platform != "cuda":
        return f"it is for NVIDIA GPUs, not for {platform}"
    if jnp.dtype(value_dtype) not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)):
        return f"it takes float32 or bfloat16 values, not {jnp.dtype(value_dtype).name}"
    if head_size % 4 or not 0 < head_size <= MAX_HEAD_SIZE:
        return f"the head size must be a multiple of 4 up to {MAX_HEAD_SIZE}, not {head_size}"
    if len(level_shapes) > MAX_LEVELS or len(level_shapes) * num_points > MAX_POINTS:
        return (
            f"it takes up to {MAX_LEVELS} levels and {MAX_POINTS} points in all, "
            f"not {len(level_shapes)} levels of {num_points} points"
        )
    return build.why_not()


def forward(
    value: jax.Array,
    offsets: jax.Array,
    scores: jax.Array,
    reference: jax.Array,
    level_shapes: LevelShapes,
    *,
    softmax: bool,
) -> jax.Array:
    """See `backends`."""
    _register()
    out = jax.ShapeDtypeStruct((*scores.shape[:3], value.shape[-1]), value.dtype)
    call = jax.ffi.ffi_call(_TARGETS["forward"], out)
    return call(value, offsets, scores, reference, **_attributes(level_shapes, softmax))


def backward(
    value: jax.Array,
    offsets: jax.Array,
    scores: jax.Array,
    reference: jax.Array,
    level_shapes: LevelShapes,
    out_grad: jax.Array,
    *,
    softmax: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """See `backends`. The gradient of the values is summed in float32 and cast once, by whatever XLA fuses it with."""
    _register()
    dtypes = ((value, jnp.float32), (offsets, offsets.dtype), (scores, scores.dtype))
    outs = tuple(jax.ShapeDtypeStruct(array.shape, dtype) for array, dtype in dtypes)
    call = jax.ffi.ffi_call(_TARGETS["backward"], outs)
    grads = call(value, offsets, scores, reference, out_grad, **_attributes(level_shapes, softmax))
    return grads[0].astype(value.dtype), grads[1], grads[2]


def _attributes(level_shapes: LevelShapes, softmax: bool) -> dict[str, object]:
    return {"level_shapes": np.array(level_shapes, np.int64).reshape(-1), "softmax": softmax}


@functools.cache
def _register() -> None:
    """Builds and loads the library and names its handlers to XLA, once per process."""
    register(build.library_path(), platform="CUDA")


def register(library: str | os.PathLike, *, platform: str) -> None:
    """Names the handlers of a built library to XLA for a platform ("CUDA"; the tests' emulation: "cpu")."""
    loaded = ctypes.CDLL(str(pathlib.Path(library)))
    for name, target in _TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(loaded, f"msda_ffi_{name}"))
        jax.ffi.register_ffi_target(target, handler, platform=platform)
