"""The objects of one video while a file of annotations is read: masks come in any order, a `VideoRecord` comes out."""

import pathlib
from collections.abc import Hashable, Sequence
from typing import Any

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.masks import rle


class ClassIds:
    """The classes that a file declares, by their keys in it -> class ids of the dataset (1..K; 0 for exemplars).

    Names decide, so that two files may list the same classes in another order or count them from another number.
    """

    def __init__(self, names: dict[Any, str], config: DatasetConfig, where: str):
        """`names`: key in the file -> name of the class."""
        self._where, self._config = where, config
        known = {name: label for label, name in enumerate(config.class_names, start=1)}
        self._ids = {key: known.get(name) for key, name in names.items()}
        self._names = names

    def of(self, key: Any, where: str) -> int:
        """The class id of a key; a ValueError for one that the file or the dataset does not have."""
        if self._config.task == EXEMPLAR:
            return 0
        if not isinstance(key, Hashable) or key not in self._ids:
            known = ", ".join(map(repr, list(self._ids)[:20]))
            raise ValueError(f"{where}: unknown class {key!r:.80}; {self._where} declares {known or 'none'}")
        label = self._ids[key]
        if label is None:
            raise ValueError(
                f"{where}: class {self._names[key]!r} is none of the dataset's classes "
                f"{', '.join(self._config.class_names)} (class_names)"
            )
        return label


class Tracks:
    """Masks by frame and object.

    Attributes:
      where: file and place of the video in it, for errors.
    """

    def __init__(self, frames: Sequence[pathlib.Path], height: int, width: int, where: str):
        """`frames`: of the video, which must exist; height and width: of all of them, in pixels."""
        workspace.check_files(list(frames), where)
        if not frames:
            raise ValueError(f"{where}: the video has no frames")
        found = images.image_size(frames[0])
        if found != (height, width):
            raise ValueError(
                f"{where}: the annotations say [height, width] = {[height, width]}, {frames[0]} has {list(found)}"
            )
        self.where = where
        self._frames, self._height, self._width = tuple(frames), height, width
        self._classes: dict[Hashable, int] = {}
        self._masks: list[dict[Hashable, list[rle.Rle]]] = [{} for _ in frames]

    def add(self, frame: int, track: Hashable, label: int, segmentation: Any, where: str) -> None:
        """A mask, or a part of one, of an object in a frame.

        Args:
          frame: 0..T-1.
          track: what tells the objects of the video apart.
          label: class id.
          segmentation: whatever `rle.to_rle` takes.
        Raises:
          ValueError: the mask is malformed, or the object has two classes.
        """
        if self._classes.setdefault(track, label) != label:
            raise ValueError(f"{where}: the object has class {label} here and {self._classes[track]} before")
        encoded = rle.to_rle(segmentation, self._height, self._width, where)
        if rle.area(encoded):
            self._masks[frame].setdefault(track, []).append(encoded)

    def record(
        self, config: DatasetConfig, id: int | str, source: pathlib.Path, annotated: Sequence[int]
    ) -> VideoRecord:
        """The VideoRecord. Objects keep their numbers where all have one (those that begin at 0 are raised by 1)."""
        tracks = list(self._classes)
        if all(isinstance(track, int) and track >= 0 for track in tracks):
            shift = 1 if 0 in self._classes else 0
            numbers = {track: track + shift for track in tracks}
        else:
            numbers = {track: number for number, track in enumerate(tracks, start=1)}
        return VideoRecord(
            dataset=config.name,
            id=id,
            source=str(source),
            frame_paths=self._frames,
            height=self._height,
            width=self._width,
            instances={numbers[track]: label for track, label in self._classes.items()},
            segmentations=tuple(
                {numbers[track]: rle.union(parts) for track, parts in frame.items()} for frame in self._masks
            ),
            annotated_frames=tuple(annotated),
        )
