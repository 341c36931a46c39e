"""Official dataset files -> `VideoRecord`s: one module per format, chosen by `DatasetConfig.format`."""

from types import ModuleType

from input_pipeline.config import DatasetConfig
from input_pipeline.readers import burst, davis, generic, kitti_step, vipseg, youtube_vis
from input_pipeline.records import VideoRecord

READERS: dict[str, ModuleType] = {
    "youtube_vis": youtube_vis,
    "generic": generic,
    "kitti_step": kitti_step,
    "vipseg": vipseg,
    "davis": davis,
    "davis_official": davis,
    "burst": burst,
}


def training_videos(config: DatasetConfig, workspace: str = "") -> list[VideoRecord]:
    """All training videos of a dataset.

    Raises:
      ValueError: anything missing or malformed, naming file and key; no video; two videos with one id.
    """
    return _checked(READERS[config.format].training_videos(config, workspace), config, config.train_annotations)


def evaluation_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The videos of an inference split ("val", "test", ...), with what ground truth the files hold."""
    return _checked(READERS[config.format].evaluation_videos(config, split, workspace), config, config.eval_images)


def ground_truth_videos(config: DatasetConfig, split: str, workspace: str = "") -> list[VideoRecord]:
    """The same videos with the ground truth of every annotated frame, for evaluators.

    These are `evaluation_videos` except for BURST, whose evaluation file holds only the first frame of each track.
    """
    if config.format != "burst":
        return evaluation_videos(config, split, workspace)
    return _checked(burst.ground_truth_videos(config, split, workspace), config, config.eval_truth)


def _checked(videos: list[VideoRecord], config: DatasetConfig, path: str) -> list[VideoRecord]:
    if not videos:
        raise ValueError(f"dataset {config.name}, {path}: has no video")
    seen = set()
    for video in videos:
        if video.id in seen:
            raise ValueError(f"{video.where}: two videos have this id")
        seen.add(video.id)
    return videos
