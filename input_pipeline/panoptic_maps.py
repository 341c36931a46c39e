"""Panoptic PNGs whose colors a JSON explains (COCO's panoptic format): id = R + 256 G + 65536 B, 0 is void."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig


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
        image = images.read_frame(path, height, width).astype(np.int32)
        ids = image[..., 0] + 256 * image[..., 1] + 65536 * image[..., 2]
        segments = {0: (images.VOID, 0), **self.segments[path.stem]}
        known = np.asarray(sorted(segments), np.int32)
        place = np.minimum(np.searchsorted(known, ids), len(known) - 1)
        place[known[place] != ids] = 0
        labels, instances = np.asarray([segments[i] for i in known.tolist()], np.int32).T
        labels, instances = labels.astype(np.uint8)[place], instances[place]
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
            if not 0 <= label < config.num_classes or not 0 < segment_id < 2**24:
                raise ValueError(
                    f"{place}: segment {segment_id} of category_id {label}: expected an id in 1..{2**24 - 1} and a "
                    f"category in 0..{config.num_classes - 1} (num_classes)"
                )
            single = label in config.thing_classes and not segment.get("iscrowd")
            segments[segment_id] = (label, numbers.setdefault(segment_id, len(numbers) + 1) if single else 0)
        table[stem] = segments
    return table
