"""Object encoder: turns targets given by a mask (VOS) or a point (PET) into queries (paper section 3.3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.attention.rules import Multiset, OnlyKeys
from tarvis_jax.model.attention import MLP, FeedForward, MultiHeadAttention, layer_norm, linear
from tarvis_jax.model.cell_counts import STRIDE, grid_counts, nearest_cell, part_counts
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.position_encoding import sine_2d
from tarvis_jax.model.queries import ObjectQueries

POINT_STRIDES = (32, 16, 8, 4)  # maps that a point reads, in the order of their features


class ObjectEncoderLayer(nnx.Module):
    """Self-attention among all queries, cross-attention to each query's own features, feed-forward; all post-norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        size, heads = config.hidden_size, config.num_heads
        attention = {
            "max_logit_bytes": config.max_logit_bytes,
            "backend": config.attention_backend,
            "rngs": rngs,
            "dtype": dtype,
        }
        self.self_attention = MultiHeadAttention(size, heads, **attention)
        self.self_norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.cross_attention = MultiHeadAttention(size, heads, **attention)
        self.cross_norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.ffn = FeedForward(size, config.object_encoder_ffn_size, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        queries: jax.Array,
        embeddings: jax.Array,
        valid: jax.Array,
        features: jax.Array,
        positions: jax.Array,
        counts: jax.Array,
    ) -> jax.Array:
        """One round.

        Args:
          queries: [B, Q, C].
          embeddings: [B, Q, C].
          valid: bool [B, Q].
          features: [B, S, C], what there is to look at.
          positions: [B, S, C].
          counts: uint8 [B, Q, S], how often each feature is among a query's own; every row has some.

        Returns:
          [B, Q, C].
        """
        x = self.self_attention(queries + embeddings, queries, embeddings, OnlyKeys(valid))
        queries = self.self_norm(queries + x)
        x = self.cross_attention(queries + embeddings, features, positions, Multiset(counts))
        return self.ffn(self.cross_norm(queries + x))


class ObjectEncoder(nnx.Module):
    """Makes background and object queries from masks and points.

    Differs from the reference: it keeps a random subset of at most 2048 (training) or 16384 (inference) pixels for each
    query; here all pixels count.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype = jnp.dtype(config.compute_dtype)
        size = config.hidden_size

        def embedding() -> nnx.Param:
            return nnx.Param(jax.random.normal(rngs.params(), (size,), jnp.float32))

        self.background_embedding = embedding()
        self.mask_embedding = embedding()
        self.point_embedding = embedding()
        self.layers = nnx.List([ObjectEncoderLayer(config, rngs=rngs) for _ in range(config.object_encoder_layers)])
        num_maps = len(POINT_STRIDES)
        self.point_projections = nnx.List([linear(size, size, rngs=rngs, dtype=dtype) for _ in range(num_maps)])
        self.point_mlp = MLP(num_maps * size, size, size, 3, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        pyramid: dict[int, jax.Array],
        *,
        masks: jax.Array,
        points_yx: jax.Array,
        is_point: jax.Array,
        valid_objects: jax.Array,
        point_frames: jax.Array | None = None,
        valid_frames: jax.Array | None = None,
        queries_per_object: int | None = None,
    ) -> ObjectQueries:
        """Encodes objects and the background between them.

        Masks give no gradient to the pyramid unless config.exemplar_gradient; points always do.

        Args:
          pyramid: {stride: [B, T, H/stride, W/stride, C]} for POINT_STRIDES.
          masks: bool [B, N, T, H, W]; ignored for point objects.
          points_yx: [B, N, 2] in 0..1 of the padded image; ignored for mask objects.
          is_point: bool [B, N].
          valid_objects: bool [B, N].
          point_frames: int32 [B, N], frame of each point; None = the first.
          valid_frames: bool [B, T], frames to take mask objects and background from; None = all.
          queries_per_object: q; None = config.num_queries_per_object.

        Returns:
          Queries of the background grid and q of each object. A mask object without a pixel in the valid frames is
          invalid in the result.

        Raises:
          ValueError: when the masks do not have the size of the images.
        """
        features4 = pyramid[STRIDE]
        B, T, h, w, C = features4.shape
        N = valid_objects.shape[1]
        q = self.config.num_queries_per_object if queries_per_object is None else queries_per_object
        expected = (B, N, T, h * STRIDE, w * STRIDE)
        if masks.shape != expected:
            raise ValueError(f"masks: expected shape [B, N, T, H, W] = {expected}, found {masks.shape}")
        point_frames = jnp.zeros((B, N), jnp.int32) if point_frames is None else point_frames
        valid_frames = jnp.ones((B, T), bool) if valid_frames is None else valid_frames
        is_point = is_point & valid_objects

        # Which cells belong to which query, [B, G + N q, T h w].
        is_mask = valid_objects & ~is_point
        masks = masks & is_mask[:, :, None, None, None] & valid_frames[:, None, :, None, None]
        free = valid_frames[:, :, None, None] & ~masks.any(1)
        background_counts = grid_counts(free, self.config.background_grid)
        object_counts = part_counts(masks, q).reshape(B, N * q, T, h, w)
        cell_counts = jnp.concatenate([background_counts, object_counts], axis=1)
        num_queries = cell_counts.shape[1]
        num_background = num_queries - N * q
        cell_counts = cell_counts.reshape(B, num_queries, -1)

        cells = features4.reshape(B, -1, C).astype(self.dtype)
        if not self.config.exemplar_gradient:
            cells = jax.lax.stop_gradient(cells)
        cell_positions = sine_2d(h, w, C, normalize=False).reshape(-1, C).astype(self.dtype)  # [h w, C]

        point_features = sample_points(pyramid, points_yx, point_frames).astype(self.dtype)  # [B, N, 4, C]
        point_keys = jnp.stack([self.point_projections[i](point_features[:, :, i]) for i in range(4)], axis=2)
        rows, columns = nearest_cell(points_yx, h, w)
        point_positions = jnp.repeat(cell_positions[rows * w + columns], 4, axis=1)  # [B, 4 N, C]
        owner = jnp.arange(num_queries)[:, None] == num_background + jnp.repeat(jnp.arange(N), 4) * q
        point_counts = (owner & jnp.repeat(is_point, 4, axis=1)[:, None]).astype(jnp.uint8)

        # What owns nothing (an empty cell of the grid, an unused slot) looks at one zero feature.
        total = cell_counts.sum(-1, keepdims=True, dtype=jnp.int32)  # [B, Q, 1]
        is_empty = (total == 0) & (point_counts == 0).all(-1, keepdims=True)
        zero = jnp.zeros((B, 1, C), self.dtype)
        counts = jnp.concatenate([cell_counts, point_counts, is_empty.astype(jnp.uint8)], axis=-1)
        features = jnp.concatenate([cells, point_keys.reshape(B, -1, C), zero], axis=1)
        tiled = jnp.broadcast_to(cell_positions, (B, T, h * w, C)).reshape(B, -1, C)
        positions = jnp.concatenate([tiled, point_positions, zero], axis=1)

        weighted = jnp.einsum("bqs,bsc->bqc", cell_counts.astype(self.dtype), cells, preferred_element_type=jnp.float32)
        means = (weighted / jnp.maximum(total, 1)).astype(self.dtype)
        point_init = self.point_mlp(point_features.reshape(B, N, -1))
        is_point_slot = jnp.repeat(is_point, q, axis=1)[..., None]  # [B, N q, 1]
        objects = jnp.where(is_point_slot, jnp.repeat(point_init, q, axis=1), means[:, num_background:])
        queries = jnp.concatenate([means[:, :num_background], objects], axis=1)
        embeddings = jnp.concatenate(
            [
                jnp.broadcast_to(self.background_embedding[...], (B, num_background, C)),
                jnp.where(is_point_slot, self.point_embedding[...], self.mask_embedding[...]),
            ],
            axis=1,
        ).astype(self.dtype)

        is_first = jnp.arange(q) == 0
        valid = jnp.where(is_point[..., None], is_first, (is_mask & masks.any((2, 3, 4)))[..., None])  # [B, N, q]
        all_valid = jnp.concatenate([jnp.ones((B, num_background), bool), valid.reshape(B, -1)], axis=1)

        for layer in self.layers:
            run = jax.checkpoint(layer) if self.config.remat else layer
            queries = run(queries, embeddings, all_valid, features, positions, counts)
        return ObjectQueries(
            background=queries[:, :num_background], objects=queries[:, num_background:].reshape(B, N, q, C), valid=valid
        )


def sample_points(pyramid: dict[int, jax.Array], points_yx: jax.Array, point_frames: jax.Array) -> jax.Array:
    """Features of the cells that points lie in, at every stride of POINT_STRIDES.

    Args:
      pyramid: {stride: [B, T, h, w, C]}.
      points_yx: [B, N, 2] in 0..1.
      point_frames: int32 [B, N].

    Returns:
      [B, N, 4, C].
    """
    # Mapped over the batch, not indexed by it: a batch that is split over devices stays where it is.
    take = jax.vmap(lambda features, *index: features[index])

    def at(features: jax.Array) -> jax.Array:
        return take(features, point_frames, *nearest_cell(points_yx, *features.shape[2:4]))

    return jnp.stack([at(pyramid[stride]) for stride in POINT_STRIDES], axis=2)
