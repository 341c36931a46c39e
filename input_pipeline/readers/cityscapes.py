"""Cityscapes images: panoptic maps as cityscapesScripts makes them, or the instance maps of the official download.

`train_annotations` (`eval_annotations`) is the JSON of the panoptic maps (`panoptic_images.py`), or a folder of
`<city>/<name>_gtFine_instanceIds.png`. Both give the same pixels the same classes. Images are
`<city>/<name>_leftImg8bit.png`, whatever folder of names the JSON has.
"""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import panoptic_images
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import DATASETS

_VOID = (-1, 0)  # license plates and what is not labeled
_INSTANCE_MAP = "_gtFine_instanceIds.png"


def training_videos(config: DatasetConfig, root: str) -> Sequence[VideoRecord]:
    """Each image as a video of one frame; those of a JSON show a thing (of a folder, it is not known)."""
    if config.train_annotations.endswith(".json"):
        return panoptic_images.training_videos(config, root, path_of=image_path, void=_VOID)
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    maps = workspace.resolve(
        config.train_annotations, root, dataset=config.name, key="train_annotations", kind="folder"
    )
    return _read(folder, maps, config)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> Sequence[VideoRecord]:
    """All images of a split."""
    if config.eval_annotations.endswith(".json"):
        return panoptic_images.evaluation_videos(config, split, root, path_of=image_path, void=_VOID)
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    maps = workspace.resolve(
        paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="folder"
    )
    return _read(folder, maps, config)


def image_path(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """Where the image lies that a panoptic JSON calls "aachen_000000_000019_gtFine_leftImg8bit.png"."""
    name = name.replace("gtFine_", "")
    return workspace.join(folder, f"{name.split('_')[0]}/{name}", where)


def _read(folder: pathlib.Path, maps: pathlib.Path, config: DatasetConfig) -> list[VideoRecord]:
    labels = np.arange(256)
    read_map = functools.partial(
        images.read_cityscapes_map,
        # cityscapesScripts leaves out the classes that are not evaluated.
        kept=np.isin(labels, DATASETS["CITYSCAPES_VPS"].class_origin.classes),
        things=np.isin(labels, config.thing_classes),
    )
    records = []
    for path in sorted(maps.glob(f"*/*{_INSTANCE_MAP}")):
        name = path.name.removesuffix(_INSTANCE_MAP)
        height, width = images.image_size(path)
        records.append(
            VideoRecord(
                dataset=config.name,
                id=name,
                source=str(maps),
                frame_paths=(folder / path.parent.name / f"{name}_leftImg8bit.png",),
                height=height,
                width=width,
                instances={},
                segmentations=({},),
                annotated_frames=(0,),
                panoptic_maps=(path,),
                read_panoptic=read_map,
            )
        )
    panoptic_images.check_listed((record.frame_paths[0] for record in records), f"{maps}, images in {folder}")
    return records
