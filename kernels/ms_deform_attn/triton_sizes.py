"""What the two Triton back ends share: limits, and how much work a program and a thread take."""

import jax.numpy as jnp

LevelShapes = tuple[tuple[int, int], ...]

# Samples (levels times points) are unrolled; beyond these the kernels take minutes to compile and spill registers.
MAX_SAMPLES = 64
MAX_HEAD_SIZE = 256

WARP_SIZE = 32
FORWARD_WARPS = 4
# With several warps Triton would hand each query's gradients from warp to warp through shared memory.
BACKWARD_WARPS = 1
# Channels per thread: as many as a load takes in the forward kernel, as an atomic instruction adds in the backward one.
LOAD_BYTES = 16
ATOMIC_CHANNELS = 4


def unsupported(value_dtype, head_size: int, platform: str, level_shapes: LevelShapes, num_points: int) -> str | None:
    """Why the Triton kernels cannot compute this, as a plain sentence, or None where they can."""
    if platform != "cuda":
        return f"it is for NVIDIA GPUs, not for {platform}"
    if jnp.dtype(value_dtype) not in (jnp.float32, jnp.bfloat16):
        return f"values must be float32 or bfloat16, found {jnp.dtype(value_dtype).name}"
    if head_size % 4 or not 4 <= head_size <= MAX_HEAD_SIZE:
        return f"the head size must be a multiple of 4 up to {MAX_HEAD_SIZE}, found {head_size}"
    if len(level_shapes) * num_points > MAX_SAMPLES:
        return f"levels times points must be at most {MAX_SAMPLES}, found {len(level_shapes) * num_points}"
    return None


def block_queries(head_size: int, channels_per_thread: int, num_warps: int) -> int:
    """Queries of a program such that every thread works on one: more would need registers for several."""
    padded = 1 << (head_size - 1).bit_length()
    return max(1, num_warps * WARP_SIZE * channels_per_thread // padded)
