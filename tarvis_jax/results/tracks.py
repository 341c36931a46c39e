"""Tracks of a video as run-length encodings (COCO's RLE): in memory, and as one JSON file.

Nothing here knows the network; an evaluator or a viewer can import it alone.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle

TargetId = int | str  # what the caller calls an object; the network's own tracks are numbered from 1


@dataclasses.dataclass(frozen=True)
class FrameObject:
    """One object in one frame.

    Attributes:
      id: the caller's own (VOS, PET), or a number that the track keeps through the video.
      rle: its pixels, COCO RLE at the frame's own size; `mask` has them as an array.
      class_id: best class 1..K so far (later clips may change a track's mind), None for VOS and PET.
      class_name: its name where the model knows it.
      score: softmax probability of that class so far; 1.0 for VOS and PET.
      is_thing: False for VPS tracks of a stuff class, which a panoptic map does not show.
    """

    id: TargetId
    rle: Rle
    class_id: int | None = None
    class_name: str | None = None
    score: float = 1.0
    is_thing: bool = True

    @property
    def mask(self) -> np.ndarray:
        """bool [H, W]."""
        return rle.decode(self.rle)


@dataclasses.dataclass(frozen=True)
class TrackEnd:
    """The last word on a track of VIS or VPS that no later frame has.

    Attributes:
      id: the track's number.
      class_logits: mean over its clips, [1 + K], column 0 = background.
      class_id: best class 1..K.
      score: softmax probability of that class.
    """

    id: int
    class_logits: tuple[float, ...]
    class_id: int
    score: float


@dataclasses.dataclass(frozen=True)
class FrameResult:
    """What is final about one frame.

    Attributes:
      frame: index in the video.
      objects: those with a pixel in this frame. VIS and VPS tracks may overlap.
      semantic: VPS: stuff class (0..K-1) per pixel, uint16 [H, W], also under the tracks. Else None.
      ended: VIS and VPS: tracks that have ended with a frame up to this one and were not told before.
    """

    frame: int
    objects: tuple[FrameObject, ...]
    semantic: np.ndarray | None = None
    ended: tuple[TrackEnd, ...] = ()

    @property
    def masks(self) -> dict[TargetId, Rle]:
        """Object id -> RLE."""
        return {each.id: each.rle for each in self.objects}

    def panoptic(self) -> tuple[np.ndarray, np.ndarray]:
        """VPS: class (0..K-1) and track id (0 = stuff) per pixel, int32 [H, W] each; better things cover worse ones.

        Classes are those of the clips so far; `results.panoptic` makes the maps of a finished video.

        Raises:
          ValueError: the frame is of another task.
        """
        if self.semantic is None:
            raise ValueError(f"frame {self.frame}: only results of panoptic datasets have a panoptic map")
        things = sorted((each for each in self.objects if each.is_thing), key=lambda each: each.score)
        return paint_things(self.semantic, [(each.id, each.class_id, each.rle) for each in things])


@dataclasses.dataclass
class Track:
    """One target through a video.

    Attributes:
      id: unique within the video; the caller's own for VOS and PET.
      segmentations: per frame of the video an RLE at original size, or None where it has no pixel.
      class_logits: mean over clips, [1 + K], column 0 = background; None for VOS and PET.
      class_id: best class 1..K, or None for VOS and PET.
      score: softmax probability of that class; 1.0 for VOS and PET.
    """

    id: TargetId
    segmentations: list[Rle | None]
    class_logits: list[float] | None = None
    class_id: int | None = None
    score: float = 1.0


@dataclasses.dataclass
class VideoResult:
    """All tracks of a video; `size` is (height, width), `semantic` (VPS) holds class id -> RLE per frame."""

    video: str
    dataset: str
    size: tuple[int, int]
    num_frames: int
    tracks: list[Track]
    semantic: list[dict[int, Rle]] | None = None

    def semantic_map(self, frame: int) -> np.ndarray:
        """Class id (0..K-1) per pixel of a frame, int32 [H, W]; raises ValueError where there is none."""
        if self.semantic is None:
            raise ValueError(f"{self.video}: results of {self.dataset} have no semantic maps")
        height, width = self.size
        columns = np.zeros(width * height, np.int32)
        for class_id, encoded in self.semantic[frame].items():
            rle.paint(columns, encoded, class_id)
        return columns.reshape(width, height).T


def paint_things(class_map: np.ndarray, things: Iterable[tuple[TargetId, int, Rle]]) -> tuple[np.ndarray, np.ndarray]:
    """A panoptic map: class (0..K-1) and track id (0 = stuff) per pixel, int32 [H, W] each.

    Args:
      class_map: int [H, W], what lies under the things; 0..K-1.
      things: (track id, class id 1..K, mask); a later one covers an earlier one.
    """
    class_map = class_map.astype(np.int32)
    id_map = np.zeros_like(class_map)
    for track_id, class_id, encoded in things:
        mask = rle.decode(encoded)
        class_map[mask] = class_id - 1
        id_map[mask] = track_id
    return class_map, id_map


def encode_semantic(class_map: np.ndarray) -> dict[int, Rle]:
    """int [H, W] -> class id -> RLE, for the classes that occur."""
    return rle.encode_labels(class_map)


def frame_line(frame: FrameResult) -> str:
    """A frame's result as one line of JSON; `read_stream` reads a file of them."""
    content: dict[str, Any] = {"frame": frame.frame, "masks": [[each.id, each.rle] for each in frame.objects]}
    if frame.semantic is not None:
        content["semantic"] = encode_semantic(frame.semantic)
    if frame.ended:
        content["ended"] = [dataclasses.asdict(each) for each in frame.ended]
    return json.dumps(content)


def stream_start(video: str, dataset: str, size: tuple[int, int]) -> str:
    """First line of a file of frame results."""
    return json.dumps({"video": video, "dataset": dataset, "size": list(size)})


def stream_end(num_frames: int) -> str:
    """Last line of a file of frame results: without it, the file is known to be cut off."""
    return json.dumps({"num_frames": num_frames})


def read_stream(path: str | pathlib.Path) -> VideoResult:
    """The whole video of a file of frame results: `stream_start`, a `frame_line` for each frame, `stream_end`.

    Raises:
      ValueError: a line that is none of these, or a file that was cut off; names file and line.
    """
    tracks: dict[TargetId, Track] = {}
    semantic: list[dict[int, Rle]] = []
    start = num_frames = None
    seen = number = 0
    try:
        with open(path) as lines:
            for line in lines:
                number += 1
                content = json.loads(line)
                if start is None:
                    start = content["video"], content["dataset"], tuple(content["size"])
                elif "num_frames" in content:
                    num_frames = content["num_frames"]
                else:
                    if content["frame"] != seen:
                        raise KeyError(f"frame {seen}")
                    seen += 1
                    for track_id, encoded in content["masks"]:
                        track = tracks.setdefault(track_id, Track(track_id, []))
                        track.segmentations += [None] * (seen - 1 - len(track.segmentations)) + [encoded]
                    if "semantic" in content:
                        semantic.append({int(k): encoded for k, encoded in content["semantic"].items()})
                    for each in content.get("ended", ()):
                        track = tracks.setdefault(each["id"], Track(each["id"], []))
                        track.class_logits = each["class_logits"]
                        track.class_id, track.score = each["class_id"], each["score"]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}, line {number}: not a frame's result as frame_line makes it ({error!r})") from error
    if num_frames != seen:
        raise ValueError(f"{path}: the file is cut off: found {seen} frames, its last line promises {num_frames}")
    for track in tracks.values():
        track.segmentations += [None] * (seen - len(track.segmentations))
    ordered = sorted(tracks.values(), key=lambda track: (isinstance(track.id, str), track.id))
    return VideoResult(*start, seen, ordered, semantic or None)


def write_tracks(path: str | pathlib.Path, result: VideoResult) -> None:
    """Writes a video's result as JSON (`read_tracks` gives it back)."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = vars(result) | {"tracks": [vars(track) for track in result.tracks]}  # `asdict` would copy every RLE
    path.write_text(json.dumps(content))


def read_tracks(path: str | pathlib.Path) -> VideoResult:
    """Reads what `write_tracks` wrote; raises ValueError if the file is something else."""
    try:
        content = json.loads(pathlib.Path(path).read_text())
        semantic = content["semantic"]
        if semantic is not None:
            semantic = [{int(k): encoded for k, encoded in frame.items()} for frame in semantic]
        return VideoResult(
            video=content["video"],
            dataset=content["dataset"],
            size=tuple(content["size"]),
            num_frames=content["num_frames"],
            tracks=[Track(**track) for track in content["tracks"]],
            semantic=semantic,
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a tracks file as write_tracks makes it ({error!r})") from error
