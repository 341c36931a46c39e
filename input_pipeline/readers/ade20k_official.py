"""ADE20K as the scene parsing challenge hands it out: images, annotations and annotations_instance, a folder a split.

`train_annotations` (`eval_annotations`) is the folder of the instance maps, `annotations_instance/training`; the
semantic maps are taken from `annotations/training` beside it. Panoptic maps follow from the two (`images.py`).
"""

import functools
import pathlib

from input_pipeline import bad_records, images, workspace
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

    def read_image(path: pathlib.Path) -> VideoRecord:
        height, width = images.image_size(path)
        return VideoRecord(
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
                images.read_ade20k_map,
                class_map=class_maps / path.name,
                thing_classes=config.thing_classes,
                num_classes=config.num_classes,
            ),
        )

    paths = panoptic_images.keep_listed(
        sorted(maps.glob("*.png")),
        lambda path: (folder / f"{path.stem}.jpg", class_maps / path.name),
        f"{maps}, images in {folder} and {class_maps}",
    )
    return bad_records.keep_good(paths, read_image)
