"""DAVIS 2017 (semi-supervised) as the released workspace of TarViS holds it (DAVIS' own layout: `davis_official`).

Training: the generic JSON. Evaluation: `<eval_images>/<sequence>/*.jpg`, palette PNGs
`<eval_annotations>/Annotations/<sequence>/*.png` and `<eval_annotations>/ImageSet_<split>.txt`.
"""

import pathlib

import numpy as np

from input_pipeline import bad_records, images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import generic
from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle

training_videos = generic.training_videos

_SPLITS = {"test-dev": "testdev"}  # DAVIS's name -> the released workspace's


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The sequences of `split`; `annotated_frames` are those that have a PNG (test-dev has only the first)."""
    folder = workspace.resolve(config.eval_images, root, dataset=config.name, key="eval_images", kind="folder")
    truth = workspace.resolve(config.eval_annotations, root, dataset=config.name, key="eval_annotations", kind="folder")
    name = _SPLITS.get(split, split)
    return read(truth / f"ImageSet_{name}.txt", folder, truth / "Annotations", config)


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos, of a split whose masks are public."""
    return with_truth(evaluation_videos(config, split, root))


def with_truth(videos: list[VideoRecord]) -> list[VideoRecord]:
    """`videos`, if they have more masks than the first ones, which the network is given."""
    for video in videos:
        if len(video.annotated_frames) < 2 < video.num_frames:
            raise ValueError(
                f"{video.where}: expected ground truth, found the mask of one of its {video.num_frames} frames alone"
            )
    return videos


def read(names: pathlib.Path, frames: pathlib.Path, masks: pathlib.Path, config: DatasetConfig) -> list[VideoRecord]:
    """The sequences that the file `names` lists: `<frames>/<sequence>/*.jpg` and `<masks>/<sequence>/*.png`."""
    if not names.is_file():
        raise ValueError(f"dataset {config.name}: expected a list of sequences at {names}, but it does not exist")
    sequences = [line.strip() for line in workspace.load_text(names).splitlines() if line.strip()]
    return bad_records.keep_good(
        sequences,
        lambda name: _video(workspace.join(frames, name, str(names)), workspace.join(masks, name, str(names)), config),
    )


def _video(frames: pathlib.Path, masks: pathlib.Path, config: DatasetConfig) -> VideoRecord:
    for folder in (frames, masks):
        if not folder.is_dir():
            raise ValueError(f"dataset {config.name}: expected a folder at {folder}, but it does not exist")
    paths = sorted(frames.glob("*.jpg"))
    if not paths:
        raise ValueError(f"{frames}: the video has no frames (.jpg)")
    index = {path.stem: t for t, path in enumerate(paths)}
    maps = sorted(masks.glob("*.png"))
    stray = [path.name for path in maps if path.stem not in index]
    if stray or not maps:
        raise ValueError(f"{masks}: expected masks <frame>.png of the frames in {frames}, found {stray or 'none'}")
    height, width = images.image_size(paths[0])
    segmentations: list[dict[int, rle.Rle]] = [{} for _ in paths]
    for path in maps:
        ids = images.read_palette(path, height, width)
        found = np.flatnonzero(np.bincount(ids.ravel(), minlength=256))
        for instance in found[(found > 0) & (found != images.VOID)].tolist():
            segmentations[index[path.stem]][instance] = rle.encode(ids == instance)
    instances = sorted({instance for frame in segmentations for instance in frame})
    return VideoRecord(
        dataset=config.name,
        id=frames.name,
        source=str(masks),
        frame_paths=tuple(paths),
        height=height,
        width=width,
        instances=dict.fromkeys(instances, 0),
        segmentations=tuple(segmentations),
        annotated_frames=tuple(index[path.stem] for path in maps),
    )
