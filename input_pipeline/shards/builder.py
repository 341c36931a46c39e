"""The tensorflow-datasets builder that writes prepared shards.

    tfds build input_pipeline/shards/builder.py --config=ovis --data_dir=<folder>

reads the workspace that TARVIS_WORKSPACE_DIR names; `python -m input_pipeline.shards` does the same for the datasets of
a config. With Apache Beam (a runner in the `DownloadConfig`) shards are written in parallel on a cluster.

It writes to a disk; a bucket gets a copy of the finished folder. A shard gets its final name when it is complete. A
preparation that was interrupted goes on with the shards that are missing, and until all of them are there the dataset's
folder does not exist.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import writer as tfds_writer

from input_pipeline import readers
from input_pipeline.bad_records import ERROR, SKIP, BadRecord, LeftOut
from input_pipeline.config import DatasetConfig, dataset_config
from input_pipeline.records import VideoRecord
from input_pipeline.shards import index as files
from input_pipeline.shards import videos as conversion
from input_pipeline.shards.records import features
from input_pipeline.workspace import WORKSPACE_VARIABLE
from tarvis_jax.datasets import DATASETS

SPLIT = "train"
# About 400 MB of JPEGs in 720p. A process keeps 256 shards open (`records.py`), which are then half a million frames.
_FRAMES_PER_SHARD = 2048


class TarvisFrames(tfds.core.ShardBasedBuilder):
    """Frames and targets of a dataset of videos or images, one record per frame.

    Its configs are the datasets of the table, in lower case.
    """

    VERSION = tfds.core.Version(files.VERSION)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name.lower()) for name, row in DATASETS.items() if row.reader]

    def __init__(
        self,
        *,
        config: Any = None,
        dataset: DatasetConfig | None = None,
        workspace: str = "",
        on_bad_record: str = ERROR,
        frames_per_shard: int = _FRAMES_PER_SHARD,
        file_format: Any = None,
        **kwargs: Any,
    ):
        """The builder of one dataset.

        Args:
          config: see tensorflow-datasets; may be left out where `dataset` is given.
          dataset: where its files are; None: as the table says of the dataset that `config` names.
          workspace: see `DataConfig`; "": the folder that TARVIS_WORKSPACE_DIR names.
          on_bad_record: see `DataConfig`; "skip" leaves out the whole video of a frame that cannot be read.
          frames_per_shard: a shard is closed after the video with which it has at least so many.
          file_format: what tensorflow-datasets passes; frames are read at random, so no other format than array_record
            will do.
          kwargs: further arguments of tensorflow-datasets, `data_dir` above all: a folder on a disk.

        Raises:
          ValueError: `data_dir` is in a bucket.
        """
        del file_format
        files.require_disk(kwargs.get("data_dir"))
        if config is None and dataset is not None:
            name = dataset.name.lower()
            config = name if name in self.builder_configs else tfds.core.BuilderConfig(name=name)
        super().__init__(file_format="array_record", config=config, **kwargs)
        self._dataset = dataset or dataset_config(self.builder_config.name.upper())
        self._workspace = workspace or os.environ.get(WORKSPACE_VARIABLE, "")
        self._on_bad_record = on_bad_record
        self._frames_per_shard = frames_per_shard

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Frames and targets of a dataset for training TarViS, one record per frame.",
            features=features(),
        )

    def _example_writer(self) -> tfds_writer.ExampleWriter:
        return _ResumingWriter(self._staging())

    def _staging(self) -> Any:
        """Where complete shards wait until all of them are there; the same folder whenever preparation is begun."""
        return files.folder_of(self._data_dir_root, self._dataset.name).with_name(f"{files.VERSION}.part")

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list[Callable]]:
        del dl_manager
        skips = self._on_bad_record == SKIP
        videos = readers.training_videos(self._dataset, self._workspace, LeftOut() if skips else None)
        self._shards = _split(videos, self._frames_per_shard)
        self._begin()
        return {SPLIT: [_Frames(shard, number, self._staging(), skips) for number, shard in enumerate(self._shards)]}

    def _begin(self) -> None:
        """Empties the folder of complete shards unless they are of the same videos."""
        staging = self._staging()
        # What an interrupted preparation left; its complete shards are in `staging`.
        for folder in staging.parent.glob(f"incomplete.*_{files.VERSION}"):
            if os.fspath(folder) != os.fspath(self.data_path):
                folder.rmtree()
        plan = json.dumps(
            [files.prepared_fields(self._dataset), self._on_bad_record]
            + [[[video.id, [path.name for path in video.frame_paths]] for video in shard] for shard in self._shards]
        )
        note = staging / "plan.json"
        if note.exists() and note.read_text() == plan:
            return
        if staging.exists():
            staging.rmtree()
        staging.mkdir(parents=True)
        note.write_text(plan)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        staging = self._staging()
        lengths, names = self.info.splits[SPLIT].shard_lengths, self.info.splits[SPLIT].filenames
        shards = []
        for name, length in zip(sorted(names), lengths, strict=True):
            path = files.path_of(self.data_path) / name
            shards.append(files.Shard(name, length, path.stat().length, (staging / _checksum_name(name)).read_text()))
        entries, left_out = [], LeftOut()
        with_boxes = self._dataset.task == "exemplar"
        for number, shard in enumerate(self._shards):
            position = 0
            for v, video in enumerate(shard):
                note = staging / _bad_video_name(number, v)
                if note.exists():
                    left_out.add(BadRecord(self._dataset.name, note.read_text()))
                else:
                    entries.append(conversion.index_entry(video, number, position, with_boxes))
                position += video.num_frames
            if position != shards[number].records:
                raise ValueError(f"{names[number]}: expected {position} records, wrote {shards[number].records}")
        if not entries:
            raise ValueError(f"{left_out.first_error(self._dataset.name)}: no video of {self._dataset.name} is left")
        index = files.Index(files.prepared_fields(self._dataset), tuple(shards), tuple(entries))
        files.write_index(self.data_path, SPLIT, index)
        staging.rmtree()


def _split(videos: list[VideoRecord], frames_per_shard: int) -> list[list[VideoRecord]]:
    """Whole videos in order, at least `frames_per_shard` frames together."""
    shards: list[list[VideoRecord]] = [[]]
    frames = 0
    for video in videos:
        if frames >= frames_per_shard:
            shards.append([])
            frames = 0
        shards[-1].append(video)
        frames += video.num_frames
    return shards


@dataclasses.dataclass
class _Frames:
    """Gives the examples of one shard; their contents only where the shard is not complete yet."""

    videos: list[VideoRecord]
    number: int
    staging: Any
    skips: bool

    def __call__(self) -> Iterator[tuple[int, dict[str, bytes] | None]]:
        complete = bool(list(self.staging.glob(f"*-{self.number:05d}-of-*.sha256")))
        key = 0
        for v, video in enumerate(self.videos):
            for frame in range(video.num_frames):
                yield key, None if complete else self._record(v, video, frame)
                key += 1

    def _record(self, number: int, video: VideoRecord, frame: int) -> dict[str, bytes]:
        """The record of a frame. Where bad ones are left out, it is empty and a note says so: the index has no video
        with such a frame."""
        try:
            return conversion.frame_record(video, frame)
        except ValueError as error:
            if not self.skips:
                raise
            (self.staging / _bad_video_name(self.number, number)).write_text(f"{video.where}, frame {frame}: {error}")
            return conversion.EMPTY_RECORD


@dataclasses.dataclass
class _ResumingWriter(tfds_writer.ExampleWriter):
    """Writes a shard into the staging folder unless it is complete there, then puts it where it was asked for."""

    staging: Any

    def __post_init__(self):
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)

    def write(self, path: Any, examples: Any) -> None:
        path = files.path_of(path)
        staged, note = self.staging / path.name, self.staging / _checksum_name(path.name)
        if not note.exists():
            super().write(staged, examples)
            # The note is the last that is written: it says that the shard is complete.
            note.write_text(files.checksum(staged))
        try:
            os.link(staged, path)  # takes no room
        except OSError:
            staged.copy(path)


def _bad_video_name(shard: int, video: int) -> str:
    return f"bad-{shard:05d}-{video:05d}.txt"


def _checksum_name(shard: str) -> str:
    return f"{shard}.sha256"
