"""Clips through the network, as pure functions: `predictor` compiles them, `export` writes them to files.

The features of a clip depend on no task: every dataset and every task decodes the same ones. The backbone and the first
layer of the neck see one frame at a time, so what they make of the frames that two clips share serves both: within a
batch of successive clips, and from one batch to the next (`next_clips_features`).
"""

import jax
import jax.numpy as jnp

from tarvis_jax.model.extent import Extent
from tarvis_jax.model.tarvis import TarViS

Pyramid = dict[int, jax.Array]


def clip_features(model: TarViS, images: jax.Array) -> Pyramid:
    """uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor -> {stride: [1, T, H/stride, W/stride, C]}."""
    return model.features(images[None])


def next_clips_features(
    model: TarViS, images: jax.Array, shared: Pyramid, num_shared: jax.Array, extent: Extent
) -> tuple[Pyramid, Pyramid]:
    """As `clip_features`, of B successive clips, with every frame going through the backbone once.

    Clips have L frames, of which two successive ones share O. Only frames that are new go through the backbone, L - O
    at a time; so it needs memory for as many, whatever B is.

    Args:
      model: the network.
      images: uint8 RGB [O + B (L - O), H, W, 3], the frames of all clips. One clip (B = 1) may have fewer than L
        frames, and then anything.
      shared: frame features [1, O, H/stride, W/stride, C] of the first O frames, O < L.
      num_shared: int32 [], O, or 0 where `shared` is of other frames.
      extent: what of an array of L frames is a clip; all of them if B > 1.

    Returns:
      The pyramids {stride: [B, L, H/stride, W/stride, C]} of the clips, and the frame features of the last O frames.
    """
    length, num_frames, num_kept = len(extent.times), images.shape[0], shared[4].shape[1]
    step = length - num_kept
    maps = {s: jnp.pad(x, ((0, 0), (0, num_frames - num_kept)) + ((0, 0),) * 3) for s, x in shared.items()}

    def compute(i: jax.Array, maps: Pyramid) -> Pyramid:
        first = jnp.minimum(num_shared + i * step, num_frames - step)
        new = model.frame_features(jax.lax.dynamic_slice_in_dim(images, first, step)[None], extent)
        return {s: jax.lax.dynamic_update_slice_in_dim(x, new[s], first, axis=1) for s, x in maps.items()}

    num_used = num_frames - length + extent.num_frames
    maps = jax.lax.fori_loop(0, (num_used - num_shared + step - 1) // step, compute, maps)
    firsts = range(0, num_frames - num_kept, step)
    clips = {s: jnp.concatenate([x[:, first : first + length] for first in firsts]) for s, x in maps.items()}
    return model.mix_frames(clips, extent), {stride: x[:, num_frames - num_kept :] for stride, x in maps.items()}


def decode_classes(
    model: TarViS, pyramid: Pyramid, semantic_queries: jax.Array, extent: Extent | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """VIS and VPS.

    Args:
      model: the network.
      pyramid: of B clips.
      semantic_queries: float32 [K, C], one per class of the dataset.
      extent: what of the pyramid is the clips.

    Returns:
      class_logits [B, Q, 1 + K] (column 0 = background), mask_logits [B, Q, T, H/4, W/4] and semantic_logits
      [B, K, T, H/4, W/4], all float32.
    """
    query_set = model.queries.query_set_of_classes(semantic_queries, len(pyramid[4]))
    predictions = model.decode(pyramid, query_set, all_layers=False, extent=extent)
    mask_logits = predictions.mask_logits[-1].astype(jnp.float32)
    return (
        predictions.class_logits[-1].astype(jnp.float32),
        mask_logits[:, query_set.slice("instance")],
        mask_logits[:, query_set.slice("semantic")],
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
    """VOS and PET: mask logits float32 [N, T, H/4, W/4] of the given objects of one clip.

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
