"""A model of one layer of each kind with random weights, and noise to show it."""

import numpy as np

from tarvis_jax.api import Model
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, flatten

TINY = ModelConfig(
    backbone="ResNetTiny",
    hidden_size=16,
    num_heads=2,
    neck_layers=1,
    neck_points=2,
    neck_ffn_size=16,
    neck_groups=4,
    temporal_window=1,
    decoder_layers=1,
    decoder_ffn_size=16,
    decoder_strides=(16,),
    object_encoder_layers=1,
    object_encoder_ffn_size=16,
    num_instance_queries=12,
    num_queries_per_object=2,
    background_grid=(2, 2),
    semantic_classes=(("KITTI_STEP", 19), ("OVIS", 25), ("YOUTUBE_VIS", 40)),
)
SIZE = (50, 61)  # odd, and no multiple of 32


def tiny_variables(config: ModelConfig = TINY) -> dict[str, np.ndarray]:
    """Random values for all variables: quicker than the model's own initialisers, and no class is certain."""
    rng = np.random.default_rng(0)
    return {
        name: np.ones(v.shape, np.float32) if "var" in name else rng.normal(0, 0.2, v.shape).astype(np.float32)
        for name, v in flatten(abstract_model(config)).items()
    }


def tiny_model(config: ModelConfig = TINY) -> Model:
    return Model(config, tiny_variables(config))


def noise_video(num_frames: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), dtype=np.uint8))
