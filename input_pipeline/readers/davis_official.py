"""DAVIS 2017 in its official layout: JPEGImages/480p, Annotations/480p (palette PNGs), ImageSets/2017/<split>.txt.

`train_images` and `eval_images` name that folder; the name of the file `train_annotations`, or "train", is the split
that is trained on.
"""

import pathlib

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import davis
from input_pipeline.records import VideoRecord

_RESOLUTION = "480p"
_SPLITS = {"testdev": "test-dev"}  # the released workspace's name -> DAVIS's


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The sequences of the training split."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    return _read(folder, pathlib.Path(config.train_annotations or "train").stem, config)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The sequences of `split`; `annotated_frames` are those that have a PNG (test-dev has only the first)."""
    folder = workspace.resolve(config.eval_images, root, dataset=config.name, key="eval_images", kind="folder")
    return _read(folder, split, config)


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos, of a split whose masks are public."""
    return davis.with_truth(evaluation_videos(config, split, root))


def _read(folder: pathlib.Path, split: str, config: DatasetConfig) -> list[VideoRecord]:
    names = folder / "ImageSets" / "2017" / f"{_SPLITS.get(split, split)}.txt"
    return davis.read(names, folder / "JPEGImages" / _RESOLUTION, folder / "Annotations" / _RESOLUTION, config)
