"""BURST: one JSON with `sequences`; masks are the counts of an RLE, ids are text.

Frames lie in `<dataset>/<seq_name>/`.
"""

import pathlib

import numpy as np

from input_pipeline import bad_records, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """Annotated frames only; masks below `config.min_mask_area` pixels and sequences left without any are dropped."""
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    videos = read(file, folder, config, min_area=config.min_mask_area)
    return [video for video in videos if video.instances]


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The input of the exemplar task: mask and point of each track in its first frame (first-frame file).

    The frames are the annotated ones and `config.interleaved_frames` between them.
    """
    return read(
        _path(config, "eval_annotations", "file", split, root),
        _path(config, "eval_images", "folder", split, root),
        config,
        interleaved_frames=config.interleaved_frames,
    )


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos with the masks of all annotated frames (`all_classes.json`)."""
    folder = _path(config, "eval_images", "folder", split, root)
    file = _path(config, "eval_truth", "file", split, root)
    return read(file, folder, config, interleaved_frames=config.interleaved_frames)


def _path(config: DatasetConfig, key: str, kind: str, split: str, root: str) -> pathlib.Path:
    path = getattr(config, key).replace("{split}", split)
    return workspace.resolve(path, root, dataset=config.name, key=key, kind=kind)


def read(
    file: pathlib.Path,
    folder: pathlib.Path,
    config: DatasetConfig,
    *,
    min_area: int = 1,
    interleaved_frames: int = 0,
    check: bool = True,
) -> list[VideoRecord]:
    """Records of all sequences in `file`; `id` is "<dataset>/<sequence>", every class is 0.

    With `check` false the frames need not exist (evaluation from annotations alone).
    """
    content = workspace.load_json(file)
    sequences = workspace.get(content, "sequences", list, str(file))
    return bad_records.keep_good(
        enumerate(sequences),
        lambda entry: _video(
            entry[1], folder, file, config, f"{file}, sequences[{entry[0]}]", min_area, interleaved_frames, check
        ),
    )


def _video(sequence, folder, file, config, where, min_area, interleaved_frames, check) -> VideoRecord:
    name = "/".join(workspace.get(sequence, key, str, where) for key in ("dataset", "seq_name"))
    height, width = workspace.get_size(sequence, where)
    annotated = workspace.get(sequence, "annotated_image_paths", list, where)
    tracks = workspace.get(sequence, "track_category_ids", dict, where) if "track_category_ids" in sequence else None
    workspace.check_items(annotated, str, f"{where}.annotated_image_paths")
    frames = annotated
    if interleaved_frames:
        every = workspace.get(sequence, "all_image_paths", list, where)
        workspace.check_items(every, str, f"{where}.all_image_paths")
        missing = sorted(set(annotated) - set(every))
        if missing:
            raise ValueError(f"{where}: annotated frames {missing[:3]} are not among all_image_paths")
        fps = workspace.get(sequence, "fps", int, where)
        frames = sampled_frames(every, frozenset(annotated), fps, interleaved_frames)
    index = {frame: t for t, frame in enumerate(frames)}
    key = "all_image_paths" if interleaved_frames else "annotated_image_paths"
    paths = [workspace.join(folder, f"{name}/{frame}", f"{where}.{key}") for frame in frames]
    if check:
        workspace.check_files(paths, f"{where}.{key}")

    annotations = workspace.get(sequence, "segmentations", list, where)
    if len(annotations) != len(annotated):
        raise ValueError(f"{where}: {len(annotations)} segmentations for {len(annotated)} annotated_image_paths")
    workspace.check_items(annotations, dict, f"{where}.segmentations")
    segmentations: list[dict[int, rle.Rle]] = [{} for _ in frames]
    points: list[dict[int, tuple[float, float]]] = [{} for _ in frames]
    for a, tracks_in_frame in enumerate(annotations):
        t = index[annotated[a]]
        workspace.check_items(tracks_in_frame.values(), dict, f"{where}.segmentations[{a}]")
        for key, entry in tracks_in_frame.items():
            place = f"{where}.segmentations[{a}][{key!r}]"
            instance = workspace.to_id(key, place)
            if tracks is not None and key not in tracks:
                raise ValueError(f"{place}: track {key!r} is not in track_category_ids {sorted(tracks)}")
            if "point" in entry:
                points[t][instance] = _point_yx(workspace.get(entry, "point", (dict, list), place), place)
            encoded = rle.to_rle(workspace.get(entry, "rle", str, place), height, width, f"{place}.rle")
            if instance in segmentations[t]:
                raise ValueError(f"{place}: track {instance} occurs twice in the frame")
            if rle.area(encoded) >= max(1, min_area):
                segmentations[t][instance] = encoded
    instances = {instance for frame in segmentations for instance in frame}
    return VideoRecord(
        dataset=config.name,
        id=name,
        source=str(file),
        frame_paths=tuple(paths),
        height=height,
        width=width,
        instances=dict.fromkeys(sorted(instances), 0),
        segmentations=tuple(segmentations),
        annotated_frames=tuple(index[frame] for frame in annotated),
        points=tuple(points) if any(points) else None,
    )


def _point_yx(point: dict | list, where: str) -> tuple[float, float]:
    """Both forms that occur, {"x", "y"} and [x, y], as (y, x) in pixels."""
    if isinstance(point, list):
        if len(point) != 2 or not all(isinstance(value, (int, float)) for value in point):
            raise ValueError(f"{where}.point: expected [x, y], found {point}")
        return point[1], point[0]
    return tuple(workspace.get(point, axis, (int, float), f"{where}.point") for axis in ("y", "x"))


def sampled_frames(
    frames: list[str], annotated: frozenset[str], frames_per_second: int, interleaved_frames: int
) -> list[str]:
    """The annotated frames (one a second) and, evenly between them, `interleaved_frames` others, in order.

    At most `frames_per_second` - 2 of them, as in the reference.
    """
    between = max(0, min(interleaved_frames, frames_per_second - 2))
    phases = set(np.round(np.linspace(0, frames_per_second, between + 2)[:-1]).astype(int).tolist())
    return [frame for t, frame in enumerate(frames) if frame in annotated or t % max(1, frames_per_second) in phases]
