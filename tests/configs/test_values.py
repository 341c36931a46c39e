"""Every number of every recipe beside the original's, whose YAML files are merged as its training script merges them.

Fine-tuning: base, then the pretraining's saved config, then the file for fine-tuning. So the fine-tuning of an ablation
keeps what the pretraining of that ablation says and its own file does not. docs/migrating.md shows the same tables.
"""

import functools
import importlib
import pathlib

import pytest

from tarvis_jax.config import from_mapping
from tarvis_jax.datasets import DATASETS
from tarvis_jax.inference.config import default_inference
from tarvis_jax.run_config import Config
from tarvis_jax.train.optimizer import learning_rate_at

PAGE = (pathlib.Path(__file__).resolve().parents[2] / "docs/migrating.md").read_text()

# The recipes of the two tables, in the order of their columns: (config file, its argument).
FINE_TUNING = (
    ("finetune", ""),
    ("finetune", "backbone=SwinLarge"),
    ("vis_only", ""),
    ("vps_only", ""),
    ("vos_pet_only", ""),
)
PRETRAINING = (
    ("pretrain", ""),
    ("pretrain", "backbone=SwinLarge"),
    ("pretrain_vis_only", ""),
    ("pretrain_vps_only", ""),
    ("pretrain_vos_pet_only", ""),
)

# Key of the original: (key of ours, value in each recipe of fine-tuning; a single one is that of all).
SETTINGS = {
    "MODEL.CROSS_ATTENTION_TYPE": ("model.cross_attention", "hard_masked"),
    "MODEL.NUM_OBJECT_QUERIES": ("model.num_instance_queries", 128),
    "MODEL.NUM_BACKGROUND_QUERIES": ("model.num_background_queries", 1),
    "MODEL.NUM_VOS_QUERIES_PER_OBJECT": ("model.num_queries_per_object", 4),
    "TRAINING.NUM_ITERATIONS": ("train.num_steps", 90000, 90000, 25000, 25000, 25000),
    "TRAINING.BATCH_SIZE": ("data.batch_size", 32),
    "TRAINING.CLIP_LENGTH": ("data.clip_length", 3),
    "TRAINING.SAMPLE_CHUNKING_FACTOR": ("data.chunk_steps", 8),
    "TRAINING.CHECKPOINT_SAVE_INTERVAL": ("train.checkpoint_steps", 10000),
    "TRAINING.BASE_LR": ("optimizer.learning_rate", 0.0001),
    "TRAINING.LR_WARMUP_ITERATIONS": ("optimizer.warmup_steps", 10000),
    "TRAINING.LR_DECAY_STEPS": (
        "optimizer.decay_steps",
        *((50000, 84000), (50000, 84000), (15000, 23000), (15000, 23000), (15000, 23000)),
    ),
    "TRAINING.LR_DECAY_RATES": ("optimizer.decay_rates", (0.1, 0.1)),
    "TRAINING.POINT_VOS_TASK_SAMPLE_LIKELIHOOD": ("train.exemplar_point_probability", 0.3),
    "TRAINING.NUM_SAMPLED_POINTS_FOR_MASK_LOSS": ("loss.num_points", 12544),
    "LOSSES.PANOPTIC_INSTANCE_NUM_POINTS": ("loss.num_points", 12544),
    "LOSSES.PANOPTIC_SEMANTIC": ("loss.panoptic_semantic", "sparse"),
    "LOSSES.PANOPTIC_SEMANTIC_NUM_POINTS": ("loss.num_points_semantic", 50176),
    "LOSSES.INSTANCE_SEMANTIC_WEIGHT_CROSS_ENTROPY": ("loss.instance_semantic_weight", 2.0, 1.0, 0.5, 2.0, 2.0),
    "LOSSES.PANOPTIC_SEMANTIC_WEIGHT_CROSS_ENTROPY": ("loss.panoptic_semantic_weight", 2.0, 1.0, 0.75, 0.25, 2.0),
    "LOSSES.SEMANTIC_IGNORE_NULL_CLASSES": ("loss.suppress_absent_classes", False),
    # A switch in the original, whose weight is a constant of its code.
    "LOSSES.SEMANTIC_REGULARIZATION_LOSS": ("loss.logit_norm_weight", 0.0, 0.001, 0.001, 0.001, 0.0),
}
# Key of the original: value in each recipe of pretraining, where it is not that of `SETTINGS` in its first recipe.
PRETRAINING_SETTINGS = {
    "TRAINING.NUM_ITERATIONS": (500000,),
    "TRAINING.CHECKPOINT_SAVE_INTERVAL": (20000,),
    "TRAINING.LR_WARMUP_ITERATIONS": (0,),
    "TRAINING.LR_DECAY_STEPS": ((444500, 481500),),
    "LOSSES.PANOPTIC_SEMANTIC_NUM_POINTS": (25088,),
    "LOSSES.INSTANCE_SEMANTIC_WEIGHT_CROSS_ENTROPY": (2.0, 0.75, 0.5, 2.0, 2.0),
    "LOSSES.PANOPTIC_SEMANTIC_WEIGHT_CROSS_ENTROPY": (2.0, 0.75, 0.75, 0.25, 2.0),
    "LOSSES.SEMANTIC_IGNORE_NULL_CLASSES": (False, True, False, False, False),
    "LOSSES.SEMANTIC_REGULARIZATION_LOSS": (0.0, 0.0, 0.001, 0.001, 0.0),
}
JOINT = {
    "YOUTUBE_VIS": 0.225,
    "OVIS": 0.225,
    "KITTI_STEP": 0.075,
    "CITYSCAPES_VPS": 0.075,
    "VIPSEG": 0.15,
    "BURST": 0.2,
    "DAVIS": 0.05,
}
SHARES = (
    JOINT,
    JOINT,
    {"YOUTUBE_VIS": 0.5, "OVIS": 0.5},
    {"KITTI_STEP": 0.2, "CITYSCAPES_VPS": 0.1, "VIPSEG": 0.7},
    {"BURST": 0.85, "DAVIS": 0.15},
)
PRETRAINING_SHARES = {"COCO": 0.55, "ADE20K": 0.2, "CITYSCAPES": 0.05, "MAPILLARY": 0.2}  # in all of them
PRETRAINING_TASKS = ((0.3, 0.3, 0.4), (0.3, 0.3, 0.4), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
PRETRAINING_CLASSES = {"COCO": 133, "ADE20K": 150, "CITYSCAPES": 34, "MAPILLARY": 65}

# By dataset: NUM_CLASSES; TRAINING: MIN_DIMS, MAX_DIM, FRAME_SAMPLING_MULTIPLICATIVE_FACTOR; INFERENCE: CLIP_LENGTH,
# FRAME_OVERLAP, MIN_DIMS (None: IMAGE_RESIZE.MODE is "none"), MAX_DIM, MAX_TRACKS_PER_CLIP, TRACK_SCORE_THRESHOLD (the
# two last: none for given targets). They are the same in all files for fine-tuning.
OF_DATASETS = {
    "YOUTUBE_VIS": (40, (448, 512), 1024, 7.5, 12, 6, 448, 1333, 10, 0.0),
    "OVIS": (25, (512,), 1024, 7.5, 12, 6, 576, 1333, 10, 0.0),
    "KITTI_STEP": (19, (320,), 1333, 2.0, 6, 3, None, 1333, 1000, 0.5),
    "CITYSCAPES_VPS": (19, (448,), 1333, 1.0, 10, 5, None, 2048, 1000, 0.5),
    "VIPSEG": (124, (512,), 1333, 5.0, 12, 6, 576, 1333, 1000, 0.5),
    "BURST": (0, (512,), 1333, 3.0, 8, 4, 512, 1333),
    "DAVIS": (0, (512,), 1333, 7.5, 12, 6, None, 1333),
}
# Of its code, where they are no settings.
CONSTANTS = {
    "optimizer.weight_decay": 0.05,
    "optimizer.backbone_multiplier": 0.1,
    "optimizer.clip_norm": 0.01,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.ema_decay": 0.0,
    "optimizer.schedule": "step",
    "loss.class_weight": 2.0,
    "loss.mask_weight": 5.0,
    "loss.dice_weight": 5.0,
    "loss.background_class_weight": 0.1,
    "loss.exemplar_mask_weight": 5.0,
    "loss.exemplar_dice_weight": 5.0,
    "loss.oversample_ratio": 3.0,
    "loss.importance_ratio": 0.75,
    "train.max_samples_per_device": 0,
    "train.keep_checkpoints": 2,
    "train.seed": 42,
    "model.exemplar_gradient": False,
    "model.drop_path": None,  # that of the backbone
    "model.class_logit_scale": 1.0,
    "model.neck_layers": 6,
    "model.decoder_layers": 9,
    "model.object_encoder_layers": 4,
    "model.background_grid": (4, 4),
}


@functools.cache
def resolve(name: str, arg: str) -> Config:
    return from_mapping(Config, importlib.import_module(f"configs.{name}").get_config(arg))


def setting(config: Config, path: str):
    return functools.reduce(getattr, path.split("."), config)


def columns(key: str, pretraining: bool = False) -> tuple:
    """The original's value in each recipe."""
    _, *values = SETTINGS[key]
    if pretraining:
        values = PRETRAINING_SETTINGS.get(key, values[:1])
    return tuple(values) * (len(FINE_TUNING) if len(values) == 1 else 1)


def check_settings(config: Config, column: int, pretraining: bool) -> None:
    expected = {ours: columns(key, pretraining)[column] for key, (ours, *_) in SETTINGS.items()} | CONSTANTS
    assert {ours: setting(config, ours) for ours in expected} == expected


@pytest.mark.parametrize("column", range(len(PRETRAINING)), ids=[" ".join(recipe) for recipe in PRETRAINING])
def test_pretraining_recipe(column):
    name, arg = PRETRAINING[column]
    config = resolve(name, arg)
    check_settings(config, column, pretraining=True)
    assert {dataset.name: dataset.weight for dataset in config.data.datasets} == PRETRAINING_SHARES
    assert dict(config.model.semantic_classes) == PRETRAINING_CLASSES
    for dataset in config.data.datasets:
        shares = [dataset.task_shares.get(task, 0.0) for task in ("instance", "panoptic", "exemplar")]
        assert shares == pytest.approx(PRETRAINING_TASKS[column])
        assert (dataset.min_dims, dataset.max_dim, dataset.buckets) == ((512, 544, 576), 1333, ((512, 512),))
        assert (dataset.image_clips, dataset.num_slots("exemplar")) == (True, 32 // config.model.num_queries_per_object)


@pytest.mark.parametrize("column", range(len(FINE_TUNING)), ids=[" ".join(recipe) for recipe in FINE_TUNING])
def test_recipe(column):
    config = resolve(*FINE_TUNING[column])
    check_settings(config, column, pretraining=False)
    assert {dataset.name: dataset.weight for dataset in config.data.datasets} == SHARES[column]
    classes = {name: OF_DATASETS[name][0] for name in SHARES[column] if OF_DATASETS[name][0]}
    assert dict(config.model.semantic_classes) == classes
    for dataset in config.data.datasets:
        numbers = (dataset.num_classes, dataset.min_dims, dataset.max_dim, dataset.frame_sampling_factor)
        assert numbers == OF_DATASETS[dataset.name][:4], dataset.name


def test_other_backbones_have_the_settings_of_resnet50():
    ours = resolve("finetune", "")
    for name in ("SwinTiny", "ConvNextTiny"):
        other = resolve("finetune", f"backbone={name}")
        assert other.model.backbone == name and other.train.init_from != ours.train.init_from
        assert (other.loss, other.optimizer, other.data) == (ours.loss, ours.optimizer, ours.data)


@pytest.mark.parametrize("name", OF_DATASETS)
def test_inference(name):
    for recipe in FINE_TUNING:
        found = resolve(*recipe).inference[name]
        assert found == default_inference(name)
    length, overlap, min_dim, max_dim, *of_tracks = OF_DATASETS[name][4:]
    assert (found.clip_length, found.overlap, found.min_dim, found.max_dim) == (length, overlap, min_dim, max_dim)
    if DATASETS[name].spec.num_classes:
        assert [found.max_tracks, found.score_threshold] == of_tracks


def test_learning_rate_over_the_steps():
    """The original's is that of the scheduler before the step: nothing in the first, and lower in step 50000 itself."""
    optimizer = resolve("finetune", "").optimizer
    expected = {
        0: 0.0,
        1: 1e-8,
        5000: 5e-5,
        10000: 1e-4,
        49999: 1e-4,
        50000: 1e-5,
        83999: 1e-5,
        84000: 1e-6,
        89999: 1e-6,
    }
    for step, rate in expected.items():
        assert float(learning_rate_at(optimizer, step)) == pytest.approx(rate, rel=1e-6), step


def cell(value) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(cell, value))
    if value is None:
        return "as it is"
    return f"{value:g}" if isinstance(value, float) else str(value)


def rows() -> list[str]:
    """The rows of the tables of docs/migrating.md."""
    result = []
    for key, (ours, *_) in SETTINGS.items():
        values = " | ".join(map(cell, columns(key)))
        result.append(f"| `{key}` | `config.{ours}` | {values} |")
    for key in PRETRAINING_SETTINGS:
        result.append(f"| `{key}` | {' | '.join(map(cell, columns(key, pretraining=True)))} |")
    tasks = " | ".join(map(cell, PRETRAINING_TASKS))
    result.append(f"| `TRAINING.PRETRAIN_TASK_WEIGHTS` (instance, panoptic, VOS) | {tasks} |")
    shares = " | ".join(", ".join(f"{name} {weight:g}" for name, weight in column.items()) for column in SHARES)
    result.append(f"| `TRAINING.DATASET_LIST`, `DATASET_WEIGHTS` | `config.data.datasets` | {shares} |")
    for name, (classes, *others) in OF_DATASETS.items():
        values = [*map(cell, others), *["-"] * (9 - len(others))]
        result.append(f"| {name} | {classes or '-'} | {' | '.join(values)} |")
    return result


def test_the_page_has_these_tables():
    lines = PAGE.splitlines()
    assert not [row for row in rows() if row not in lines]
