"""All four tasks, learned from scratch on two CPU cores: small synthetic videos, a small network, the real code.

    python main.py --config=configs/quickstart.py --workdir=runs/quickstart
    python main.py --config=configs/quickstart.py:steps=200,seed=1 --workdir=runs/try

It needs no data: it writes the videos, trains on them, evaluates on held-out videos and draws results on some of them.
4300 steps take about 9 minutes on 2 CPU cores. docs/quickstart.md says what comes out and explains the settings.
"""

import dataclasses
import math

import ml_collections

from configs import base
from input_pipeline.config import dataset_config
from input_pipeline.synthetic import INSTANCE_CLASSES, PANOPTIC_CLASSES, THING_CLASSES
from tarvis_jax.config import to_config_dict, to_plain
from tarvis_jax.inference.config import InferenceConfig

HEIGHT, WIDTH = 64, 96
HIDDEN_SIZE = 64
# Share of the steps at which the reference's cosine would reach 0 if it stopped at 2 % of its height after all of them.
COSINE_SHARE = math.acos(2 * 0.02 - 1) / math.pi


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "steps=<number>,seed=<number>"; the seed is that of training, the videos stay the same."""
    options = base.parse_arg(arg, steps="4300", seed="0")
    num_steps, seed = int(options.steps), int(options.seed)
    config = base.get_config()

    config.synthetic.num_train = 400
    config.synthetic.num_val = 32
    config.synthetic.val_seed = 9_000_000
    config.synthetic.num_frames = 10
    config.synthetic.height = HEIGHT
    config.synthetic.width = WIDTH

    small = {
        "min_dims": (),
        "crop": (1.0, 1.0),
        "frame_sampling_factor": 4.0,
        "buckets": ((HEIGHT, WIDTH),),
    }
    # Shares .40 instance, .18 panoptic, .42 exemplar: see docs/log/quickstart.md.
    sets = {
        "YOUTUBE_VIS": {
            "weight": 0.4,
            "num_classes": len(INSTANCE_CLASSES),
            "class_names": INSTANCE_CLASSES,
            "max_instances": 6,
        },
        "KITTI_STEP": {
            "weight": 0.18,
            "num_classes": len(PANOPTIC_CLASSES),
            "class_names": PANOPTIC_CLASSES,
            "thing_classes": THING_CLASSES,
            "max_instances": 6,
        },
        "DAVIS": {"weight": 0.19},
        "BURST": {"weight": 0.23, "min_mask_area": 1},
    }
    config.data.datasets = tuple(to_plain(dataset_config(name, **small, **sets[name])) for name in sets)
    # Many small steps: clips of 3 frames learn less in the same time (docs/log/quickstart.md).
    config.data.batch_size = 4
    config.data.clip_length = 2
    config.data.chunk_steps = 1
    config.data.num_parallel = 1
    config.data.prefetch = 4
    config.data.cache_records = True
    config.data.cache_megabytes = 512

    config.model.backbone = "ResNetTiny"
    config.model.hidden_size = HIDDEN_SIZE
    config.model.num_heads = 4
    config.model.neck_layers = 1
    config.model.neck_ffn_size = 128
    config.model.neck_groups = 8
    config.model.temporal_window = 1
    config.model.decoder_layers = 1
    config.model.decoder_ffn_size = 256
    config.model.decoder_strides = (8,)
    config.model.object_encoder_layers = 1
    config.model.object_encoder_ffn_size = 256
    config.model.num_instance_queries = 12
    config.model.num_background_queries = 2
    config.model.num_queries_per_object = 2
    config.model.semantic_classes = (("KITTI_STEP", len(PANOPTIC_CLASSES)), ("YOUTUBE_VIS", len(INSTANCE_CLASSES)))
    config.model.class_logit_scale = 4 / math.sqrt(HIDDEN_SIZE)
    # Differs from the reference: from scratch the maps themselves must learn to tell objects apart.
    config.model.exemplar_gradient = True
    config.model.drop_path = 0.0

    config.loss.class_weight = 3.0
    config.loss.num_points = 128
    config.loss.num_points_semantic = 256
    config.loss.instance_semantic_weight = 1.0

    config.optimizer.learning_rate = 1.1e-3
    config.optimizer.backbone_multiplier = 1.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = round(0.03 * num_steps)
    config.optimizer.total_steps = round(num_steps / COSINE_SHARE)
    config.optimizer.decay_steps = ()
    config.optimizer.decay_rates = ()
    config.optimizer.beta2 = 0.99
    config.optimizer.ema_decay = 0.995

    config.train.init_from = "random"
    config.train.num_steps = num_steps
    config.train.seed = seed
    config.data.seed = seed
    config.train.max_samples_per_device = 0
    config.train.microbatches_at_once = 2  # one for each core
    config.train.pack_state = True
    config.train.tensorboard = False  # README's command does without TensorFlow
    config.train.log_steps = 100
    config.train.checkpoint_steps = 1000
    config.train.final_eval = True
    config.train.demo_videos = 2

    exemplar = InferenceConfig(clip_length=12, overlap=6, min_dim=HEIGHT)
    instance = dataclasses.replace(exemplar, duplicate_iou=0.7)
    panoptic = dataclasses.replace(instance, score_threshold=0.4)
    settings = {"YOUTUBE_VIS": instance, "KITTI_STEP": panoptic, "DAVIS": exemplar, "BURST": exemplar}
    config.inference = ml_collections.ConfigDict({name: to_config_dict(value) for name, value in settings.items()})
    return config
