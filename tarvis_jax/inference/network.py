"""One clip through the network, as pure functions: `predictor` compiles them, `export` writes them to files.

The features of a clip depend on no task: every dataset and every task decodes the same ones. The backbone and the first
layer of the neck see one frame at a time, so what they make of the frames that two clips share is handed from clip to
clip (`next_clip_features`).
"""

import jax
import jax.numpy as jnp

from tarvis_jax.model.extent import Extent
from tarvis_jax.model.tarvis import TarViS

Pyramid = dict[int, jax.Array]


def clip_features(model: TarViS, images: jax.Array) -> Pyramid:
    """uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor -> {stride: [1, T, H/stride, W/stride, C]}."""
    return model.features(images[None])


def next_clip_features(
    model: TarViS, images: jax.Array, shared: Pyramid, num_shared: jax.Array, extent: Extent
) -> tuple[Pyramid, Pyramid]:
    """As `clip_features`, with the frames that the clip before has, too, going through the backbone once.

    Only frames that are new go through the backbone: L - O at a time, which is once for all clips but the first.

    Args:
      model: the network.
      images: uint8 RGB [L, H, W, 3], L frames of a clip or fewer and then anything.
      shared: frame features [1, O, H/stride, W/stride, C] of the first O of them, O < L.
      num_shared: int32 [], O, or 0 where `shared` is of other frames.
      extent: what of `images` is the clip.

    Returns:
      The clip's pyramid, and the frame features of the last O of the L frames.
    """
    length, num_kept = images.shape[0], shared[4].shape[1]
    step = length - num_kept
    maps = {stride: jnp.pad(x, ((0, 0), (0, step)) + ((0, 0),) * 3) for stride, x in shared.items()}

    def compute(i: jax.Array, maps: Pyramid) -> Pyramid:
        first = jnp.minimum(num_shared + i * step, length - step)
        new = model.frame_features(jax.lax.dynamic_slice_in_dim(images, first, step)[None], extent)
        return {s: jax.lax.dynamic_update_slice_in_dim(x, new[s], first, axis=1) for s, x in maps.items()}

    maps = jax.lax.fori_loop(0, (extent.num_frames - num_shared + step - 1) // step, compute, maps)
    return model.mix_frames(maps, extent), {stride: x[:, step:] for stride, x in maps.items()}


def decode_classes(
    model: TarViS, pyramid: Pyramid, semantic_queries: jax.Array, extent: Extent | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """VIS and VPS.

    Args:
      model: the network.
      pyramid: of `clip_features`.
      semantic_queries: float32 [K, C], one per class of the dataset.
      extent: what of the pyramid is the clip.

    Returns:
      class_logits [Q, 1 + K] (column 0 = background), mask_logits [Q, T, H/4, W/4] and semantic_logits
      [K, T, H/4, W/4], all float32.
    """
    query_set = model.queries.query_set_of_classes(semantic_queries, 1)
    predictions = model.decode(pyramid, query_set, all_layers=False, extent=extent)
    mask_logits = predictions.mask_logits[-1, 0].astype(jnp.float32)
    return (
        predictions.class_logits[-1, 0].astype(jnp.float32),
        mask_logits[query_set.slice("instance")],
        mask_logits[query_set.slice("semantic")],
    )


def decode_objects(
    model: TarViS,
    pyramid: Pyramid,
    masks: jax.Array,
    points_yx: jax.Array,
    point_frames: jax.Array,
    is_point: jax.Array,
    valid_objects: jax.Array,
    valid_frames: jax.Array,
    extent: Extent | None = None,
) -> jax.Array:
    """VOS and PET: mask logits float32 [N, T, H/4, W/4] of the given objects.

    The arguments are those of `ObjectEncoder.__call__` without the batch axis. An object has twice as many queries as
    in training, as in the reference; its logit is the greatest of theirs.
    """
    objects = model.encode_objects(
        pyramid,
        masks=masks[None],
        points_yx=points_yx[None],
        point_frames=point_frames[None],
        is_point=is_point[None],
        valid_objects=valid_objects[None],
        valid_frames=valid_frames[None],
        queries_per_object=2 * model.config.num_queries_per_object,
        extent=extent,
    )
    query_set = model.exemplar_query_set(objects)
    predictions = model.decode(pyramid, query_set, all_layers=False, extent=extent)
    logits = predictions.mask_logits[-1, 0, query_set.slice("vos")].astype(jnp.float32)  # [N q, T, h, w]
    return logits.reshape(masks.shape[0], -1, *logits.shape[1:]).max(axis=1)
