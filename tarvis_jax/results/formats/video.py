"""What all formats of result files share: a video whose result is read when it is its turn, and the options."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import files
from tarvis_jax.results.tracks import Track, VideoResult


@dataclasses.dataclass(frozen=True)
class ResultVideo:
    """The result of one video.

    Attributes:
      id: what the benchmark calls the video: a number in YouTube-VIS and OVIS, else its name ("0002",
        "LaSOT/airplane-1").
      frame_names: of its frames in order, file names without folder and suffix.
      load: gives the tracks of these frames; called once by a writer, which lets go of the result before the next
        video, so that a run over many videos holds one at a time.
    """

    id: int | str
    frame_names: tuple[str, ...]
    load: Callable[[], VideoResult]


@dataclasses.dataclass(frozen=True)
class Options:
    """What writers and readers need beside the tracks; each format takes what it needs (docs/results.md).

    Attributes:
      class_names: of class 1..K; formats of labeling tools store them.
      thing_classes: VPS: classes with instances, 0..K-1 as in semantic maps.
      score_threshold: VPS: tracks with a score up to this are not in the panoptic map, 0..1.
      max_predictions: VIS: (track, class) pairs of a video.
      annotations: the benchmark's own JSON of the split, where a format repeats parts of it: the videos (YouTube-VIS,
        OVIS), ids and order of the frames (Cityscapes-VPS, VIPSeg), the sequences (BURST), the annotated frames
        (YouTube-VOS).
      image_suffix: formats of labeling tools: what the files of the frames end in.
      polygons: CVAT: outlines instead of masks.
    """

    class_names: tuple[str, ...] = ()
    thing_classes: tuple[int, ...] = ()
    score_threshold: float = 0.5
    max_predictions: int = 10
    annotations: pathlib.Path | None = None
    image_suffix: str = ".jpg"
    polygons: bool = False


DEFAULTS = Options()
_MAX_MASKS = 10**8  # of a video, counting the frames in which a track has none


def loaded(videos: Iterable[ResultVideo]) -> Iterator[tuple[ResultVideo, VideoResult]]:
    """Each video with its result, checked. Callers `del` the result before they ask for the next, so that one is held.

    Raises:
      ValueError: names that lead out of a folder, two videos with one id, two frames of one name, another number of
        frames than names, two tracks with one id, or a mask of another size than the video's.
    """
    seen = set()
    for video in videos:
        if video.id in seen:
            raise ValueError(f"video {video.id!r}: its result is there twice")
        seen.add(video.id)
        for name in (str(video.id), *video.frame_names):
            files.check_name(name, f"video {video.id!r}")
        if len(set(video.frame_names)) < len(video.frame_names):
            raise ValueError(f"video {video.id!r}: two of its frames have one name")
        result = video.load()
        check(result, f"video {video.id!r}")
        if result.num_frames != len(video.frame_names):
            raise ValueError(
                f"video {video.id!r}: {result.num_frames} frames in its result, {len(video.frame_names)} names"
            )
        yield video, result
        del result


def check(result: VideoResult, where: str) -> None:
    """Raises ValueError unless tracks and semantic maps fit the size and number of frames of their video."""
    size, ids = list(result.size), [track.id for track in result.tracks]
    if len(set(ids)) < len(ids):
        twice = next(each for i, each in enumerate(ids) if each in ids[:i])
        raise ValueError(f"{where}: two tracks have the id {twice!r}")
    for track in result.tracks:
        if len(track.segmentations) != result.num_frames:
            raise ValueError(
                f"{where}, track {track.id!r}: {len(track.segmentations)} masks for {result.num_frames} frames"
            )
        if not math.isfinite(track.score):
            raise ValueError(f"{where}, track {track.id!r}: expected a finite score, found {track.score}")
        for frame, encoded in enumerate(track.segmentations):
            if encoded is not None and list(encoded["size"]) != size:
                raise ValueError(
                    f"{where}, track {track.id!r}, frame {frame}: a mask of {encoded['size']}, expected {size}"
                )
    if result.semantic is not None and len(result.semantic) != result.num_frames:
        raise ValueError(f"{where}: {len(result.semantic)} semantic maps for {result.num_frames} frames")


def check_count(num_tracks: int, num_frames: int, where: str) -> None:
    """Raises ValueError for more tracks and frames than a file is worth reading."""
    if num_tracks * num_frames > _MAX_MASKS:
        raise ValueError(
            f"{where}: {num_tracks} tracks of {num_frames} frames; expected at most {_MAX_MASKS} masks in all"
        )


def numbers(result: VideoResult, lowest: int, highest: int, where: str, what: str) -> dict[int | str, int]:
    """Id -> id of the tracks for a format that takes numbers only.

    Raises:
      ValueError: an id that is no number, or is not in lowest..highest.
    """
    for track in result.tracks:
        if type(track.id) is not int or not lowest <= track.id <= highest:
            raise ValueError(f"{where}: object id {track.id!r:.80} does not fit {what} ({lowest}..{highest})")
    return {track.id: track.id for track in result.tracks}


def visible(encoded: rle.Rle | None) -> rle.Rle | None:
    """A mask, or None for one without a pixel."""
    return encoded if encoded is not None and rle.area(encoded) else None


def value_map(result: VideoResult, frame: int, values: dict[int | str, int], dtype: type) -> np.ndarray:
    """The value of the track of each pixel, 0 where there is none, [H, W].

    Where masks overlap, the one with the higher score keeps the pixel; of equal ones the later one.
    """
    columns = np.zeros(result.size[0] * result.size[1], dtype)
    for track in sorted(result.tracks, key=lambda track: track.score):
        if track.segmentations[frame] is not None:
            rle.paint(columns, track.segmentations[frame], values[track.id])
    return np.ascontiguousarray(columns.reshape(result.size[1], result.size[0]).T)


def from_value_maps(video: str, dataset: str, maps: Iterable[np.ndarray], ignored: tuple[int, ...] = ()) -> VideoResult:
    """The tracks of maps as `value_map` makes them: their ids are the values."""
    segmentations: dict[int, dict[int, rle.Rle]] = {}
    size, count = (0, 0), 0
    for frame, values in enumerate(maps):
        size, count = values.shape, frame + 1
        for value, encoded in rle.encode_labels(values).items():
            if value and value not in ignored:
                segmentations.setdefault(value, {})[frame] = encoded
    tracks = [
        Track(value, [masks.get(frame) for frame in range(count)]) for value, masks in sorted(segmentations.items())
    ]
    return VideoResult(video, dataset, tuple(size), count, tracks)


def class_names(options: Options) -> tuple[str, ...]:
    """The classes 1..K that a file of a labeling tool declares; "object" alone where there are none."""
    return options.class_names or ("object",)


def class_of(track: Track, options: Options, where: str) -> int:
    """The class 1..K of a track in a file of a labeling tool; 1 for a target that was given by example.

    Raises:
      ValueError: a class without a name, or a target given by example where there are several classes.
    """
    count = len(class_names(options))
    label = track.class_id if track.class_id is not None else 1
    if not 1 <= label <= count or (track.class_id is None and count > 1):
        raise ValueError(f"{where}, track {track.id!r}: class {track.class_id} is none of {count} class_names")
    return label
