"""The CUDA library as a back end of ms_deform_attn, through jax.ffi; see `backends` for the two functions."""

import ctypes
import functools
import os
import pathlib
from collections.abc import Sequence

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
    """Builds the library, loads it with its kernels and names its handlers to XLA, once per process."""
    register(build.library_path(), platform="CUDA", devices=_devices_of_this_process())


def _devices_of_this_process() -> list[int]:
    """CUDA ordinals of the GPUs that JAX uses here; none where it only compiles for a GPU."""
    try:
        return [device.local_hardware_id for device in jax.local_devices(backend="cuda")]
    except RuntimeError:  # no such platform here
        return []


def register(library: str | os.PathLike, *, platform: str, devices: Sequence[int]) -> None:
    """Names the handlers of a built library to XLA and loads its kernels onto devices.

    XLA records the handlers into CUDA graphs, where a kernel that CUDA has not loaded yet cannot be launched.

    Args:
      library: its path.
      platform: "CUDA"; for the tests' emulation "cpu".
      devices: CUDA ordinals.

    Raises:
      RuntimeError: the kernels cannot be loaded; with CUDA's message.
    """
    loaded = ctypes.CDLL(str(pathlib.Path(library)))
    loaded.msda_load.argtypes, loaded.msda_load.restype = [ctypes.c_int32], ctypes.c_char_p
    for device in devices:
        if error := loaded.msda_load(device):
            raise RuntimeError(error.decode())
    for name, target in _TARGETS.items():
        handler = jax.ffi.pycapsule(getattr(loaded, f"msda_ffi_{name}"))
        jax.ffi.register_ffi_target(target, handler, platform=platform)
