"""What can compute multi-scale deformable attention, and which of it does.

A back end is a module with pure functions that are traced inside jit, on arrays that live on one device:

    forward(value, offsets, scores, reference, level_shapes, *, softmax) -> out
    backward(value, offsets, scores, reference, level_shapes, out_grad, *, softmax)
        -> (value_grad, offsets_grad, scores_grad)
    supports(value_dtype, head_size, *, platform, level_shapes, num_points) -> None, or why not as a plain sentence

      value [B, S, M, D] float32 or bfloat16; the levels' cells row by row, one level after the other
      offsets [B, Q, M, L, P, 2], (x, y) in pixels of the level, and scores [B, Q, M, L, P]: float32 or bfloat16
      reference float32 [Q, L, 2], (x, y) normalized to the level
      level_shapes static ((h, w), ...); softmax static: scores are logits (softmax over L * P), or plain weights
      out, out_grad [B, Q, M, D] of the dtype of value; every gradient of the dtype of its input

Locations in pixels are reference * (w, h) - 0.5 + offset. Locations, softmax, weights and sums are float32. A NaN
location makes the output of that query and head NaN, an infinite one samples nothing, and no input whatever reads or
writes out of bounds.

Derivatives, vmap and the split over devices are `operator.py`'s. Modules are imported when chosen: the choice depends
on the platform that is compiled for, not on the machine that compiles.
"""

import dataclasses
import functools
import importlib
import logging
from types import ModuleType

import jax.numpy as jnp

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Backend:
    """A back end that may or may not be usable here.

    Attributes:
      module: path of the module, imported when chosen.
      random_order_on: platforms on which it sums gradients in an order that changes from run to run.
    """

    module: str
    random_order_on: tuple[str, ...] = ()


_GPUS = ("cuda", "rocm")
BACKENDS = {
    "xla": Backend("kernels.ms_deform_attn.xla", _GPUS),
    "xla_deterministic": Backend("kernels.ms_deform_attn.xla_deterministic"),
    "tpu": Backend("kernels.ms_deform_attn.pallas_tpu"),
    "cuda": Backend("kernels.ms_deform_attn.cuda.backend", _GPUS),
    "triton": Backend("kernels.ms_deform_attn.pallas_triton", _GPUS),
}
# In order of preference, by JAX's name of the platform.
PLATFORM_DEFAULTS = {
    "cpu": ("xla",),
    "tpu": ("tpu", "xla"),
    "cuda": ("cuda", "triton", "xla", "xla_deterministic"),
    "rocm": ("xla", "xla_deterministic"),
}


@dataclasses.dataclass(frozen=True)
class Request:
    """A wish for a back end.

    Attributes:
      name: in `BACKENDS`, or None for the platform's default.
      source: who asked for it, in words.
      deterministic: only back ends that give the same bits in every run.
    """

    name: str | None
    source: str
    deterministic: bool


def requested(name: str | None, deterministic: bool) -> Request:
    """The caller's wish: `name`, or the platform's default for None.

    Raises:
      ValueError: nothing has this name.
    """
    if name is not None and name not in BACKENDS:
        raise ValueError(f"unknown back end of ms_deform_attn: {name!r}; known: {sorted(BACKENDS)}")
    return Request(name, "platform default" if name is None else "argument", deterministic)


def choose(
    request: Request,
    platform: str,
    value_dtype: jnp.dtype,
    head_size: int,
    level_shapes: tuple[tuple[int, int], ...],
    num_points: int,
) -> ModuleType:
    """The module to compile for a platform ("cpu", "tpu", "cuda", "rocm"); logs the choice once, with its reason.

    Raises:
      ValueError: the back end asked for cannot compute this here, or none can.
    """
    names = PLATFORM_DEFAULTS[platform] if request.name is None else (request.name,)
    refused = []
    for name in names:
        reason = _why_not(name, request.deterministic, platform, value_dtype, head_size, level_shapes, num_points)
        if reason is None:
            _log_choice(name, platform, "; ".join([request.source, *refused]))
            return importlib.import_module(BACKENDS[name].module)
        refused.append(f"not {name}: {reason}")
    raise ValueError(f"ms_deform_attn on {platform} ({request.source}): {'; '.join(refused)}")


def _why_not(
    name: str, deterministic: bool, platform: str, value_dtype, head_size, level_shapes, num_points
) -> str | None:
    if deterministic and platform in BACKENDS[name].random_order_on:
        return f"it is not deterministic on {platform}"
    try:
        module = importlib.import_module(BACKENDS[name].module)
    except ImportError as error:
        return f"it cannot be imported ({error})"
    return module.supports(value_dtype, head_size, platform=platform, level_shapes=level_shapes, num_points=num_points)


@functools.cache
def _log_choice(name: str, platform: str, reason: str) -> None:
    """One line per choice and process, not one per compilation."""
    _logger.info("ms_deform_attn: back end %s on %s (%s)", name, platform, reason)
