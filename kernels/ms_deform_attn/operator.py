"""The public interface of multi-scale deformable attention: checks, derivatives, vmap and the split over devices.

The operator is that of Deformable DETR (Zhu et al., 2021): every query of every head samples P points on each of L
feature maps, bilinearly (cells outside count as zero; a normalized location of 0 is the left edge of the first cell, 1
the right edge of the last), and sums them with weights that are a softmax over all L * P points.

From the outside in, for every back end alike:

1. `jax.custom_vjp`: saves the inputs and nothing else; the backward pass computes weights and locations again.
2. `jax.custom_batching.custom_vmap`: a vmapped axis becomes part of the batch.
3. `jax.shard_map`: under `jax.set_mesh`, the devices split the batch and exchange nothing.
4. a primitive of our own, which stands for one pass on one device. What computes it is chosen when it is lowered, that
   is when the platform is known: a host without accelerators can compile for any of them.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.extend.core import Primitive
from jax.interpreters import mlir
from jax.sharding import AxisType, PartitionSpec

from kernels.ms_deform_attn import backends

LevelShapes = tuple[tuple[int, int], ...]


def ms_deform_attn(
    value: jax.Array,
    offsets_px: jax.Array,
    logits: jax.Array,
    reference_points: jax.Array,
    level_shapes: Sequence[tuple[int, int]],
    *,
    backend: str | None = None,
    deterministic: bool = False,
) -> jax.Array:
    """Multi-scale deformable attention with softmax and locations computed inside.

    Under a mesh (`jax.set_mesh`), the batch is split over all its devices; B need not be a multiple of their number.

    Args:
      value: [B, S, M, D], float32 or bfloat16; the levels' cells, flattened row by row and concatenated.
      offsets_px: [B, Q, M, L, P, 2], (x, y) from the reference point, in pixels (cells) of the level; float32 or
        bfloat16.
      logits: [B, Q, M, L, P], float32 or bfloat16.
      reference_points: [Q, L, 2] or [Q, 2], (x, y) normalized to the level.
      level_shapes: static (h, w) per level; the cells add up to S.
      backend: a name in `backends.BACKENDS`; None takes the default of the platform that is compiled for.
      deterministic: the same bits in every run. TPUs and CPUs do so anyway; on a GPU it sorts, which is slow.

    Returns:
      [B, Q, M * D] of the dtype of `value`. Locations, softmax and sums are computed in float32.

    Raises:
      ValueError: shapes or dtypes disagree, or the back end is unknown or cannot compute this.
    """
    level_shapes = _checked_level_shapes(level_shapes)
    _check("ms_deform_attn", value, offsets_px, logits, level_shapes, names=("offsets_px", "logits"))
    num_queries, levels = offsets_px.shape[1], offsets_px.shape[3]
    if reference_points.shape not in ((num_queries, 2), (num_queries, levels, 2)):
        raise ValueError(
            f"reference_points: expected shape {(num_queries, levels, 2)} or {(num_queries, 2)}, "
            f"found {reference_points.shape}"
        )
    reference = jnp.asarray(reference_points, jnp.float32).reshape(num_queries, -1, 2)
    reference = jnp.broadcast_to(reference, (num_queries, levels, 2))
    operator = _operator(level_shapes, True, backends.requested(backend, deterministic))
    return _merge_heads(operator(value, offsets_px, logits, reference))


def ms_deform_attn_classic(
    value: jax.Array,
    locations_norm: jax.Array,
    weights: jax.Array,
    level_shapes: Sequence[tuple[int, int]],
    *,
    backend: str | None = None,
    deterministic: bool = False,
) -> jax.Array:
    """The same operator with locations and weights given, as in Deformable DETR's original code.

    Args:
      value: as in `ms_deform_attn`.
      locations_norm: [B, Q, M, L, P, 2], (x, y) normalized to the level, 0..1 (outside samples zeros).
      weights: [B, Q, M, L, P], float32 or bfloat16.
      level_shapes, backend, deterministic: as in `ms_deform_attn`.

    Returns:
      [B, Q, M * D] of the dtype of `value`.

    Raises:
      ValueError: as `ms_deform_attn`.
    """
    level_shapes = _checked_level_shapes(level_shapes)
    names = ("locations_norm", "weights")
    _check("ms_deform_attn_classic", value, locations_norm, weights, level_shapes, names=names)
    offsets_px = locations_norm.astype(jnp.float32) * _sizes_wh(level_shapes)[:, None, :]
    origin = jnp.zeros((offsets_px.shape[1], len(level_shapes), 2), jnp.float32)
    operator = _operator(level_shapes, False, backends.requested(backend, deterministic))
    return _merge_heads(operator(value, offsets_px, weights, origin))


@functools.cache
def _operator(level_shapes: LevelShapes, softmax: bool, request: backends.Request):
    """The differentiable function (value, offsets, scores, reference) -> [B, Q, M, D], as in `backends`."""
    run = functools.partial(_on_batch, level_shapes=level_shapes, softmax=softmax, request=request)
    forward, backward = run("forward"), run("backward")

    @jax.custom_vjp
    def operator(value, offsets, scores, reference):
        return forward(value, offsets, scores, reference)[0]

    def save(*inputs):
        return operator(*inputs), inputs

    def gradients(inputs, out_grad):
        value_grad, offsets_grad, scores_grad = backward(*inputs, out_grad)
        # A location is reference * (w, h) + offset. Compilers drop this line where nothing needs it.
        reference_grad = offsets_grad.sum((0, 2, 4), dtype=jnp.float32) * _sizes_wh(level_shapes)
        return value_grad, offsets_grad, scores_grad, reference_grad

    operator.defvjp(save, gradients)
    return operator


def _on_batch(direction: str, *, level_shapes: LevelShapes, softmax: bool, request: backends.Request):
    """One pass as a function of (value, offsets, scores, reference, [out_grad]) that knows vmap and meshes."""

    def one_device(*arrays):
        return tuple(
            _pass.bind(*arrays, direction=direction, level_shapes=level_shapes, softmax=softmax, request=request)
        )

    @custom_vmap
    def run(*arrays):
        return _split_over_mesh(one_device, arrays)

    @run.def_vmap
    def vmapped(size, is_batched, *arrays):
        value, offsets, scores, reference, *out_grad = arrays
        offsets_dtype = offsets.dtype
        if is_batched[3]:
            # The table has no batch axis: what differs moves into the offsets.
            # [size, Q, L, 2] -> [size, B, Q, M, L, P, 2]
            shift = (reference * _sizes_wh(level_shapes))[:, None, :, None, :, None]
            offsets = shift + (offsets if is_batched[1] else offsets[None]).astype(jnp.float32)
            is_batched = [*is_batched[:1], True, *is_batched[2:]]
            reference = jnp.zeros_like(reference[0])

        def fold(array, batched):
            array = array if batched else jnp.broadcast_to(array, (size, *array.shape))
            return array.reshape(-1, *array.shape[2:])

        value, offsets, scores, *out_grad = map(
            fold, (value, offsets, scores, *out_grad), [*is_batched[:3], *is_batched[4:]]
        )
        outputs = run(value, offsets, scores, reference, *out_grad)
        outputs = tuple(output.reshape(size, -1, *output.shape[1:]) for output in outputs)
        if direction == "backward":
            outputs = outputs[0], outputs[1].astype(offsets_dtype), outputs[2]
        return outputs, (True,) * len(outputs)

    return run


def _split_over_mesh(function, arrays):
    """Calls `function` on every device's share of the batch, or as it is where no mesh is set.

    The batch is padded to a multiple of the number of devices. Only the reference table (argument 3) has no batch axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(name for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True) if kind != AxisType.Manual)
    num_devices = int(np.prod([mesh.shape[name] for name in axes]))
    if num_devices == 1:
        return function(*arrays)
    batch = arrays[0].shape[0]
    padding = -batch % num_devices
    if padding:
        arrays = [
            array if index == 3 else jnp.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))
            for index, array in enumerate(arrays)
        ]
    split = PartitionSpec(axes)
    outputs = jax.shard_map(
        function,
        in_specs=tuple(PartitionSpec() if index == 3 else split for index in range(len(arrays))),
        out_specs=split,
        axis_names=set(axes),
        check_vma=False,  # the back ends' kernels do not say over which devices their outputs vary
    )(*arrays)
    return tuple(output[:batch] for output in outputs)


_pass = Primitive("ms_deform_attn")
_pass.multiple_results = True


@_pass.def_abstract_eval
def _pass_shapes(value, offsets, scores, reference, *out_grad, direction, **_):
    if direction == "forward":
        batch, num_queries, heads = offsets.shape[:3]
        return [value.update(shape=(batch, num_queries, heads, value.shape[-1]))]
    return [value, offsets, scores]


@_pass.def_impl
def _pass_eagerly(*arrays, **params):
    return _jitted_pass(**params)(*arrays)


@functools.cache
def _jitted_pass(**params):
    return jax.jit(functools.partial(_pass.bind, **params))


def _lower_pass(context, *arrays, platform, direction, level_shapes, softmax, request):
    value, offsets = context.avals_in[:2]
    module = backends.choose(request, platform, value.dtype, value.shape[-1], level_shapes, offsets.shape[-2])
    function = _traceable(module, direction, level_shapes, softmax)
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


@functools.cache
def _traceable(module, direction: str, level_shapes: LevelShapes, softmax: bool):
    """Jitted and cached: the layers of a network share one trace."""

    def ms_deform_attn_forward(*arrays):
        return [module.forward(*arrays, level_shapes, softmax=softmax)]

    def ms_deform_attn_backward(value, offsets, scores, reference, out_grad):
        return list(module.backward(value, offsets, scores, reference, level_shapes, out_grad, softmax=softmax))

    return jax.jit({"forward": ms_deform_attn_forward, "backward": ms_deform_attn_backward}[direction])


for _platform in backends.PLATFORM_DEFAULTS:
    mlir.register_lowering(_pass, functools.partial(_lower_pass, platform=_platform), platform=_platform)


def _merge_heads(out: jax.Array) -> jax.Array:
    return out.reshape(*out.shape[:2], -1)


def _sizes_wh(level_shapes: LevelShapes) -> np.ndarray:
    """float32 [L, 2]: (w, h) of each level."""
    return np.array([(width, height) for height, width in level_shapes], np.float32)


def _checked_level_shapes(level_shapes: Sequence[tuple[int, int]]) -> LevelShapes:
    shapes = tuple((int(height), int(width)) for height, width in level_shapes)
    if not shapes or min(min(shape) for shape in shapes) < 1:
        raise ValueError(f"level_shapes: expected at least one (h, w) of positive sizes, found {level_shapes}")
    return shapes


def _check(function: str, value, locations, weights, level_shapes, *, names: tuple[str, str]) -> None:
    """Raises one ValueError that names every array whose shape or dtype does not fit."""
    errors = []
    if locations.ndim != 6 or locations.shape[3] != len(level_shapes) or locations.shape[5] != 2:
        errors.append(f"{names[0]}: expected [B, Q, M, {len(level_shapes)}, P, 2], found {locations.shape}")
    if locations.ndim == 6:
        batch, _, heads = locations.shape[:3]
        num_cells = sum(height * width for height, width in level_shapes)
        if value.ndim != 4 or value.shape[:3] != (batch, num_cells, heads):
            errors.append(f"value: expected [{batch}, {num_cells}, {heads}, D], found {value.shape}")
        if weights.shape != locations.shape[:-1]:
            errors.append(f"{names[1]}: expected {locations.shape[:-1]}, found {weights.shape}")
        if 0 in (*value.shape, *locations.shape):
            errors.append(f"expected no empty array, found value {value.shape} and {names[0]} {locations.shape}")
    for name, array in (("value", value), (names[0], locations), (names[1], weights)):
        if array.dtype not in (jnp.float32, jnp.bfloat16):
            errors.append(f"{name}: expected float32 or bfloat16, found {array.dtype}")
    if errors:
        raise ValueError(f"{function} with levels {level_shapes}: " + "; ".join(errors))
