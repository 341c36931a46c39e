"""The tests' one tiny model, of one layer of each kind: values for it, noise to show it, batches to train it on."""

import dataclasses

import numpy as np

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, flatten
from tarvis_jax.run_config import OptimizerConfig

MODEL = ModelConfig(
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
TRAINED = dataclasses.replace(
    MODEL,
    num_instance_queries=4,
    num_background_queries=1,
    semantic_classes=(("PANOPTIC", 3), ("VIS", 2)),
    exemplar_gradient=True,
    drop_path=0.0,
)
SIZE = (50, 61)  # of noise_video: odd, and no multiple of 32
LOSS = LossConfig(num_points=16, num_points_semantic=16)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, decay_steps=(), decay_rates=(), clip_norm=1.0)
TASKS = {"VIS": "instance", "PANOPTIC": "panoptic", "VOS": "exemplar"}


def variables(config: ModelConfig = MODEL, seed: int = 0) -> dict[str, np.ndarray]:
    """Random values for all variables: quicker than the model's own initializers, and no class is certain."""
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(v.shape, np.float32) if "var" in name else rng.normal(0, 0.2, v.shape).astype(np.float32)
        for name, v in flatten(abstract_model(config)).items()
    }


def make_model(config: ModelConfig = MODEL, seed: int = 0):
    """With seed 11, given objects keep pixels for some frames of noise."""
    from tarvis_jax import api  # tests of the network alone do without it

    return api.Model(config, variables(config, seed))


def noise_video(num_frames: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (num_frames, *SIZE, 3), dtype=np.uint8))


def make_batch(task: str, batch_size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise images with rectangles, 32x32, T=2, N=2; the number of valid targets varies over the batch."""
    rng = np.random.default_rng(seed)
    b, n, t, h, w = batch_size, 2, 2, 32, 32
    masks = np.zeros((b, n, t, h, w), bool)
    points = np.zeros((b, n, 2), np.float32)
    for i in range(b):
        for k in range(n):
            y, x = rng.integers(2, 18, 2)
            masks[i, k, :, y : y + 10, x : x + 10] = True
            points[i, k] = (y + 5.5) / h, (x + 5.5) / w
    valid = np.ones((b, n), bool)
    if task != "exemplar":
        valid[:, 1] = np.arange(b) % 2 == 0
    batch = {
        "images": rng.integers(0, 256, (b, t, h, w, 3), dtype=np.uint8),
        "masks": masks & valid[:, :, None, None, None],
        "classes": rng.integers(1, 3, (b, n)).astype(np.int32) * valid,
        "valid_instances": valid,
    }
    if task == "panoptic":
        batch["semantic_map"] = rng.integers(0, 3, (b, t, h, w)).astype(np.int32)
        batch["ignore_mask"] = np.zeros((b, t, h, w), bool)
    if task == "exemplar":
        batch["reference_frame"] = np.zeros(b, np.int32)
        batch["points_yx"] = points
    return batch
