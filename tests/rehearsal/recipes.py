"""The shipped configs that train on real datasets, and what a test changes in them."""

import importlib
import pathlib

import ml_collections

ROOT = pathlib.Path(__file__).resolve().parents[2]
OTHERS = ("__init__", "base", "quickstart", "davis240", "own")  # without data of the workspace
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in OTHERS)

NETWORK = {  # one layer of each kind, as narrow as can be
    "backbone": "ResNetTiny",
    "compute_dtype": "float32",
    "hidden_size": 8,
    "num_heads": 1,
    "neck_layers": 1,
    "neck_points": 1,
    "neck_ffn_size": 8,
    "neck_groups": 2,
    "decoder_layers": 1,
    "decoder_ffn_size": 8,
    "decoder_strides": (32,),
    "object_encoder_layers": 1,
    "object_encoder_ffn_size": 8,
    "num_queries_per_object": 1,
    "background_grid": (1, 1),
}
LOSS = {"num_points": 64, "num_points_semantic": 64}


def config_of(name: str, workspace: str) -> ml_collections.ConfigDict:
    """The config as shipped, on the rehearsal's data; one clip at a time, made in this process."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.data.workspace = workspace
    config.data.batch_size = 1
    config.data.num_parallel = 1
    config.data.prefetch = 1
    return config


def dataset_names(name: str) -> list[str]:
    return [dataset["name"] for dataset in config_of(name, "").data.datasets]


def choose(config: ml_collections.ConfigDict, dataset: str) -> None:
    """Training on this dataset alone; the model keeps the classes of all."""
    config.data.datasets = tuple(each for each in config.data.datasets if each["name"] == dataset)
