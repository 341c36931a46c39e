"""Object encoder: turns targets given by a mask (VOS) or a point (PET) into queries (paper section 3.3)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from kernels.attention.biases import KeyCountBias, KeyPaddingBias
from tarvis_jax.model.attention import MLP, FeedForward, MultiHeadAttention, layer_norm, linear
from tarvis_jax.model.cell_counts import STRIDE, grid_counts, nearest_cell, part_counts
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.position_encoding import sine_2d
from tarvis_jax.model.queries import ObjectQueries
from tarvis_jax.model.remat import rematerialize

POINT_STRIDES = (32, 16, 8, 4)  # maps that a point reads, in the order of their features


class Keys(NamedTuple):
    """What queries look at: features [B, S, C], positions [B, S, C]; counts uint8 [B, Q, S], how often by each."""

    features: jax.Array
    positions: jax.Array
    counts: jax.Array


class ObjectEncoderLayer(nnx.Module):
    """Self-attention among all queries, cross-attention to each query's own features, feed-forward; all post-norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        size = config.hidden_size
        self.self_attention = MultiHeadAttention.of_config(config, rngs=rngs)
        self.self_norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.cross_attention = MultiHeadAttention.of_config(config, rngs=rngs)
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
        x = self.self_attention(queries + embeddings, queries, embeddings, KeyPaddingBias(valid))
        queries = self.self_norm(queries + x)
        x = self.cross_attention(queries + embeddings, features, positions, KeyCountBias(counts))
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
        extent: Extent | None = None,
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
          extent: what of the pyramid is the clips. Masks are false and points are not outside of it.

        Returns:
          Queries of the background grid and q of each object. A mask object without a pixel in the valid frames is
          invalid in the result.

        Raises:
          ValueError: when the masks do not have the size of the images.
        """
        B, T, h, w, C = pyramid[STRIDE].shape
        N = valid_objects.shape[1]
        q = self.config.num_queries_per_object if queries_per_object is None else queries_per_object
        expected = (B, N, T, h * STRIDE, w * STRIDE)
        if masks.shape != expected:
            raise ValueError(f"masks: expected shape [B, N, T, H, W] = {expected}, found {masks.shape}")
        point_frames = jnp.zeros((B, N), jnp.int32) if point_frames is None else point_frames
        valid_frames = jnp.ones((B, T), bool) if valid_frames is None else valid_frames
        is_point = is_point & valid_objects
        is_mask = valid_objects & ~is_point
        masks = masks & is_mask[:, :, None, None, None] & valid_frames[:, None, :, None, None]

        if extent is not None:
            valid_frames = valid_frames & extent.frames_inside(T)
        cell_counts = cells_of_queries(masks, valid_frames, self.config.background_grid, q, extent)
        cells = self._cells(pyramid[STRIDE])
        point_features = sample_points(pyramid, points_yx, point_frames).astype(self.dtype)
        keys = self._keys(cells, cell_counts, point_features, points_yx, is_point, q, (h, w))
        queries, embeddings = self._initial_queries(cells, cell_counts, point_features, is_point, q)
        valid = valid_object_queries(masks, is_point, q)
        num_background = cell_counts.shape[1] - N * q
        all_valid = jnp.concatenate([jnp.ones((B, num_background), bool), valid.reshape(B, -1)], axis=1)

        for layer in self.layers:
            run = rematerialize(layer, self.config.remat)
            queries = run(queries, embeddings, all_valid, *keys)
        return ObjectQueries(
            background=queries[:, :num_background], objects=queries[:, num_background:].reshape(B, N, q, C), valid=valid
        )

    def _cells(self, features: jax.Array) -> jax.Array:
        """Features [B, T, h, w, C] of the stride-4 map as keys [B, T h w, C], without gradient unless configured."""
        cells = features.reshape(features.shape[0], -1, features.shape[-1]).astype(self.dtype)
        return cells if self.config.exemplar_gradient else jax.lax.stop_gradient(cells)

    def _keys(
        self,
        cells: jax.Array,
        cell_counts: jax.Array,
        point_features: jax.Array,
        points_yx: jax.Array,
        is_point: jax.Array,
        queries_per_object: int,
        size: tuple[int, int],
    ) -> Keys:
        """All that the queries look at: the cells of the stride-4 map, four keys of each point, and one zero.

        Args:
          cells: [B, T h w, C].
          cell_counts: uint8 [B, Q, T h w], see `cells_of_queries`.
          point_features: [B, N, 4, C], see `sample_points`.
          points_yx: [B, N, 2] in 0..1.
          is_point: bool [B, N].
          queries_per_object: q.
          size: (h, w) of the stride-4 map.
        """
        B, N, num_maps, C = point_features.shape
        (h, w), num_frames = size, cells.shape[1] // (size[0] * size[1])
        cell_positions = sine_2d(h, w, C, normalize=False).reshape(-1, C).astype(self.dtype)  # [h w, C]
        rows, columns = nearest_cell(points_yx, h, w)
        point_positions = jnp.repeat(cell_positions[rows * w + columns], num_maps, axis=1)  # [B, 4 N, C]
        point_keys = jnp.stack([self.point_projections[i](point_features[:, :, i]) for i in range(num_maps)], axis=2)
        point_counts = points_of_queries(is_point, cell_counts.shape[1], queries_per_object)
        # What owns nothing (an empty cell of the grid, an unused slot) looks at one zero feature.
        owns_nothing = ~(cell_counts.any(-1, keepdims=True) | point_counts.any(-1, keepdims=True))
        zero = jnp.zeros((B, 1, C), self.dtype)
        tiled = jnp.broadcast_to(cell_positions, (B, num_frames, h * w, C)).reshape(B, -1, C)
        return Keys(
            features=jnp.concatenate([cells, point_keys.reshape(B, -1, C), zero], axis=1),
            positions=jnp.concatenate([tiled, point_positions, zero], axis=1),
            counts=jnp.concatenate([cell_counts, point_counts, owns_nothing.astype(jnp.uint8)], axis=-1),
        )

    def _initial_queries(
        self,
        cells: jax.Array,
        cell_counts: jax.Array,
        point_features: jax.Array,
        is_point: jax.Array,
        queries_per_object: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Queries and embeddings [B, Q, C]: the mean of a query's cells, or the MLP of its point; what kind it is."""
        B, N, _, C = point_features.shape
        num_background = cell_counts.shape[1] - N * queries_per_object
        total = cell_counts.sum(-1, keepdims=True, dtype=jnp.int32)  # [B, Q, 1]
        weighted = jnp.einsum("bqs,bsc->bqc", cell_counts.astype(self.dtype), cells, preferred_element_type=jnp.float32)
        means = (weighted / jnp.maximum(total, 1)).astype(self.dtype)
        from_points = jnp.repeat(self.point_mlp(point_features.reshape(B, N, -1)), queries_per_object, axis=1)
        is_point_slot = jnp.repeat(is_point, queries_per_object, axis=1)[..., None]  # [B, N q, 1]
        objects = jnp.where(is_point_slot, from_points, means[:, num_background:])
        queries = jnp.concatenate([means[:, :num_background], objects], axis=1)
        embeddings = jnp.concatenate(
            [
                jnp.broadcast_to(self.background_embedding[...], (B, num_background, C)),
                jnp.where(is_point_slot, self.point_embedding[...], self.mask_embedding[...]),
            ],
            axis=1,
        )
        return queries, embeddings.astype(self.dtype)


def cells_of_queries(
    masks: jax.Array,
    valid_frames: jax.Array,
    background_grid: tuple[int, int],
    queries_per_object: int,
    extent: Extent | None = None,
) -> jax.Array:
    """How many pixels of each stride-4 cell belong to each query.

    Args:
      masks: bool [B, N, T, H, W] of the mask objects, false in frames that do not count.
      valid_frames: bool [B, T].
      background_grid: rows and columns that what no mask covers is divided into, one query each.
      queries_per_object: q, the parts that each mask is divided into.
      extent: what of the arrays is the clips.

    Returns:
      uint8 [B, G + N q, T h w]: the background grid's queries, then each object's.
    """
    B, N, T, H, W = masks.shape
    free = valid_frames[:, :, None, None] & ~masks.any(1)
    used = None if extent is None else extent.cells(H, W)
    if used is not None:
        free &= extent.inside(H, W)
    background = grid_counts(free, background_grid, used)
    objects = part_counts(masks, queries_per_object).reshape(B, N * queries_per_object, T, H // STRIDE, W // STRIDE)
    counts = jnp.concatenate([background, objects], axis=1)
    return counts.reshape(*counts.shape[:2], -1)


def points_of_queries(is_point: jax.Array, num_queries: int, queries_per_object: int) -> jax.Array:
    """Which of the points' keys belong to each query: bool [B, N] -> uint8 [B, Q, 4 N].

    The four keys of a point object belong to the first of its queries.
    """
    num_objects, num_maps = is_point.shape[1], len(POINT_STRIDES)
    first_queries = num_queries - num_objects * queries_per_object + jnp.arange(num_objects) * queries_per_object
    owner = jnp.arange(num_queries)[:, None] == jnp.repeat(first_queries, num_maps)  # [Q, 4 N]
    return (owner & jnp.repeat(is_point, num_maps, axis=1)[:, None]).astype(jnp.uint8)


def valid_object_queries(masks: jax.Array, is_point: jax.Array, queries_per_object: int) -> jax.Array:
    """Queries in use, bool [B, N, q]: the first of a point object, all of a mask object that has a pixel."""
    is_first = jnp.arange(queries_per_object) == 0
    return jnp.where(is_point[..., None], is_first, masks.any((2, 3, 4))[..., None])


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
