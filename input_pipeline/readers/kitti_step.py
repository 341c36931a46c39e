"""KITTI-STEP: the generic JSON for training; frames and panoptic PNGs in folders for evaluation."""

import dataclasses
import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import generic
from input_pipeline.records import VideoRecord

training_videos = generic.training_videos

_SUFFIXES = (".png", ".jpg")
# KITTI's tracking images have 21 sequences in one folder; these are the ones of the validation split.
_VALIDATION = ("0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018")


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """One video per folder of frames `<eval_images>/<sequence>/<frame>.png`.

    For the split "val", of a folder that holds the nine sequences of the validation split and others, only the nine.
    """
    path = config.eval_images.replace("{split}", split)
    folder = workspace.resolve(path, root, dataset=config.name, key="eval_images", kind="folder")
    sequences = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
    if split == "val" and set(_VALIDATION) <= set(sequences):
        sequences = {name: sequences[name] for name in _VALIDATION}
    return [_video(sequence, config) for sequence in sequences.values()]


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos with the maps `<eval_truth>/<sequence>/<frame>.png`, one for every frame.

    R = class (255 void), instance = 256 G + B. The records have no `instances`: the maps hold the ids.
    """
    path = config.eval_truth.replace("{split}", split)
    truth = workspace.resolve(path, root, dataset=config.name, key="eval_truth", kind="folder")
    videos = []
    for video in evaluation_videos(config, split, root):
        maps = [truth / video.id / f"{name}.png" for name in video.frame_names]
        workspace.check_files(maps, f"dataset {config.name}, ground truth of sequence {video.id}")
        everywhere = tuple(range(video.num_frames))
        videos.append(
            dataclasses.replace(video, source=str(truth), annotated_frames=everywhere, panoptic_maps=tuple(maps))
        )
    return videos


def frame_of(folder: pathlib.Path, name: str) -> pathlib.Path:
    """The frame `name` of a sequence, .png or .jpg; its .png if there is none."""
    paths = [folder / f"{name}{suffix}" for suffix in _SUFFIXES]
    return next((path for path in paths if path.is_file()), paths[0])


def _video(sequence: pathlib.Path, config: DatasetConfig) -> VideoRecord:
    frames = sorted(path for path in sequence.iterdir() if path.suffix in _SUFFIXES)
    if not frames:
        raise ValueError(f"{sequence}: has no frames ({' or '.join(_SUFFIXES)})")
    height, width = images.image_size(frames[0])
    return VideoRecord(
        dataset=config.name,
        id=sequence.name,
        source=str(sequence),
        frame_paths=tuple(frames),
        height=height,
        width=width,
        instances={},
        segmentations=tuple({} for _ in frames),
        annotated_frames=(),
    )
