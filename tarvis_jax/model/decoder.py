"""Query decoder: queries look at the video through their own masks, and at each other (paper section 3.2).

It is the decoder of Mask2Former (Cheng et al., 2022) over clips, with one mask head for each group of queries and
classes that are queries themselves.
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from kernels.attention.biases import HardMaskBias, KeyPaddingBias, PaddedKeysBias, SoftMaskBias
from tarvis_jax.model.attention import MLP, FeedForward, MultiHeadAttention, layer_norm, linear
from tarvis_jax.model.config import SOFT_MASKED, ModelConfig
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.position_encoding import sine_3d
from tarvis_jax.model.queries import BACKGROUND, BACKGROUND_VOS, INSTANCE, SEMANTIC, VOS, Groups, QuerySet, group_slice
from tarvis_jax.model.remat import rematerialize

INVALID_MASK_LOGIT = -1e4

# The reference has a mask head for "free" queries, which no task makes, and projections for "vos" and
# "background_vos", which no task reads. Their parameters are kept so that its checkpoints convert both ways.
MASK_GROUPS = (BACKGROUND, SEMANTIC, BACKGROUND_VOS, VOS, INSTANCE, "free")
CLASS_GROUPS = (BACKGROUND, SEMANTIC, BACKGROUND_VOS, VOS, INSTANCE)


@flax.struct.dataclass
class Predictions:
    """What the decoder says about each query; L predictions, from the initial queries to the last layer's.

    Attributes:
      queries: [L, B, Q, C].
      mask_logits: float32 [L, B, Q, T, H/4, W/4]; INVALID_MASK_LOGIT for invalid queries.
      class_logits: float32 [L, B, Q_instance, 1 + K], column 0 is the background; None without semantic queries.
      groups: (name, size) of the query groups in the order of the Q axis; static.
    """

    queries: jax.Array
    mask_logits: jax.Array
    class_logits: jax.Array | None
    groups: Groups = flax.struct.field(pytree_node=False)

    def slice(self, name: str) -> slice:
        """Where group `name` lies on the query axis; ValueError if it is not there."""
        return group_slice(self.groups, name)


class DecoderLayer(nnx.Module):
    """Masked cross-attention to the video, self-attention among the queries, feed-forward network; all post-norm."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        dtype = jnp.dtype(config.compute_dtype)
        size, heads = config.hidden_size, config.num_heads
        self.is_soft = config.cross_attention == SOFT_MASKED
        self.cross_attention = MultiHeadAttention.of_config(config, rngs=rngs)
        self.cross_norm = layer_norm(size, rngs=rngs, dtype=dtype)
        if self.is_soft:
            # [M]: how strongly each head keeps to the mask: 32, 32, 16, 16, 8, 8, 4, 4 for 8 heads.
            self.mask_factors = Frozen(32.0 * 0.5 ** (4 * jnp.arange(heads) // heads).astype(jnp.float32))
        self.self_attention = MultiHeadAttention.of_config(config, rngs=rngs)
        self.self_norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.ffn = FeedForward(size, config.decoder_ffn_size, rngs=rngs, dtype=dtype)

    def __call__(
        self,
        queries: jax.Array,
        embeddings: jax.Array,
        valid: jax.Array,
        features: jax.Array,
        positions: jax.Array,
        mask_embed: jax.Array,
        mask_features: jax.Array,
        inside: jax.Array | None = None,
    ) -> jax.Array:
        """One round.

        Args:
          queries: [B, Q, C].
          embeddings: [B, Q, C].
          valid: bool [B, Q].
          features: [B, S, C], one level of the pyramid over all frames.
          positions: [1, S, C].
          mask_embed: [B, Q, C]; its products with `mask_features` are the queries' mask logits at this level.
          mask_features: [B, S, C]. No gradient flows through the masks.
          inside: bool [S], the features that are there; None: all.

        Returns:
          [B, Q, C].
        """
        # Differs from the reference: it does not threshold bfloat16 masks and so never blocks anything with them.
        where = HardMaskBias(mask_embed, mask_features)
        if self.is_soft:
            where = SoftMaskBias(mask_embed, mask_features, self.mask_factors[...])
        if inside is not None:
            where = PaddedKeysBias(where, inside)
        x = self.cross_attention(queries + embeddings, features, positions, where)
        queries = self.cross_norm(queries + x)
        x = self.self_attention(queries + embeddings, queries, embeddings, KeyPaddingBias(valid))
        queries = self.self_norm(queries + x)
        return self.ffn(queries)


class QueryDecoder(nnx.Module):
    """Refines a query set on a feature pyramid and predicts masks and classes."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype = jnp.dtype(config.compute_dtype)
        size = config.hidden_size
        self.scale_embed = nnx.Param(jax.random.normal(rngs.params(), (len(config.decoder_strides), size)))
        self.layers = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.decoder_layers)])
        self.norm = layer_norm(size, rngs=rngs, dtype=dtype)
        self.mask_embeds = nnx.Dict({name: MLP(size, size, size, 3, rngs=rngs, dtype=dtype) for name in MASK_GROUPS})
        self.class_projections = nnx.Dict({name: linear(size, size, rngs=rngs, dtype=dtype) for name in CLASS_GROUPS})

    def __call__(
        self, pyramid: dict[int, jax.Array], query_set: QuerySet, *, all_layers: bool, extent: Extent | None = None
    ) -> Predictions:
        """Decodes the queries.

        Args:
          pyramid: {stride: [B, T, H/stride, W/stride, C]} for 4 and config.decoder_strides.
          query_set: initial queries.
          all_layers: predict from the initial queries and after each layer (L = decoder_layers + 1) instead of after
            the last layer only (L = 1).
          extent: what of the pyramid is the clips; mask logits outside are INVALID_MASK_LOGIT.
        """
        strides = self.config.decoder_strides
        num_layers = self.config.decoder_layers
        features4 = pyramid[4].astype(self.dtype)
        levels = [self._level(pyramid[stride], i, extent) for i, stride in enumerate(strides)]
        # Attention masks are mask logits resized to a level. Resizing and the dot product with a query are both
        # linear, so the map is resized once instead of every query's logits in every layer.
        level_maps = [_flatten(resize_to_stride(features4, stride // 4)) for stride in strides]
        queries, embeddings = query_set.queries.astype(self.dtype), query_set.embeddings.astype(self.dtype)

        def run_layer(layer: DecoderLayer, *args: jax.Array) -> jax.Array:
            return rematerialize(layer, self.config.remat)(*args)

        predictions = []
        for i in range(num_layers + 1):
            normed = self.norm(queries)
            mask_embed = self._mask_embed(normed, query_set.groups)  # [B, Q, C]
            if all_layers or i == num_layers:
                mask_logits = mask_dot(mask_embed, features4)
                is_logit = query_set.valid[:, :, None, None, None]
                if extent is not None:
                    is_logit &= extent.clip_inside(*mask_logits.shape[2:])
                mask_logits = jnp.where(is_logit, mask_logits, INVALID_MASK_LOGIT)
                predictions.append((queries, mask_logits, self._class_logits(normed, query_set.groups)))
            if i == num_layers:
                break
            features, positions, inside = levels[i % len(strides)]
            masks = mask_embed, level_maps[i % len(strides)], inside
            queries = run_layer(self.layers[i], queries, embeddings, query_set.valid, features, positions, *masks)
        queries, mask_logits, class_logits = zip(*predictions, strict=True)
        return Predictions(
            queries=jnp.stack(queries),
            mask_logits=jnp.stack(mask_logits),
            class_logits=None if class_logits[0] is None else jnp.stack(class_logits),
            groups=query_set.groups,
        )

    def _level(
        self, features: jax.Array, index: int, extent: Extent | None
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Features [B, S, C] with the scale embedding, their positions [1, S, C], and bool [S], which are there."""
        _, T, h, w, C = features.shape
        times, axes, inside = None, None, None
        if extent is not None:
            times, axes, inside = extent.times, extent.axes(h, w), extent.clip_inside(T, h, w).reshape(-1)
        positions = sine_3d(T, h, w, C, times=times, axes=axes).reshape(1, -1, C).astype(self.dtype)
        features = _flatten(features).astype(self.dtype)
        return features + self.scale_embed[...][index].astype(self.dtype), positions, inside

    def _mask_embed(self, queries: jax.Array, groups: Groups) -> jax.Array:
        """[B, Q, C] -> [B, Q, C], each group through its own head."""
        parts = [self.mask_embeds[name](queries[:, group_slice(groups, name)]) for name, _ in groups]
        return jnp.concatenate(parts, axis=1)

    def _class_logits(self, queries: jax.Array, groups: Groups) -> jax.Array | None:
        """Similarity of instance queries to the most similar background query and to every class query."""
        if not {INSTANCE, BACKGROUND, SEMANTIC} <= {name for name, _ in groups}:
            return None
        instance, background, semantic = (
            self.class_projections[name](queries[:, group_slice(groups, name)])
            for name in (INSTANCE, BACKGROUND, SEMANTIC)
        )

        def similarity(classes: jax.Array) -> jax.Array:
            return jnp.einsum("bic,bkc->bik", instance, classes, preferred_element_type=jnp.float32)

        logits = jnp.concatenate([similarity(background).max(-1, keepdims=True), similarity(semantic)], axis=-1)
        return logits * self.config.class_logit_scale


def _flatten(x: jax.Array) -> jax.Array:
    """[B, T, h, w, C] -> [B, S, C]."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def mask_dot(mask_embed: jax.Array, features: jax.Array) -> jax.Array:
    """Mask logits of queries [B, Q, C] on a map [B, T, h, w, C]: float32 [B, Q, T, h, w]."""
    return jnp.einsum("bqc,bthwc->bqthw", mask_embed, features, preferred_element_type=jnp.float32)


def resize_to_stride(x: jax.Array, factor: int) -> jax.Array:
    """Shrinks [B, T, h, w, C] by `factor` (1 or even) in height and width, bilinearly and without smoothing first.

    The center of a target cell lies between the four middle cells of its block (half-pixel centers), so the result is
    their mean; PyTorch's `interpolate(..., align_corners=False)` computes the same.
    """
    if factor == 1:
        return x
    if factor % 2:
        raise ValueError(f"factor: expected 1 or an even number, found {factor}")
    B, T, h, w, C = x.shape
    middle = slice(factor // 2 - 1, factor // 2 + 1)
    blocks = x.reshape(B, T, h // factor, factor, w // factor, factor, C)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return blocks[:, :, :, middle, :, middle].mean((3, 5), dtype=dtype).astype(x.dtype)
