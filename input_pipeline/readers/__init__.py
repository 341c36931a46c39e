"""Official dataset files -> `VideoRecord`s: one module per format, chosen by `DatasetConfig.reader`.

A reader is a module of this folder with

    training_videos(config: DatasetConfig, workspace: str) -> list[VideoRecord]
    evaluation_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]

and, where evaluators take their ground truth from other files than those of `evaluation_videos`,

    ground_truth_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]
"""

import importlib
import pkgutil
from types import ModuleType

from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord


def training_videos(config: DatasetConfig, workspace: str = "") -> list[VideoRecord]:
    """All training videos of a dataset.

    Raises:
      ValueError: anything missing or malformed, naming file and key; no video; two videos with one id; no such reader.
    """
    videos = _checked(_reader(config).training_videos(config, workspace), config, config.train_annotations)
    return _split(videos, config, held_out=False)


def evaluation_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The videos of an inference split ("val", "test", ...), with what ground truth the files hold."""
    videos = _checked(_reader(config).evaluation_videos(config, split, workspace), config, config.eval_images)
    return _split(videos, config, held_out=True)


def ground_truth_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The same videos with the ground truth of every annotated frame, for evaluators.

    These are `evaluation_videos` unless the reader has a function for them (BURST, whose evaluation file holds only the
    first frame of each track).
    """
    reader = _reader(config)
    if not hasattr(reader, "ground_truth_videos"):
        return evaluation_videos(config, split, workspace)
    videos = _checked(reader.ground_truth_videos(config, split, workspace), config, config.eval_truth)
    return _split(videos, config, held_out=True)


def _split(videos: list[VideoRecord], config: DatasetConfig, *, held_out: bool) -> list[VideoRecord]:
    """The videos that `config.held_out` names or, if not `held_out`, the others; all of them if it names none."""
    if not config.held_out:
        return videos
    names = set(config.held_out)
    absent = sorted(names - {str(video.id) for video in videos})
    found = [video for video in videos if (str(video.id) in names) == held_out]
    if absent or not found:
        raise ValueError(
            f"dataset {config.name}, held_out: expected some of its {len(videos)} videos, found {absent[:5] or 'all'}"
        )
    return found


def _reader(config: DatasetConfig) -> ModuleType:
    """The module of the dataset's reader; DatasetConfig has checked that its name is an identifier."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if config.reader not in known:
        raise ValueError(
            f"dataset {config.name}: reader should be a module of input_pipeline/readers, one of {known}, "
            f"found {config.reader!r}"
        )
    return importlib.import_module(f"{__name__}.{config.reader}")


def _checked(videos: list[VideoRecord], config: DatasetConfig, path: str) -> list[VideoRecord]:
    if not videos:
        raise ValueError(f"dataset {config.name}, {path}: has no video")
    seen = set()
    for video in videos:
        if video.id in seen:
            raise ValueError(f"{video.where}: two videos have this id")
        seen.add(video.id)
    return videos
