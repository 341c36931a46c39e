"""Cityscapes-VPS: the generic JSON for training; the official list of images and panoptic PNGs for evaluation."""

import collections
import dataclasses
import pathlib
import re

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.panoptic_maps import SegmentMaps, segment_table
from input_pipeline.readers import generic
from input_pipeline.records import VideoRecord

training_videos = generic.training_videos

# City, sequence and frame: what the names of an image in `img_all`, of the same image in `img`, and of its map share.
_FRAME = re.compile(r"[a-zA-Z-]+_\d{6}_\d{6}")
_FRAMES_BEFORE = 10_000  # id of an image: this times the video's number, plus the frame's number, counted from 1


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The videos of `eval_annotations` (im_all_info_<split>_city_vps.json); every `config.eval_frame_step`-th frame.

    The images lie directly in `eval_images`: the file says the names of all frames (the official folder img_all); where
    only the annotated frames are there under their own names (the official folder img), those are taken.
    """
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    file = workspace.resolve(paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="file")
    frames = collections.defaultdict(dict)
    sizes = {}
    for i, image in enumerate(workspace.get(workspace.load_json(file), "images", list, str(file))):
        where = f"{file}, images[{i}]"
        video, number = divmod(workspace.get(image, "id", int, where), _FRAMES_BEFORE)
        if number < 1 or number in frames[video]:
            raise ValueError(
                f"{where}: id {image['id']} occurs twice or has no frame number (from 1) in its last digits"
            )
        if number % config.eval_frame_step == 0:
            frames[video][number] = workspace.get(image, "file_name", str, where)
        size = tuple(workspace.get(image, side, int, where) for side in ("height", "width"))
        if sizes.setdefault(video, size) != size:
            raise ValueError(f"{where}: height and width {size}, those of the frames before it are {sizes[video]}")
    videos = []
    renamed = None
    for video, names in sorted(frames.items()):
        where = f"{file}, video {video}"
        listed = [names[number] for number in sorted(names)]
        chosen = [workspace.join(folder, name, where) for name in listed]
        if not any(path.is_file() for path in chosen):
            renamed = renamed or {frame_key(path.name, str(folder)): path for path in sorted(folder.glob("*.png"))}
            chosen = [renamed.get(frame_key(name, where), path) for name, path in zip(listed, chosen, strict=True)]
        workspace.check_files(chosen, where)
        videos.append(
            VideoRecord(
                dataset=config.name,
                id=str(video),
                source=str(file),
                frame_paths=tuple(chosen),
                height=sizes[video][0],
                width=sizes[video][1],
                instances={},
                segmentations=tuple({} for _ in chosen),
                annotated_frames=(),
            )
        )
    return videos


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos with the segments of `eval_truth` (panoptic_gt_<split>_city_vps.json).

    The PNGs lie in `panoptic_video` beside it or, as the official scripts leave them, in `<split>/panoptic_video`.
    """
    path = config.eval_truth.replace("{split}", split)
    file = workspace.resolve(path, root, dataset=config.name, key="eval_truth", kind="file")
    folder = maps_folder(file, split)
    annotations = {}
    for i, annotation in enumerate(workspace.get(workspace.load_json(file), "annotations", list, str(file))):
        where = f"{file}, annotations[{i}]"
        key = frame_key(workspace.get(annotation, "file_name", str, where), where)
        if key in annotations:
            raise ValueError(f"{where}: frame {key} occurs twice")
        annotations[key] = annotation
    videos = []
    for video in evaluation_videos(config, split, root):
        keys = [frame_key(path.name, video.where) for path in video.frame_paths]
        missing = [key for key in keys if key not in annotations]
        if missing:
            raise ValueError(
                f"{file}: no annotation of the frames {missing[:3]} of video {video.id!r} "
                f"({len(missing)} of {len(keys)}; every fifth frame is annotated, eval_frame_step is "
                f"{config.eval_frame_step})"
            )
        chosen = [annotations[key] for key in keys]
        videos.append(with_segments(video, chosen, folder, config, str(file)))
    return videos


def maps_folder(file: pathlib.Path, split: str) -> pathlib.Path:
    """Where the panoptic PNGs of an official JSON lie."""
    folders = (file.parent / split / "panoptic_video", file.parent / "panoptic_video")
    for folder in folders:
        if folder.is_dir():
            return folder
    raise ValueError(f"{file}: expected its PNGs in {folders[0]} or {folders[1]}, but neither is a folder")


def with_segments(
    video: VideoRecord, annotations: list[dict], folder: pathlib.Path, config: DatasetConfig, where: str
) -> VideoRecord:
    """`video` with the segments of `annotations`, one for each of its frames, and their PNGs in `folder`."""
    maps = [workspace.join(folder, annotation["file_name"], where) for annotation in annotations]
    workspace.check_files(maps, f"{where}, video {video.id!r}")
    segments = SegmentMaps(segment_table(annotations, config, f"{where}, video {video.id!r}, annotations"))
    return dataclasses.replace(
        video,
        source=where,
        instances=segments.instances(),
        segmentations=tuple(segments.visible(path.stem) for path in maps),
        annotated_frames=tuple(range(video.num_frames)),
        panoptic_maps=tuple(maps),
        read_panoptic=segments,
    )


def frame_key(name: str, where: str) -> str:
    """City, sequence and frame of the name of an image or of a map ("frankfurt_000000_001736")."""
    found = _FRAME.search(name)
    if not found:
        raise ValueError(f"{where}: expected a name with <city>_<six digits>_<six digits>, found {name!r}")
    return found.group()
