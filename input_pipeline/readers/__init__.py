"""Official dataset files -> `VideoRecord`s: one module per format, chosen by `DatasetConfig.reader`.

A reader is a module of this folder with

    training_videos(config: DatasetConfig, workspace: str) -> list[VideoRecord]
    evaluation_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]

and, where evaluators take their ground truth from other files than those of `evaluation_videos`,

    ground_truth_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]
"""

import functools
import importlib
import os
import pkgutil
from collections.abc import Sequence
from types import ModuleType

from absl import logging

from input_pipeline import layouts
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord


def training_videos(config: DatasetConfig, workspace: str = "") -> list[VideoRecord]:
    """All training videos of a dataset; the log says once what was found and where.

    Raises:
      ValueError: anything missing or malformed, naming file and key; no video; two videos with one id; no such reader.
    """
    found = layouts.locate(config, layouts.TRAINING, "", workspace)
    videos = _reader(found).training_videos(found, workspace)
    return _checked(videos, found, found.train_annotations, "training")


def require_training_files(datasets: Sequence[DatasetConfig], workspace: str = "") -> None:
    """Raises one ValueError that lists the absent training files of all datasets; nothing is read."""
    missing = {dataset.name: layouts.absent(dataset, layouts.TRAINING, "", workspace) for dataset in datasets}
    missing = {name: texts for name, texts in missing.items() if texts}
    if missing:
        listed = "".join(f"\n  {name}: {'; '.join(texts)}" for name, texts in missing.items())
        present = "+".join(dataset.name for dataset in datasets if dataset.name not in missing)
        raise ValueError(
            f"{len(missing)} of {len(datasets)} datasets have no training files in the workspace:{listed}\n"
            + (f"train on the others with --config=configs/finetune.py:datasets={present}; " if present else "")
            + "python -m input_pipeline.check says what is there"
        )


def evaluation_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The videos of an inference split ("val", "test", ...), with what ground truth the files hold."""
    found = layouts.locate(config, layouts.EVALUATION, split, workspace)
    videos = _reader(found).evaluation_videos(found, split, workspace)
    return _checked(videos, found, found.eval_images, split)


def ground_truth_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The same videos with the ground truth of every annotated frame, for evaluators.

    These are `evaluation_videos` unless the reader has a function for them (BURST, whose evaluation file holds only the
    first frame of each track).
    """
    if not hasattr(_reader(config), "ground_truth_videos"):
        return evaluation_videos(config, split, workspace)
    found = layouts.locate(config, layouts.TRUTH, split, workspace)
    videos = _reader(found).ground_truth_videos(found, split, workspace)
    return _checked(videos, found, found.eval_truth, f"{split} with ground truth")


def _reader(config: DatasetConfig) -> ModuleType:
    """The module of the dataset's reader; DatasetConfig has checked that its name is an identifier."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if config.reader not in known:
        raise ValueError(
            f"dataset {config.name}: reader should be a module of input_pipeline/readers, one of {known}, "
            f"found {config.reader!r}"
        )
    return importlib.import_module(f"{__name__}.{config.reader}")


def _checked(videos: list[VideoRecord], config: DatasetConfig, path: str, split: str) -> list[VideoRecord]:
    if not videos:
        raise ValueError(f"dataset {config.name}, {path}: has no video")
    seen = set()
    for video in videos:
        if video.id in seen:
            raise ValueError(f"{video.where}: two videos have this id")
        seen.add(video.id)
    _log_once(f"{config.name}, {split}: {summary(videos)}, from {source_of(videos)} (reader {config.reader})")
    return videos


def source_of(videos: list[VideoRecord]) -> str:
    """The file that the videos came from, or the folder of their files."""
    sources = sorted({video.source for video in videos})
    return sources[0] if len(sources) == 1 else os.path.commonpath(sources)


def summary(videos: list[VideoRecord]) -> str:
    """Numbers of videos, frames and objects (where they are known), and the range of heights and widths."""
    frames, objects = sum(video.num_frames for video in videos), sum(len(video.instances) for video in videos)
    counts = f"{len(videos)} videos, {frames} frames" + (f", {objects} objects" if objects else "")
    sizes = []
    for values in zip(*((video.height, video.width) for video in videos), strict=True):
        low, high = min(values), max(values)
        sizes.append(str(low) if low == high else f"{low}..{high}")
    return f"{counts}, {' x '.join(sizes)} pixels"


@functools.lru_cache
def _log_once(text: str) -> None:
    logging.info("%s", text)
