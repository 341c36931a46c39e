"""A model and batches small enough to train in tests."""

import numpy as np

from tarvis_jax.losses.config import LossConfig
from tarvis_jax.model.config import ModelConfig
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
    num_instance_queries=4,
    num_background_queries=1,
    num_queries_per_object=2,
    background_grid=(2, 2),
    semantic_classes=(("PANOPTIC", 3), ("VIS", 2)),
    exemplar_gradient=True,
    drop_path=0.0,
)
LOSS = LossConfig(num_points=16, num_points_semantic=16)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, warmup_steps=0, decay_steps=(), decay_rates=(), clip_norm=1.0)
TASKS = {"VIS": "instance", "PANOPTIC": "panoptic", "VOS": "exemplar"}


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
