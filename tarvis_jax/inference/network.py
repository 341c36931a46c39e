"""One clip through the network, as pure functions: `predictor` compiles them, `export` writes them to files.

The features of a clip depend on no task: every dataset and every task decodes the same ones.
"""

import jax
import jax.numpy as jnp

from tarvis_jax.model.tarvis import TarViS

Pyramid = dict[int, jax.Array]


def clip_features(model: TarViS, images: jax.Array) -> Pyramid:
    """uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor -> {stride: [1, T, H/stride, W/stride, C]}."""
    return model.features(images[None])


def decode_classes(
    model: TarViS, pyramid: Pyramid, semantic_queries: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """VIS and VPS.

    Args:
      model: the network.
      pyramid: of `clip_features`.
      semantic_queries: float32 [K, C], one per class of the dataset.

    Returns:
      class_logits [Q, 1 + K] (column 0 = background), mask_logits [Q, T, H/4, W/4] and semantic_logits
      [K, T, H/4, W/4], all float32.
    """
    query_set = model.queries.query_set_of_classes(semantic_queries, 1)
    predictions = model.decode(pyramid, query_set, all_layers=False)
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
    )
    query_set = model.exemplar_query_set(objects)
    predictions = model.decode(pyramid, query_set, all_layers=False)
    logits = predictions.mask_logits[-1, 0, query_set.slice("vos")].astype(jnp.float32)  # [N q, T, h, w]
    return logits.reshape(masks.shape[0], -1, *logits.shape[1:]).max(axis=1)
