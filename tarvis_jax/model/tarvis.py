"""TarViS: one network that segments any set of targets in video; the queries say which (paper section 3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from tarvis_jax.model.backbones import backbone_config, build_backbone
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.decoder import Predictions, QueryDecoder
from tarvis_jax.model.extent import Extent
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.object_encoder import ObjectEncoder
from tarvis_jax.model.queries import ObjectQueries, QuerySet, QueryTables
from tarvis_jax.model.temporal_neck import TemporalNeck


class TarViS(nnx.Module):
    """Backbone, temporal neck, learned queries, object encoder and query decoder.

    Parameters are float32 `nnx.Param`; what is never trained is `Frozen`. Nothing here knows a task: callers make a
    query set with `class_query_set` (VIS, VPS) or with `encode_objects` and `exemplar_query_set` (VOS, PET), and
    `decode` it.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        """ValueError for a backbone or an attention that does not exist."""
        self.config = config
        backbone = backbone_config(config.backbone)
        self.unit_scale = backbone.unit_scale
        self.pixel_mean = Frozen(jnp.asarray(backbone.pixel_mean, jnp.float32))
        self.pixel_std = Frozen(jnp.asarray(backbone.pixel_std, jnp.float32))
        self.backbone = build_backbone(
            config.backbone,
            compute_dtype=config.compute_dtype,
            drop_path=config.drop_path,
            remat=config.remat,
            rngs=rngs,
        )
        self.neck = TemporalNeck(self.backbone.out_channels, config, rngs=rngs)
        self.queries = QueryTables(config, rngs=rngs)
        self.object_encoder = ObjectEncoder(config, rngs=rngs)
        self.decoder = QueryDecoder(config, rngs=rngs)

    def features(self, images: jax.Array, rng_keys: jax.Array | None = None) -> dict[int, jax.Array]:
        """Feature pyramid of clips.

        Args:
          images: uint8 or float [B, T, H, W, 3], RGB 0..255; H and W multiples of config.size_divisor.
          rng_keys: keys [B] for stochastic depth in training, one for each clip; None turns it off.

        Returns:
          {stride: [B, T, H/stride, W/stride, C]} for strides 32, 16, 8 and 4.

        Raises:
          ValueError: for another shape.
        """
        divisor = self.config.size_divisor
        if images.ndim != 5 or images.shape[-1] != 3 or images.shape[2] % divisor or images.shape[3] % divisor:
            raise ValueError(
                f"images: expected shape [B, T, H, W, 3] with H and W multiples of {divisor}, found {images.shape}"
            )
        features = self.backbone_features(images, rng_keys)
        with jax.named_scope("neck"):
            return self.neck(features)

    def frame_features(self, images: jax.Array, extent: Extent | None = None) -> dict[int, jax.Array]:
        """The part of `features` that sees one frame at a time: {stride: [B, T, H/stride, W/stride, C]}."""
        features = self.backbone_features(images, extent=extent)
        with jax.named_scope("neck"):
            return self.neck.project(features, extent)

    @jax.named_scope("neck")
    def mix_frames(self, maps: dict[int, jax.Array], extent: Extent | None = None) -> dict[int, jax.Array]:
        """The part of `features` that sees the clip: what `frame_features` gives -> the pyramid."""
        return self.neck.mix(maps, extent)

    @jax.named_scope("backbone")
    def backbone_features(
        self, images: jax.Array, rng_keys: jax.Array | None = None, extent: Extent | None = None
    ) -> dict[int, jax.Array]:
        """What `features` gives to the temporal neck: {stride: [B, T, H/stride, W/stride, D]} for 4, 8, 16, 32."""
        B, T = images.shape[:2]
        frames = images.reshape(B * T, *images.shape[2:]).astype(jnp.float32)
        if self.unit_scale:
            frames = frames / 255.0
        frames = (frames - self.pixel_mean[...]) / self.pixel_std[...]
        if rng_keys is not None:  # each frame has its own
            rng_keys = jax.vmap(lambda key: jax.random.split(key, T))(rng_keys).reshape(B * T)
        features = self.backbone(frames, rng_keys=rng_keys, extent=extent)
        return {stride: x.reshape(B, T, *x.shape[1:]) for stride, x in features.items()}

    def class_query_set(self, dataset: str, batch_size: int) -> QuerySet:
        """Queries for VIS and VPS: groups instance, background, semantic (the classes of `dataset`).

        ValueError when the model has no classes of that dataset.
        """
        return self.queries.class_query_set(dataset, batch_size)

    @jax.named_scope("object_encoder")
    def encode_objects(self, pyramid: dict[int, jax.Array], **objects: jax.Array | int | None) -> ObjectQueries:
        """Queries of targets given by masks or points; the arguments are those of `ObjectEncoder.__call__`."""
        return self.object_encoder(pyramid, **objects)

    def exemplar_query_set(self, objects: ObjectQueries) -> QuerySet:
        """Queries for VOS and PET: groups background_vos, vos (the q slots of an object next to each other)."""
        return self.queries.exemplar_query_set(objects)

    @jax.named_scope("decoder")
    def decode(
        self,
        pyramid: dict[int, jax.Array],
        query_set: QuerySet,
        *,
        all_layers: bool = True,
        extent: Extent | None = None,
    ) -> Predictions:
        """Masks and classes of the queries; after every decoder layer, or after the last one only (L = 1)."""
        return self.decoder(pyramid, query_set, all_layers=all_layers, extent=extent)
