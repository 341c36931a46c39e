"""The same kernels under PyTorch, in place of the CUDA extension that Deformable DETR's descendants build.

`MSDeformAttnFunction.apply` takes the arguments of the function of that name there, so that a reference model runs
with it unchanged. No PyTorch headers are needed: the library gets the addresses of the tensors' data.
"""

import ctypes
import functools

import torch

from kernels.ms_deform_attn.cuda import build

_TYPES = {torch.float32: 0, torch.bfloat16: 1}  # as MsdaType in api.h


class _Call(ctypes.Structure):
    """As MsdaCall in api.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "cells", "queries", "heads", "depth", "num_levels", "points")),
        ("level_shapes", ctypes.POINTER(ctypes.c_int64)),
        *((name, ctypes.c_int32) for name in ("value_type", "offset_type", "score_type", "softmax")),
        *((name, ctypes.c_void_p) for name in ("value", "offsets", "scores", "reference")),
    ]


@functools.cache
def load(path: str | None = None) -> ctypes.CDLL:
    """The library at `path`, or else that for the GPUs at hand."""
    library = ctypes.CDLL(str(path or build.library_path()))
    library.msda_forward.argtypes = [ctypes.POINTER(_Call), *[ctypes.c_void_p] * 2]
    library.msda_backward.argtypes = [ctypes.POINTER(_Call), *[ctypes.c_void_p] * 5]
    for function in (library.msda_forward, library.msda_backward):
        function.restype = ctypes.c_char_p
    return library


def make_call(value, level_shapes, offsets, scores, reference) -> _Call:
    """The arguments of one call, with weights given; its tensors must outlive it.

    Raises:
      ValueError: shapes, dtypes or devices disagree.
    """
    batch, cells, heads, depth = value.shape
    queries, num_levels, points = scores.shape[1], *scores.shape[3:]
    expected = {
        "sampling_locations": (offsets, (batch, queries, heads, num_levels, points, 2)),
        "attention_weights": (scores, (batch, queries, heads, num_levels, points)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape or tensor.device != value.device or tensor.dtype not in _TYPES:
            raise ValueError(
                f"{name}: expected {shape} of {list(_TYPES)} on {value.device}, "
                f"found {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
            )
    if value.dtype not in _TYPES:
        raise ValueError(f"value: expected one of {list(_TYPES)}, found {value.dtype}")
    if len(level_shapes) != num_levels:
        raise ValueError(f"value_spatial_shapes: expected {num_levels} levels, found {level_shapes}")
    flat = [size for shape in level_shapes for size in shape]
    return _Call(
        *(batch, cells, queries, heads, depth, num_levels, points),
        (ctypes.c_int64 * len(flat))(*flat),
        *(_TYPES[tensor.dtype] for tensor in (value, offsets, scores)),
        0,
        *(tensor.data_ptr() for tensor in (value, offsets, scores, reference)),
    )


def run(name: str, device: torch.device, *arguments) -> None:
    """Calls a function of the library on the device's current stream.

    Raises:
      RuntimeError: with the library's message.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            error = getattr(load(), name)(*arguments, torch.cuda.current_stream(device).cuda_stream)
    else:
        error = getattr(load(), name)(*arguments, None)
    if error:
        raise RuntimeError(error.decode())


class MSDeformAttnFunction(torch.autograd.Function):
    """Deformable attention with weights given: value [N, S, M, D], locations [N, Q, M, L, P, 2] -> [N, Q, M * D].

    float32 or bfloat16. Locations are (x, y) normalized to 0..1 over each level; `value_spatial_shapes` [L, 2] holds
    (h, w); the start of each level and `im2col_step` follow from the rest and are not looked at.
    """

    @staticmethod
    def forward(
        ctx, value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights, im2col_step
    ):
        level_shapes = [tuple(shape) for shape in torch.as_tensor(value_spatial_shapes).tolist()]
        value, weights = value.contiguous(), attention_weights.contiguous()
        sizes_wh = torch.tensor([(w, h) for h, w in level_shapes], dtype=torch.float32, device=value.device)
        offsets = sampling_locations.float() * sizes_wh[:, None]  # in pixels, from a reference point at 0
        reference = torch.zeros(weights.shape[1], len(level_shapes), 2, device=value.device)
        out = torch.empty(*weights.shape[:3], value.shape[-1], dtype=value.dtype, device=value.device)
        call = make_call(value, level_shapes, offsets, weights, reference)
        run("msda_forward", value.device, ctypes.byref(call), out.data_ptr())
        ctx.save_for_backward(value, offsets, weights, reference, sizes_wh)
        ctx.level_shapes, ctx.locations_dtype = level_shapes, sampling_locations.dtype
        return out.flatten(2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, out_grad):
        value, offsets, weights, reference, sizes_wh = ctx.saved_tensors
        out_grad = out_grad.contiguous()
        value_grad = torch.empty(value.shape, dtype=torch.float32, device=value.device)  # cleared by the library
        offsets_grad, weights_grad = torch.empty_like(offsets), torch.empty_like(weights)
        call = make_call(value, ctx.level_shapes, offsets, weights, reference)
        grads = (tensor.data_ptr() for tensor in (value_grad, offsets_grad, weights_grad))
        run("msda_backward", value.device, ctypes.byref(call), out_grad.data_ptr(), *grads)
        locations_grad = (offsets_grad * sizes_wh[:, None]).to(ctx.locations_dtype)
        return value_grad.to(value.dtype), None, None, locations_grad, weights_grad, None
