"""KITTI-STEP: the generic JSON for training; frames and panoptic PNGs in folders for evaluation."""

import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import generic
from input_pipeline.records import VideoRecord

training_videos = generic.training_videos

_SUFFIXES = (".png", ".jpg")


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """One video per folder of frames `<eval_images>/<sequence>/<frame>.png`.

    Ground truth, where `eval_annotations` names an existing folder: `<eval_annotations>/<sequence>/<frame>.png`, R =
    class (255 void), instance = 256 G + B; then every frame must have its map. The records have no `instances`: the ids
    are in the maps (`VideoRecord.panoptic_map`).
    """
    folder = workspace.resolve(
        config.eval_images.replace("{split}", split), root, dataset=config.name, key="eval_images", kind="folder"
    )
    truth = None
    if config.eval_annotations:
        path = config.eval_annotations.replace("{split}", split)
        candidate = pathlib.Path(path) if pathlib.Path(path).is_absolute() else workspace.workspace_root(root) / path
        truth = candidate if candidate.is_dir() else None
    return [_video(sequence, truth, config) for sequence in sorted(folder.iterdir()) if sequence.is_dir()]


def _video(sequence: pathlib.Path, truth: pathlib.Path | None, config: DatasetConfig) -> VideoRecord:
    frames = sorted(path for path in sequence.iterdir() if path.suffix in _SUFFIXES)
    if not frames:
        raise ValueError(f"{sequence}: has no frames ({' or '.join(_SUFFIXES)})")
    height, width = images.image_size(frames[0])
    maps = None
    if truth is not None:
        maps = [truth / sequence.name / f"{frame.stem}.png" for frame in frames]
        workspace.check_files(maps, f"dataset {config.name}, ground truth of sequence {sequence.name}")
    return VideoRecord(
        dataset=config.name,
        id=sequence.name,
        source=str(truth or sequence),
        frame_paths=tuple(frames),
        height=height,
        width=width,
        instances={},
        segmentations=tuple({} for _ in frames),
        annotated_frames=tuple(range(len(frames))) if maps else (),
        panoptic_maps=tuple(maps) if maps else None,
    )
