"""YouTube-VIS and OVIS: results.json, alone in a zip, with at most so many predictions of each video.

A prediction has `video_id`, `category_id` (1..K), `score` and `segmentations`: per frame of the video a compressed RLE,
or null where the object has no pixel. Predictions of one class do not overlap: the one with the higher score keeps the
pixel. Tracks with class logits compete with each of their classes, as in the reference; other tracks have one class.

Differs from the reference: for YouTube-VIS it leaves frames without the object out of `segmentations`, so that the
masks after such a frame stand for earlier frames. Here, as in its files for OVIS, these frames are null.
"""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.class_scores import softmax
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded, visible
from tarvis_jax.results.tracks import Track, VideoResult

FILE = "results.json"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/results.json and <output>.zip; returns both.

    Raises:
      ValueError: an id of a video that is no number; with `options.annotations`, other videos than there, or other
        numbers of frames.
    """
    output = pathlib.Path(output)
    lengths = {i: len(names) for i, (names, _) in _listed_videos(options.annotations).items()}

    def results() -> Iterator[tuple[int, VideoResult]]:
        seen = set()
        for video, result in loaded(videos):
            if type(video.id) is not int:
                raise ValueError(f"video {video.id!r}: expected the number that the benchmark's JSON gives it")
            if lengths and lengths.get(video.id) != result.num_frames:
                found = f"{lengths[video.id]} frames" if video.id in lengths else "no such video"
                raise ValueError(f"video {video.id}: {result.num_frames} frames, {options.annotations} has {found}")
            seen.add(video.id)
            yield video.id, result
            del result
        missing = sorted(lengths.keys() - seen)
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(lengths)} videos of {options.annotations} have no result: {missing[:5]}"
            )

    with files.whole_folder(output) as folder:
        write_file(folder / FILE, results(), options.max_predictions)
    return [output / FILE, files.write_zip(files.zip_beside(output), output)]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of a results.json (or the folder that it lies in), in the order of their ids.

    Without `options.annotations`, which says their names, frames are 00000, 00001, ... and videos without a mask are
    not known.

    Raises:
      ValueError: malformed entries, or a video that the annotations do not have.
    """
    path = pathlib.Path(path)
    path = path / FILE if path.is_dir() else path
    content = files.read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a list of predictions, found {type(content).__name__}")
    listed = _listed_videos(options.annotations)
    entries: dict[int, list[tuple[str, dict]]] = {i: [] for i in listed}
    for i, entry in enumerate(content):
        where = f"{path}[{i}]"
        video_id = files.get(entry, "video_id", int, where)
        if listed and video_id not in listed:
            raise ValueError(f"{where}: video_id {video_id} is the id of no video of {options.annotations}")
        entries.setdefault(video_id, []).append((where, entry))
    for video_id, of_video in sorted(entries.items()):
        yield _video(video_id, of_video, listed.get(video_id))


def write_file(path: pathlib.Path, results: Iterable[tuple[int, VideoResult]], max_predictions: int = 10) -> None:
    """Writes the JSON of several videos, each with its id."""

    def predictions() -> Iterator[dict[str, Any]]:
        for video_id, result in results:
            yield from youtube_vis_predictions(result, video_id, max_predictions)
            del result

    with files.whole_file(path) as partial, partial.open("w") as file:
        files.write_list(file, predictions())


def ranked_instances(result: VideoResult, max_predictions: int) -> list[tuple[int, int, float]]:
    """The best (index in result.tracks, class id 1..K, score) of a video, best first.

    Every track with class logits competes with each of its classes, so one track may appear more than once with
    different classes; the score is the softmax over background and classes. Tracks without have `class_id` and `score`.
    """
    if not result.tracks:
        return []
    if all(track.class_logits is not None for track in result.tracks):
        scores = softmax(np.asarray([track.class_logits for track in result.tracks], np.float64))[:, 1:]
        best = np.argsort(-scores, axis=None, kind="stable")[:max_predictions]
        rows, columns = np.unravel_index(best, scores.shape)
        return [(int(r), int(c) + 1, float(scores[r, c])) for r, c in zip(rows, columns, strict=True)]
    for track in result.tracks:
        if track.class_logits is not None or track.class_id is None:
            raise ValueError(f"{result.video}, track {track.id!r}: expected class logits, or a class, in all tracks")
    best = np.argsort([-track.score for track in result.tracks], kind="stable")[:max_predictions]
    return [(int(r), result.tracks[r].class_id, result.tracks[r].score) for r in best]


def youtube_vis_predictions(result: VideoResult, video_id: int, max_predictions: int = 10) -> list[dict[str, Any]]:
    """A video's predictions; those of the same class do not overlap (the higher score keeps the pixel).

    The reference writes 10 predictions per video for YouTube-VIS and 20 for OVIS.
    """
    ranked = ranked_instances(result, max_predictions)
    predictions = [
        {"video_id": video_id, "score": score, "category_id": class_id, "segmentations": [None] * result.num_frames}
        for _, class_id, score in ranked
    ]
    several = {class_id for _, class_id, _ in ranked if sum(other == class_id for _, other, _ in ranked) > 1}
    for frame in range(result.num_frames):
        taken: dict[int, np.ndarray] = {}  # class -> pixels of better predictions
        for prediction, (row, class_id, _) in zip(predictions, ranked, strict=True):
            encoded = visible(result.tracks[row].segmentations[frame])
            if encoded is None:
                continue
            if class_id in several:
                mask = rle.decode(encoded)
                if class_id in taken:
                    encoded = visible(rle.encode(mask & ~taken[class_id]))
                taken[class_id] = taken[class_id] | mask if class_id in taken else mask
            prediction["segmentations"][frame] = encoded
    return predictions


def _listed_videos(path: pathlib.Path | None) -> dict[int, tuple[tuple[str, ...], tuple[int, int]]]:
    """Id -> names of the frames and (height, width) of the videos of the benchmark's JSON; {} without one."""
    if path is None:
        return {}
    found = {}
    for i, video in enumerate(files.get(files.read_json(path), "videos", list, str(path))):
        where = f"{path}, videos[{i}]"
        names = files.get(video, "file_names", list, where)
        if not all(isinstance(name, str) for name in names):
            raise ValueError(f"{where}: expected names of files in file_names, found {names!r:.80}")
        size = tuple(files.get(video, key, int, where) for key in ("height", "width"))
        found[files.get(video, "id", int, where)] = (tuple(pathlib.PurePosixPath(name).stem for name in names), size)
    return found


def _video(video_id: int, entries: list[tuple[str, dict]], listed: tuple | None) -> ResultVideo:
    names, size = listed if listed else (None, None)
    tracks = []
    for number, (where, entry) in enumerate(entries, start=1):
        masks = files.get(entry, "segmentations", list, where)
        if names is None:
            names = tuple(f"{frame:05d}" for frame in range(len(masks)))
        if len(masks) != len(names):
            raise ValueError(f"{where}: {len(masks)} segmentations for the {len(names)} frames of video {video_id}")
        encoded: list[rle.Rle | None] = []
        for frame, mask in enumerate(masks):
            if mask is None:
                encoded.append(None)
                continue
            place = f"{where}.segmentations[{frame}]"
            stated = files.get(mask, "size", list, place)
            size = tuple(stated) if size is None else size
            if len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
                raise ValueError(f"{place}: expected [height, width] as size, found {stated!r:.80}")
            encoded.append(visible(rle.to_rle(mask, *size, place)))
        score = float(files.get(entry, "score", (int, float), where))
        tracks.append(Track(number, encoded, None, files.get(entry, "category_id", int, where), score))
    if size is None:
        raise ValueError(
            f"video {video_id}: no mask says the size of its frames; the benchmark's JSON does (annotations)"
        )
    result = VideoResult(str(video_id), "", size, len(names), tracks)
    return ResultVideo(video_id, names, lambda: result)
