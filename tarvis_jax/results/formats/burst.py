"""BURST: results.json, which is the benchmark's JSON with our masks in the place of its own.

A sequence has, for each of its annotated frames, {track id: {"rle": counts, "is_gt": false, "score": ...}}. Frames
between the annotated ones are left out, and so are empty masks, which would count as detections. Everything else is
that of `options.annotations` (first_frame_annotations.json, required), the classes of the tracks included.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, check_count, loaded, visible
from tarvis_jax.results.tracks import Track, VideoResult

FILE = "results.json"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/results.json; returns it. The ids of videos are "<dataset>/<seq_name>".

    Raises:
      ValueError: no `options.annotations`; a sequence that is missing or not listed, another size, an annotated frame
        without result, or a track that the benchmark does not give.
    """
    output = pathlib.Path(output)
    path = options.annotations
    if path is None:
        raise ValueError("BURST: expected the benchmark's first_frame_annotations.json of the split")
    content = files.read_json(path)
    listed = _sequences(content, path)

    def sequences() -> Iterator[dict[str, Any]]:
        seen = set()
        for video, result in loaded(videos):
            if video.id not in listed:
                raise ValueError(f"video {video.id!r}: {path} does not list it")
            seen.add(video.id)
            yield _with_masks(listed[video.id], video, result, path)
            del result
        missing = sorted(listed.keys() - seen)
        if missing:
            raise ValueError(f"{len(missing)} of {len(listed)} sequences of {path} have no result: {missing[:5]}")

    rest = {key: value for key, value in content.items() if key != "sequences"}
    with files.whole_folder(output) as folder:
        files.write_json_list(folder / FILE, "sequences", sequences(), rest)
    return [output / FILE]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The sequences of a results.json (or the folder that it lies in): the annotated frames.

    The score of a track is the mean over its frames (1 where the file has none), as in the official tool.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    for name, sequence in _sequences(files.read_json(path), path).items():
        frames = files.get(sequence, "segmentations", list, f"{path}, {name}")
        names = _frame_names(sequence, f"{path}, {name}")
        if len(frames) != len(names):
            raise ValueError(f"{path}, {name}: {len(frames)} segmentations for {len(names)} annotated_image_paths")
        yield ResultVideo(name, names, lambda name=name, sequence=sequence: _result(name, sequence, f"{path}, {name}"))


def _sequences(content: Any, path: pathlib.Path) -> dict[str, dict[str, Any]]:
    found = {}
    for i, sequence in enumerate(files.get(content, "sequences", list, str(path))):
        where = f"{path}, sequences[{i}]"
        name = "/".join(files.get(sequence, key, str, where) for key in ("dataset", "seq_name"))
        if name in found:
            raise ValueError(f"{where}: sequence {name!r} is there twice")
        found[name] = sequence
    return found


def _frame_names(sequence: dict[str, Any], where: str) -> tuple[str, ...]:
    listed = files.get(sequence, "annotated_image_paths", list, where)
    if not all(isinstance(name, str) for name in listed):
        raise ValueError(f"{where}: expected names of files in annotated_image_paths, found {listed!r:.80}")
    return tuple(pathlib.PurePosixPath(name).stem for name in listed)


def _size(sequence: dict[str, Any], where: str) -> tuple[int, int]:
    return tuple(files.get(sequence, key, int, where) for key in ("height", "width"))


def _with_masks(
    sequence: dict[str, Any], video: ResultVideo, result: VideoResult, path: pathlib.Path
) -> dict[str, Any]:
    where = f"video {video.id!r}"
    size, names = _size(sequence, f"{path}, {video.id}"), _frame_names(sequence, f"{path}, {video.id}")
    if tuple(result.size) != size:
        raise ValueError(f"{where}: frames of {tuple(result.size)} (height, width), {path} has {size}")
    index = {name: frame for frame, name in enumerate(video.frame_names)}
    absent = [name for name in names if name not in index]
    if absent:
        raise ValueError(f"{where}: {len(absent)} of {len(names)} annotated frames have no result: {absent[:3]}")
    known = sequence.get("track_category_ids")
    if isinstance(known, dict):
        unknown = [track.id for track in result.tracks if str(track.id) not in known]
        if unknown:
            raise ValueError(f"{where}: tracks {unknown[:5]} are none of those that {path} gives: {sorted(known)[:20]}")
    masks = [
        {
            str(track.id): {"rle": encoded["counts"], "is_gt": False, "score": track.score}
            for track in result.tracks
            if (encoded := visible(track.segmentations[index[name]])) is not None
        }
        for name in names
    ]
    return {**{key: value for key, value in sequence.items() if key != "segmentations"}, "segmentations": masks}


def _result(name: str, sequence: dict[str, Any], where: str) -> VideoResult:
    height, width = _size(sequence, where)
    frames = sequence["segmentations"]
    masks: dict[int, list[rle.Rle | None]] = {}
    scores: dict[int, list[float]] = {}
    for frame, tracks in enumerate(frames):
        if not isinstance(tracks, dict):
            raise ValueError(f"{where}.segmentations[{frame}]: expected track id -> mask, found {tracks!r:.80}")
        for key, entry in tracks.items():
            place = f"{where}.segmentations[{frame}][{key!r:.20}]"
            if not key.isascii() or not key.isdigit():
                raise ValueError(f"{place}: expected a number as id of a track, found {key!r:.20}")
            counts = files.get(entry, "rle", str, place)
            encoded = visible(rle.to_rle(counts, height, width, place))
            check_count(len(masks) + 1, len(frames), place)
            masks.setdefault(int(key), [None] * len(frames))[frame] = encoded
            scores.setdefault(int(key), []).append(
                float(files.get(entry, "score", (int, float), place)) if "score" in entry else 1.0
            )
    tracks = [Track(key, masks[key], score=sum(scores[key]) / len(scores[key])) for key in sorted(masks)]
    return VideoResult(name, "", (height, width), len(frames), tracks)
