"""ADE20K as the scene parsing challenge hands it out: images, annotations and annotations_instance, a folder a split.

`train_annotations` (`eval_annotations`) is the folder of the instance maps, `annotations_instance/training`; the
semantic maps are taken from `annotations/training` beside it. Panoptic maps follow from the two (`images.py`).
"""

import functools
import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import panoptic_images
from input_pipeline.records import VideoRecord


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """Each image as a video of one frame; whether it shows a thing is not known."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    maps = workspace.resolve(
        config.train_annotations, root, dataset=config.name, key="train_annotations", kind="folder"
    )
    return _read(folder, maps, config)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All images of a split."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    maps = workspace.resolve(
        paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="folder"
    )
    return _read(folder, maps, config)


def _read(folder: pathlib.Path, maps: pathlib.Path, config: DatasetConfig) -> list[VideoRecord]:
    class_maps = maps.parent.parent / "annotations" / maps.name
    records = []
    for path in sorted(maps.glob("*.png")):
        height, width = images.image_size(path)
        records.append(
            VideoRecord(
                dataset=config.name,
                id=path.stem,
                source=str(maps),
                frame_paths=(folder / f"{path.stem}.jpg",),
                height=height,
                width=width,
                instances={},
                segmentations=({},),
                annotated_frames=(0,),
                panoptic_maps=(path,),
                read_panoptic=functools.partial(
                    images.read_ade20k_map, class_map=class_maps / path.name, thing_classes=config.thing_classes
                ),
            )
        )
    panoptic_images.check_listed((record.frame_paths[0] for record in records), f"{maps}, images in {folder}")
    panoptic_images.check_listed((class_maps / path.name for path in maps.glob("*.png")), f"{maps}, {class_maps}")
    return records
