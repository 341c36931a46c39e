"""`VideoRecord`s as records, and back.

The index has of each video all that choosing clips needs: size, classes of the instances, and which of them are in each
frame. The masks themselves are in the frames' records.
"""

import collections.abc
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np

from input_pipeline import clips, images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from input_pipeline.shards import index as files
from input_pipeline.shards.records import IMAGE, MAP, TARGETS, FileInRecord
from tarvis_jax.masks import rle

_MAX_ID = 2**24 - 1  # of an instance in a map
EMPTY_RECORD = {IMAGE: b"", MAP: b"", TARGETS: b""}


def frame_record(video: VideoRecord, frame: int) -> dict[str, bytes]:
    """What the record of a frame holds; a ValueError if its image cannot be read."""
    path = video.frame_paths[frame]
    try:
        image = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    video.load_frame(frame)  # an image that cannot be decoded is found here and not in the middle of training
    segments = {str(i): mask for i, mask in video.segmentations[frame].items() if mask is not None}
    targets: dict[str, Any] = {"segmentations": segments}
    if video.semantics is not None:
        targets["semantics"] = {str(label): mask for label, mask in video.semantics[frame].items()}
    return {
        IMAGE: image,
        MAP: b"" if video.panoptic_maps is None else _encode_map(*video.panoptic_map(frame), video.where),
        TARGETS: json.dumps(targets).encode(),
    }


def index_entry(video: VideoRecord, shard: int, position: int, with_boxes: bool) -> dict[str, Any]:
    """What the index holds of a video whose frames begin at `position` of shard number `shard`.

    With `with_boxes`, it also holds the boxes of the objects, which the mixture of an exemplar dataset asks for before
    the first step.
    """
    boxes = None
    if with_boxes:
        boxes = [
            {str(i): box.tolist() for i, box in clips.object_boxes(video, frame).items()}
            for frame in range(video.num_frames)
        ]
    return {
        "id": video.id,
        "source": pathlib.Path(video.source).name,
        "height": video.height,
        "width": video.width,
        "shard": shard,
        "position": position,
        "frames": [path.name for path in video.frame_paths],
        "instances": {str(i): label for i, label in video.instances.items()},
        "visible": [sorted(segments) for segments in video.segmentations],
        "in_maps": sorted({i for segments in video.segmentations for i, mask in segments.items() if mask is None}),
        "annotated_frames": list(video.annotated_frames),
        "has_semantics": video.semantics is not None,
        "has_maps": video.panoptic_maps is not None,
        "crowd": sorted(video.crowd),
        "boxes": boxes,
    }


def training_videos(dataset: DatasetConfig, root: str) -> list[VideoRecord]:
    """The training videos of a dataset, from the shards prepared below `root`.

    Raises:
      ValueError: they are not there, not complete, or prepared with other settings.
    """
    folder = files.folder_of(root, dataset.name)
    index = files.read_index(folder, "train")
    expected = files.prepared_fields(dataset)
    if index.prepared != expected:
        raise ValueError(f"{folder}: was prepared with {index.prepared}, the config has {expected}")
    files.check_shards(folder, index, contents=False)
    videos = [
        _video(entry, dataset.name, folder, index.shards, f"{folder}/{files.index_name('train')}, videos[{i}]")
        for i, entry in enumerate(index.videos)
    ]
    return [video for video in videos if not dataset.holds_out(video.id)]


class _Targets(collections.abc.Mapping):
    """The masks of one frame by id, read from its record when one of them is asked for."""

    def __init__(self, record: FileInRecord, key: str, ids: tuple[int, ...], in_maps: frozenset[int]):
        self._record, self._key, self._ids, self._in_maps = record, key, ids, in_maps

    def __getitem__(self, target: int) -> rle.Rle | None:
        if target not in self._ids:
            raise KeyError(target)
        return None if target in self._in_maps else self._read()[str(target)]

    def __contains__(self, target: object) -> bool:
        return target in self._ids

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def _read(self) -> Mapping[str, rle.Rle]:
        return _targets(self._record, os.getpid())[self._key]


class _Semantics(collections.abc.Mapping):
    """The masks of one frame by class, read from its record."""

    def __init__(self, record: FileInRecord):
        self._record = record

    def _read(self) -> Mapping[str, rle.Rle]:
        return _targets(self._record, os.getpid())["semantics"]

    def __getitem__(self, label: int) -> rle.Rle:
        return self._read()[str(label)]

    def __iter__(self) -> Iterator[int]:
        return iter([int(label) for label in self._read()])

    def __len__(self) -> int:
        return len(self._read())


@functools.lru_cache(maxsize=16)
def _targets(record: FileInRecord, process: int) -> dict[str, Any]:
    del process  # only tells the entries of forked processes apart
    try:
        return json.loads(record.read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{record}: cannot be read ({error})") from error


def _video(entry: Any, dataset: str, folder: Any, shards: tuple[files.Shard, ...], where: str) -> VideoRecord:
    get = functools.partial(workspace.get, entry, where=where)
    frames, visible, in_maps = (get(key, list) for key in ("frames", "visible", "in_maps"))
    number, first = get("shard", int), get("position", int)
    if not 0 <= number < len(shards):
        raise ValueError(f"{where}: shard {number} is not in 0..{len(shards) - 1}")
    if first < 0 or first + len(frames) > shards[number].records or len(visible) != len(frames):
        raise ValueError(
            f"{where}: {len(frames)} frames from record {first} on with {len(visible)} lists of instances do not fit "
            f"shard {number} with its {shards[number].records} records"
        )
    path = os.fspath(folder / shards[number].file)
    boxes = get("boxes", (list, type(None)))

    def part(t: int, field: str) -> FileInRecord:
        return FileInRecord(path, shards[number].records, first + t, field, frames[t])

    times = range(len(frames))
    mapped = frozenset(in_maps)
    return VideoRecord(
        dataset=dataset,
        id=get("id", (int, str)),
        source=where,
        frame_paths=tuple(part(t, IMAGE) for t in times),
        height=get("height", int),
        width=get("width", int),
        instances={workspace.to_id(i, where): label for i, label in get("instances", dict).items()},
        segmentations=tuple(_Targets(part(t, TARGETS), "segmentations", tuple(visible[t]), mapped) for t in times),
        annotated_frames=tuple(get("annotated_frames", list)),
        semantics=tuple(_Semantics(part(t, TARGETS)) for t in times) if get("has_semantics", bool) else None,
        panoptic_maps=tuple(part(t, MAP) for t in times) if get("has_maps", bool) else None,
        read_panoptic=_read_map,
        crowd=frozenset(get("crowd", list)),
        boxes=None if boxes is None else tuple({int(i): tuple(box) for i, box in each.items()} for each in boxes),
    )


def _encode_map(classes: np.ndarray, instances: np.ndarray, where: str) -> bytes:
    """Classes uint8 and instances int32 [H, W] as a PNG: three bytes of the instance, then the class."""
    if instances.max(initial=0) > _MAX_ID:
        raise ValueError(f"{where}: instance id {int(instances.max())} is above {_MAX_ID}")
    pixels = np.stack([instances & 255, instances >> 8 & 255, instances >> 16 & 255, classes], axis=-1)
    return cv2.imencode(".png", pixels.astype(np.uint8))[1].tobytes()


def _read_map(path: FileInRecord, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """What `_encode_map` wrote: classes uint8 [H, W] and instances int32 [H, W]."""
    pixels = images.decode(path, cv2.IMREAD_UNCHANGED, (height, width))
    if pixels.shape != (height, width, 4):
        raise ValueError(f"{path}: expected a map of shape {[height, width, 4]}, found {list(pixels.shape)}")
    wide = pixels.astype(np.int32)
    return pixels[..., 3].copy(), wide[..., 0] | wide[..., 1] << 8 | wide[..., 2] << 16
