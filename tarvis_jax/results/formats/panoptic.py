"""What the formats of VPS share: maps of classes and tracks, and PNGs whose colors are ids of segments."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results import png_files
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import Options, ResultVideo
from tarvis_jax.results.panoptic import numbered, panoptic_frame, thing_tracks
from tarvis_jax.results.tracks import Track, VideoResult

VOID = 255  # class of pixels without any
_MAX_SEGMENT_TRACK = 2**16 - 1


def maps(result: VideoResult, options: Options, highest: int, where: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Class map (0..K-1, 255 = void) and map of tracks (0 = none) of each frame, int32 [H, W] each.

    Things above `options.score_threshold` cover stuff, better ones cover worse ones. Tracks keep their ids if all are
    1..highest, else they are numbered anew (`results.panoptic.numbered`).
    """
    if result.semantic is None:
        raise ValueError(f"{where}: has no semantic maps; the format takes results of panoptic datasets")
    tracks = numbered(thing_tracks(result, options.thing_classes, options.score_threshold), highest, where)
    for frame in range(result.num_frames):
        classes, ids = panoptic_frame(result, frame, tracks)
        if not 0 <= classes.min() <= classes.max() <= VOID:
            raise ValueError(
                f"{where}, frame {frame}: expected classes 0..{VOID}, found {classes.min()}..{classes.max()}"
            )
        yield classes, ids


def from_maps(
    video: str, frames: Iterable[tuple[np.ndarray, np.ndarray]], thing_classes: Iterable[int], *, segments: bool = False
) -> VideoResult:
    """The result whose maps these are: a track for each id and thing class, and everything in the semantic maps.

    A track keeps its id unless another track of the video has it with another class; then all are numbered anew, in the
    order in which they appear. The same holds with `segments`, where the ids are those of segments: they are kept, as
    ids of tracks, if all are made as `segment_maps` makes them.
    """
    things = set(thing_classes)
    masks: dict[tuple[int, int], dict[int, rle.Rle]] = {}  # (id, class) -> frame -> mask
    semantic, size = [], (0, 0)
    for frame, (classes, ids) in enumerate(frames):
        size = classes.shape
        semantic.append(rle.encode_labels(classes.astype(np.uint8)))
        for key, encoded in rle.encode_labels((ids.astype(np.uint32) << 8) + classes.astype(np.uint32)).items():
            number, label = divmod(key, VOID + 1)
            if number and label in things:
                masks.setdefault((number, label), {})[frame] = encoded
    names: list[int] = [number for number, _ in masks]
    if segments and all(number % 256 - 1 == label and number > 255 for number, label in masks):
        names = [number >> 8 for number in names]
    elif segments:
        names = []
    if len(set(names)) < len(masks):
        names = list(range(1, len(masks) + 1))
    tracks = [
        Track(name, [of_frame.get(frame) for frame in range(len(semantic))], class_id=label + 1)
        for name, ((_, label), of_frame) in zip(names, masks.items(), strict=True)
    ]
    return VideoResult(video, "", tuple(size), len(semantic), tracks, semantic)


def segment_maps(
    result: VideoResult, options: Options, where: str
) -> Iterator[tuple[np.ndarray, list[dict[str, Any]]]]:
    """Per frame an RGB image, uint8 [H, W, 3], whose colors are ids of segments, and the list of its segments.

    The id is R + 256 G + 65536 B = 256 x track + class + 1, with track 0 for stuff, so that it is the same in all
    frames of a video. Pixels of a thing class without a track, and void, have id 0, which is no segment (as in the
    reference).

    Differs from the reference: it draws the ids from colors of the classes, at random where a class has several
    objects.
    """
    things = np.isin(np.arange(VOID + 1), options.thing_classes)
    for classes, ids in maps(result, options, _MAX_SEGMENT_TRACK, where):
        segments = np.where((classes == VOID) | (things[classes] & (ids == 0)), 0, ids * 256 + classes + 1)
        areas = np.bincount(segments.ravel(order="K"))
        info = [
            {"id": value, "category_id": value % 256 - 1, "iscrowd": 0, "area": int(areas[value])}
            for value in np.flatnonzero(areas).tolist()
            if value
        ]
        yield np.stack([segments & 255, segments >> 8 & 255, segments >> 16], axis=-1).astype(np.uint8), info


def maps_of_segments(colors: np.ndarray, categories: dict[int, int], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Class map, uint8 [H, W], and map of segments, uint32 [H, W], of an RGB image of segments.

    Args:
      colors: uint8 [H, W, 3].
      categories: id of a segment of this frame -> class 0..K-1.

    Raises:
      ValueError: a color that is the id of no segment, or a segment without a pixel, as in the official tools.
    """
    channels = colors.astype(np.uint32)
    segments = channels[..., 0] | channels[..., 1] << 8 | channels[..., 2] << 16
    different = set(rle.encode_labels(segments)) - {0} ^ set(categories)
    if different:
        raise ValueError(f"{where}: segments {sorted(different)[:5]} are in one of PNG and JSON only")
    class_of = np.full(max(categories, default=0) + 1, VOID, np.uint8)
    class_of[list(categories)] = list(categories.values())
    return class_of[segments], segments


def video_of_segments(
    name: str, frames: Sequence[tuple[pathlib.Path, dict[int, int]]], thing_classes: Iterable[int]
) -> ResultVideo:
    """A video whose frames are PNGs of segments; they are read when it is loaded.

    Args:
      name: id of the video.
      frames: in order: the PNG, and id -> class of its segments.
      thing_classes: as for `from_maps`.
    """

    def load() -> VideoResult:
        images = png_files.frame_stack([png for png, _ in frames], ("RGB",))
        maps = (
            maps_of_segments(image, categories, str(png))
            for image, (png, categories) in zip(images, frames, strict=True)
        )
        return from_maps(name, maps, thing_classes, segments=True)

    return ResultVideo(name, tuple(png.stem for png, _ in frames), load)


def segment_list(annotation: dict, where: str) -> dict[int, int]:
    """Id -> class of the segments that a JSON lists for a frame."""
    found: dict[int, int] = {}
    for i, segment in enumerate(files.get(annotation, "segments_info", list, where)):
        place = f"{where}.segments_info[{i}]"
        key, label = (files.get(segment, name, int, place) for name in ("id", "category_id"))
        if not 0 < key < 2**24 or not 0 <= label < VOID:
            raise ValueError(
                f"{place}: expected an id 1..{2**24 - 1} and a category 0..{VOID - 1}, found {key}, {label}"
            )
        if found.setdefault(key, label) != label:
            raise ValueError(f"{place}: segment {key} has two categories")
    return found
