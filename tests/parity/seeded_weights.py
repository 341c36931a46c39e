"""Weights that anyone can draw again: every tensor of a reference checkpoint, from its name, its shape and a seed.

The parity data was computed with these weights. A tensor does not depend on the others, so a part of a model can be
drawn alone, and two models that share names share weights.
"""

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

_IMAGENET = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)}
_IMAGENET_OF_1 = {"pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225)}  # ConvNeXt: pixels in 0..1
_BACKGROUND_GRID = (4, 4)


def draw(name: str, shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """The float32 tensor `name` of the reference, scaled so that activations of a deep network stay finite."""
    generator = np.random.default_rng([zlib.crc32(name.encode()), seed])
    normal = generator.standard_normal(tuple(shape), dtype=np.float32)
    if name.endswith("running_var"):
        normal = np.abs(normal)
    shift, factor, fan_in = _distribution(name, shape)
    # The last bit depends on where it is rounded: the factor is applied in float32, the fan-in in float64.
    drawn = (np.float32(factor) * normal / np.sqrt(np.float64(fan_in))).astype(np.float32)
    if shift:
        drawn = np.float32(shift) + drawn
    return np.asarray(drawn, np.float32).reshape(tuple(shape))


def _distribution(name: str, shape: Sequence[int]) -> tuple[float, float, int]:
    """(shift, factor, fan-in by whose root is divided) of the normal numbers of a tensor."""
    last = name.rpartition(".")[2]
    if last == "running_var":
        return 1, 0.1, 1
    if last == "running_mean":
        return 0, 0.1, 1
    if "sampling_offsets.bias" in name:
        return 0, 2, 1
    if "sampling_offsets.weight" in name:
        return 0, 0.02, 1
    if len(shape) < 2:
        return (1 if last == "weight" and "norm" in name else 0), 0.05, 1
    if "relative_position_bias_table" in name:
        return 0, 0.2, 1
    if "_queries" in name or "embed" in last:
        return 0, 1, 1
    return 0, 1, math.prod(shape[1:])


def draw_state_dict(manifest: Mapping[str, tuple[Sequence[int], str]], seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor of a reference checkpoint.

    Args:
      manifest: {name: (shape, dtype)}.
      seed: another seed gives other weights; buffers stay.
    """
    is_convnext = any("backbone.norm_layers" in name for name in manifest)
    pixels = _IMAGENET_OF_1 if is_convnext else _IMAGENET
    state_dict = {}
    for name, (shape, dtype) in manifest.items():
        if name in pixels:
            state_dict[name] = np.array(pixels[name], np.float32)
        elif name.endswith("bg_grid_size"):
            state_dict[name] = np.array(_BACKGROUND_GRID, np.int64)
        elif name.endswith("relative_position_index"):
            state_dict[name] = _relative_position_index(math.isqrt(shape[0]))
        elif "float" in dtype or name.endswith("scaling_factors"):
            state_dict[name] = draw(name, shape, seed)
        else:
            state_dict[name] = np.zeros(shape, np.int64)
    return state_dict


def _relative_position_index(window: int) -> np.ndarray:
    """Swin's table row for each pair of the window**2 tokens of a window, int64 [window**2, window**2]."""
    token = np.arange(window**2)
    y, x = token // window, token % window
    rows = y[:, None] - y + window - 1
    columns = x[:, None] - x + window - 1
    return (rows * (2 * window - 1) + columns).astype(np.int64)
