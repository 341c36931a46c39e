"""KITTI-STEP in its official layout: KITTI's tracking images and panoptic_maps/{train,val}/<sequence>/<frame>.png."""

import concurrent.futures
import dataclasses
import os
import pathlib

import numpy as np
from absl import logging

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import kitti_step
from input_pipeline.records import VideoRecord

_INSTANCES = 65_536  # of a class; the maps number the instances of each class by themselves


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The sequences of `train_annotations`, frames in `train_images`.

    No file says which objects a frame shows, so all maps are read once, on all cores (5000 maps take about a minute on
    one).
    """
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    truth = workspace.resolve(
        config.train_annotations, root, dataset=config.name, key="train_annotations", kind="folder"
    )
    videos = _sequences(truth, folder, config)
    logging.info("%s: reading %d panoptic maps", config.name, sum(video.num_frames for video in videos))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return [_with_instances(video, pool, config) for video in videos]


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The sequences of `eval_annotations`, with ground truth; `instances` is empty, the maps hold them."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    truth = workspace.resolve(
        paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="folder"
    )
    return _sequences(truth, folder, config)


ground_truth_videos = evaluation_videos


def _sequences(truth: pathlib.Path, folder: pathlib.Path, config: DatasetConfig) -> list[VideoRecord]:
    videos = []
    for sequence in sorted(path for path in truth.iterdir() if path.is_dir()):
        maps = sorted(sequence.glob("*.png"))
        frames = [kitti_step.frame_of(folder / sequence.name, path.stem) for path in maps]
        workspace.check_files(frames, f"dataset {config.name}, frames of sequence {sequence.name}")
        if not maps:
            raise ValueError(f"{sequence}: has no maps (.png)")
        height, width = images.image_size(frames[0])
        videos.append(
            VideoRecord(
                dataset=config.name,
                id=sequence.name,
                source=str(truth),
                frame_paths=tuple(frames),
                height=height,
                width=width,
                instances={},
                segmentations=tuple({} for _ in maps),
                annotated_frames=tuple(range(len(maps))),
                panoptic_maps=tuple(maps),
            )
        )
    return videos


def _with_instances(video: VideoRecord, pool: concurrent.futures.Executor, config: DatasetConfig) -> VideoRecord:
    """`video` with the objects of its maps, told apart by class and number."""

    def find(path: pathlib.Path) -> list[int]:
        labels, instances = read_training_map(path, video.height, video.width)
        wrong = sorted(set(np.unique(labels).tolist()) - {images.VOID, *range(config.num_classes)})
        if wrong:
            raise ValueError(f"{path}: classes {wrong} are not in 0..{config.num_classes - 1} (num_classes) or 255")
        things = np.unique(instances).tolist()
        return [instance for instance in things if instance // _INSTANCES in config.thing_classes]

    visible = list(pool.map(find, video.panoptic_maps))
    instances = {instance: instance // _INSTANCES + 1 for frame in visible for instance in frame}
    return dataclasses.replace(
        video,
        instances=dict(sorted(instances.items())),
        segmentations=tuple(dict.fromkeys(frame) for frame in visible),
        read_panoptic=read_training_map,
    )


def read_training_map(path: pathlib.Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """As `images.read_step_map`, but the number of an instance has its class in front of it: 65536 * class + number."""
    labels, instances = images.read_step_map(path, height, width)
    return labels, np.where(instances > 0, labels * np.int32(_INSTANCES) + instances, 0)
