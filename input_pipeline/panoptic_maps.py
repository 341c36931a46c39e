"""Panoptic PNGs whose colors a JSON explains (COCO's panoptic format): id = R + 256 G + 65536 B, 0 is void."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig

_MAX_SEGMENTS = 65_535


@dataclasses.dataclass(frozen=True)
class SegmentMaps:
    """What the colors of one video's PNGs mean; it is called to read one (`VideoRecord.read_panoptic`).

    Attributes:
      segments: name of the frame's PNG without suffix -> id of the segment -> (class 0..K-1, instance).
        Instances are numbered from 1 in the order in which a video's things appear; 0: stuff, or a crowd.
      numbered: folder of VIPSeg's own maps of the same frames, or None. A thing without number in them (the value is
        class + 1) stands for no single object: it is void, as in the reference.
      unnumbered: the values of such things.
    """

    segments: Mapping[str, Mapping[int, tuple[int, int]]]
    numbered: pathlib.Path | None = None
    unnumbered: tuple[int, ...] = ()

    def __call__(self, path: pathlib.Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes uint8 [H, W] (0..K-1; 255: void or an id that the JSON does not list), instances int32 [H, W]."""
        values = images.read_color_ids(path, height, width)
        segments = self.segments[path.stem]
        rows = np.array([(images.VOID, 0), *segments.values()], np.int32)
        # Zeros that are never looked at cost no memory; row 0 is what the JSON does not list.
        table = np.zeros(images.MAX_SEGMENT_ID + 1, np.uint16)
        table[list(segments)] = np.arange(1, len(rows))
        labels, instances = (column[table[values]] for column in rows.T)
        labels = labels.astype(np.uint8)
        if self.numbered is not None:
            values = images.read_gray(self.numbered / path.name, height, width)
            void = np.isin(values, self.unnumbered)
            labels[void], instances[void] = images.VOID, 0
        return labels, instances

    def instances(self) -> dict[int, int]:
        """Instance -> class 1..K."""
        return {
            instance: label + 1
            for frame in self.segments.values()
            for label, instance in frame.values()
            if instance > 0
        }

    def visible(self, stem: str) -> dict[int, None]:
        """The instances of a frame, as `VideoRecord.segmentations` holds them."""
        return dict.fromkeys(sorted(instance for _, instance in self.segments[stem].values() if instance > 0))


def segment_table(annotations: Sequence[Any], config: DatasetConfig, where: str) -> dict[str, dict]:
    """`SegmentMaps.segments` of one video, from its `annotations` (one per frame, with `file_name`, `segments_info`).

    Raises:
      ValueError: a key is missing, or a class is not in 0..K-1.
    """
    numbers: dict[int, int] = {}
    table = {}
    for i, annotation in enumerate(annotations):
        place = f"{where}[{i}]"
        stem = pathlib.PurePosixPath(workspace.get(annotation, "file_name", str, place)).stem
        segments = {}
        for segment in workspace.get(annotation, "segments_info", list, place):
            segment_id = workspace.get(segment, "id", int, place)
            label = workspace.get(segment, "category_id", int, place)
            if not 0 <= label < config.num_classes or not 0 < segment_id <= images.MAX_SEGMENT_ID:
                raise ValueError(
                    f"{place}: segment {segment_id} of category_id {label}: expected an id in "
                    f"1..{images.MAX_SEGMENT_ID} and a category in 0..{config.num_classes - 1} (num_classes)"
                )
            if segment_id in segments:
                raise ValueError(f"{place}: segment {segment_id} occurs twice")
            single = label in config.thing_classes and not segment.get("iscrowd")
            segments[segment_id] = (label, numbers.setdefault(segment_id, len(numbers) + 1) if single else 0)
        if len(segments) > _MAX_SEGMENTS:
            raise ValueError(f"{place}: {len(segments)} segments, expected at most {_MAX_SEGMENTS} in a frame")
        table[stem] = segments
    return table
