"""Official dataset files -> `VideoRecord`s: one module per format, chosen by `DatasetConfig.reader`.

A reader is a module of this folder with

    training_videos(config: DatasetConfig, workspace: str) -> list[VideoRecord]
    evaluation_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]

and, where evaluators take their ground truth from other files than those of `evaluation_videos`,

    ground_truth_videos(config: DatasetConfig, split: str, workspace: str) -> list[VideoRecord]

It makes the records of its training videos with `bad_records.keep_good`.
"""

import functools
import importlib
import os
import pkgutil
from collections.abc import Iterable, Sequence
from types import ModuleType

import numpy as np
from absl import logging

from input_pipeline import bad_records, images, layouts
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from input_pipeline.workspace import workspace_root

TRAINING_SPLIT = "training"


def training_videos(
    config: DatasetConfig, workspace: str = "", left_out: bad_records.LeftOut | None = None
) -> list[VideoRecord]:
    """All training videos of a dataset; the log says once what was found and where.

    Args:
      config: of the dataset.
      workspace: see `DataConfig`.
      left_out: where bad videos are noted; None: the first one is an error.
    Raises:
      ValueError: anything missing or malformed, naming file and key; no video; two videos with one id; no such reader.
    """
    try:
        with bad_records.leaving_out(left_out, config.name):
            found = layouts.locate(config, layouts.TRAINING, "", workspace)
            videos = _reader(found).training_videos(found, workspace)
            if not config.image_clips:  # of videos; a hundred thousand images would take minutes
                videos = bad_records.keep_good(videos, with_checked_size)
            return _checked(videos, found, found.train_annotations, TRAINING_SPLIT)
    except ValueError as error:
        first = left_out.first_error(config.name) if left_out else ""
        note = f" (bad data was left out before, such as: {first})" if first else ""
        raise _of_dataset(error, config.name, note) from error


def with_checked_size(video: VideoRecord) -> VideoRecord:
    """The video, if its first frame is an image of its size."""
    try:
        found = images.image_size(video.frame_paths[0])
    except ValueError as error:
        raise ValueError(f"{video.where}: {error}") from error
    if found != (video.height, video.width):
        raise ValueError(
            f"{video.where}: the annotations say [height, width] = {[video.height, video.width]}, "
            f"{video.frame_paths[0]} has [height, width] = {list(found)}"
        )
    return video


def _of_dataset(error: ValueError, name: str, note: str = "") -> ValueError:
    """The error with the name of its dataset."""
    text = str(error)
    return ValueError((text if f"dataset {name}" in text else f"dataset {name}: {text}") + note)


def require_training_files(datasets: Sequence[DatasetConfig], workspace: str = "") -> None:
    """Raises one ValueError that lists the absent training files of all datasets; nothing is read."""
    if any(not os.path.isabs(dataset.root or dataset.train_images) for dataset in datasets):
        workspace_root(workspace)  # without the folder itself, a list of all that it lacks would only distract
    missing = {dataset.name: layouts.absent(dataset, layouts.TRAINING, "", workspace) for dataset in datasets}
    missing = {name: texts for name, texts in missing.items() if texts}
    if missing:
        listed = "".join(f"\n  {name}: {'; '.join(texts)}" for name, texts in missing.items())
        present = ", ".join(dataset.name for dataset in datasets if dataset.name not in missing)
        raise ValueError(
            f"{len(missing)} of {len(datasets)} datasets have no training files in the workspace:{listed}\n"
            + (f"to train on {present} alone, leave the others out of data.datasets; " if present else "")
            + "python -m input_pipeline.check, with the same --config, says what is there"
        )


def evaluation_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The videos of an inference split ("val", "test", ...), with what ground truth the files hold.

    With `config.held_out_every` these are training videos, with all their ground truth.
    """
    if config.held_out_every:
        found = layouts.locate(config, layouts.TRAINING, "", workspace)
        return _checked(_reader(found).training_videos(found, workspace), found, found.train_annotations, split)
    found = layouts.locate(config, layouts.EVALUATION, split, workspace)
    videos = _reader(found).evaluation_videos(found, split, workspace)
    return _checked(videos, found, found.eval_images, split)


def ground_truth_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The same videos with the ground truth of every annotated frame, for evaluators.

    These are `evaluation_videos` unless the reader has a function for them (BURST, whose evaluation file holds only the
    first frame of each track).

    Raises:
      ValueError: as `evaluation_videos`, and for a split whose ground truth is not there.
    """
    if config.held_out_every or not hasattr(_reader(config), "ground_truth_videos"):
        return evaluation_videos(config, split, workspace)
    found = layouts.locate(config, layouts.TRUTH, split, workspace)
    videos = _reader(found).ground_truth_videos(found, split, workspace)
    return _checked(videos, found, found.eval_truth or found.eval_annotations, f"{split} with ground truth")


def _reader(config: DatasetConfig) -> ModuleType:
    """The module of the dataset's reader; DatasetConfig has checked that its name is an identifier."""
    known = sorted(module.name for module in pkgutil.iter_modules(__path__))
    if config.reader not in known:
        raise ValueError(
            f"dataset {config.name}: reader should be a module of input_pipeline/readers, one of {known}, "
            f"found {config.reader!r}"
        )
    return importlib.import_module(f"{__name__}.{config.reader}")


def _checked(videos: Sequence[VideoRecord], config: DatasetConfig, path: str, split: str) -> Sequence[VideoRecord]:
    if not len(videos):
        raise ValueError(f"dataset {config.name}, {path}: has no video")
    seen, again = set(), set()
    for i, video in enumerate(videos):
        if video.id in seen:
            bad_records.leave_out(ValueError(f"{video.where}: two videos have this id"))
            again.add(i)
        seen.add(video.id)
    if again:
        videos = [video for i, video in enumerate(videos) if i not in again]
    if config.held_out or config.held_out_every:
        videos = _part(videos, config, is_held_out=split != TRAINING_SPLIT)
    _log_once(f"{config.name}, {split}: {summary(videos)} (reader {config.reader})")
    return videos


def summary(videos: Iterable[VideoRecord]) -> str:
    """Numbers of videos, frames and objects (where they are known), range of heights and widths, and their file.

    If the videos came from several files, the folder that has them all.
    """
    counts, sources, sizes = np.zeros(3, np.int64), set(), []
    for video in videos:  # once: some readers make a record when it is asked for
        counts += 1, video.num_frames, len(video.instances)
        sources.add(video.source)
        sizes.append((video.height, video.width))
    low, high = np.min(sizes, 0), np.max(sizes, 0)
    ranges = [str(a) if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True)]
    source = sources.pop() if len(sources) == 1 else os.path.commonpath(sources)
    known = ("videos", "frames", "objects") if counts[2] else ("videos", "frames")
    text = ", ".join(f"{count} {name}" for count, name in zip(counts, known, strict=False))
    return f"{text}, {' x '.join(ranges)} pixels, from {source}"


def _part(videos: list[VideoRecord], config: DatasetConfig, *, is_held_out: bool) -> list[VideoRecord]:
    """The videos that are held out, or the others."""
    names = set(config.held_out)
    absent = sorted(names - {str(video.id) for video in videos})
    if bad_records.is_leaving_out():  # a held-out video that is bad is not trained on in any case
        absent = []
    found = [video for video in videos if config.holds_out(video.id) == is_held_out]
    if absent or not found:
        kind, part = ("held_out", "all") if config.held_out else ("held_out_every", "none" if is_held_out else "all")
        raise ValueError(
            f"dataset {config.name}, {kind}: expected some of its {len(videos)} videos, found "
            + (f"{absent[:5]}, which it does not have" if absent else f"{part} of them")
        )
    return found


@functools.lru_cache
def _log_once(text: str) -> None:
    logging.info("%s", text)
