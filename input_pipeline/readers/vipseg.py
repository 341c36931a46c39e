"""VIPSeg as the released workspace has it: for training a JSON that lists videos and their instances, and one panoptic
PNG per frame (`images.read_vipseg_map`); for evaluation the official panoptic JSON.
"""

import functools
import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.panoptic_maps import SegmentMaps, segment_table
from input_pipeline.records import VideoRecord


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """Videos of `<train_annotations>/video_info.json`, masks in `<train_annotations>/panoptic_masks`.

    The masks stay in their PNGs until a clip needs them: encoding all of them would take many minutes.
    """
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    truth = workspace.resolve(
        config.train_annotations, root, dataset=config.name, key="train_annotations", kind="folder"
    )
    file = truth / "video_info.json"
    sequences = workspace.get(workspace.load_json(file), "sequences", list, str(file))
    return [
        _video(sequence, folder, truth / "panoptic_masks", file, config, f"{file}, sequences[{i}]")
        for i, sequence in enumerate(sequences)
    ]


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """Frames of the videos in the official panoptic JSON."""
    return read_official(*_official(config, split, root), config)


def ground_truth_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """The same videos with the segments of the JSON and of the PNGs `<eval_truth>/<video>/<frame>.png`."""
    path = config.eval_truth.replace("{split}", split)
    colors = workspace.resolve(path, root, dataset=config.name, key="eval_truth", kind="folder")
    return read_official(*_official(config, split, root), config, colors=colors)


def _official(config: DatasetConfig, split: str, root: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The JSON of a split and the folder of its frames; the released folders are `vipseg` for val, `vipseg_test`."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    file = workspace.resolve(paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="file")
    frames = paths["eval_images"] + ("_test" if split == "test" and config.reader == "vipseg" else "")
    return file, workspace.resolve(frames, root, dataset=config.name, key="eval_images", kind="folder")


def read_official(
    file: pathlib.Path,
    folder: pathlib.Path,
    config: DatasetConfig,
    *,
    colors: pathlib.Path | None = None,
    numbered: pathlib.Path | None = None,
) -> list[VideoRecord]:
    """Videos of an official panoptic JSON, frames `<folder>/<video>/<frame>.jpg`.

    Args:
      colors: folder of the PNGs that the JSON explains; without it the records have no ground truth.
      numbered: folder of VIPSeg's own maps, see `SegmentMaps.numbered`.
    """
    content = workspace.load_json(file)
    annotations = {}
    for i, entry in enumerate(workspace.get(content, "annotations", list, str(file)) if colors else ()):
        where = f"{file}, annotations[{i}]"
        name = workspace.get(entry, "video_id", str, where)
        if name in annotations:
            raise ValueError(f"{where}: video_id {name!r} occurs twice")
        annotations[name] = workspace.get(entry, "annotations", list, where)
    unnumbered = tuple(label + 1 for label in config.thing_classes)
    videos = []
    for i, video in enumerate(workspace.get(content, "videos", list, str(file))):
        where = f"{file}, videos[{i}]"
        name = workspace.get(video, "video_id", str, where)
        # The JSON lists the names of the masks; the frames are JPEGs of the same names.
        entries = workspace.get(video, "images", list, where)
        listed = [workspace.get(image, "file_name", str, f"{where}.images") for image in entries]
        frames = [workspace.join(folder, f"{name}/{pathlib.Path(entry).stem}.jpg", where) for entry in listed]
        workspace.check_files(frames, where)
        if not frames:
            raise ValueError(f"{where}: the video has no frames")
        height, width = images.image_size(frames[0])
        truth = {}
        if colors:
            if name not in annotations:
                raise ValueError(f"{where}: annotations has no video_id {name!r}")
            own = None if numbered is None else workspace.join(numbered, name, where)
            segments = SegmentMaps(segment_table(annotations[name], config, f"{where}.annotations"), own, unnumbered)
            stems = [pathlib.Path(entry).stem for entry in listed]
            missing = [stem for stem in stems if stem not in segments.segments]
            if missing:
                raise ValueError(f"{where}: annotations has no frames {missing[:3]} of video {name!r}")
            maps = [workspace.join(colors, f"{name}/{stem}.png", where) for stem in stems]
            workspace.check_files(maps + ([own / path.name for path in maps] if own else []), where)
            truth = {
                "instances": segments.instances(),
                "segmentations": tuple(segments.visible(stem) for stem in stems),
                "annotated_frames": tuple(range(len(frames))),
                "panoptic_maps": tuple(maps),
                "read_panoptic": segments,
            }
        nothing = {"instances": {}, "segmentations": tuple({} for _ in frames), "annotated_frames": ()}
        videos.append(
            VideoRecord(
                dataset=config.name,
                id=name,
                source=str(file),
                frame_paths=tuple(frames),
                height=height,
                width=width,
                **{**nothing, **truth},
            )
        )
    return videos


def _video(sequence, folder, masks, file, config, where) -> VideoRecord:
    name = workspace.get(sequence, "name", str, where)
    names = workspace.get(sequence, "filenames", list, where)
    if not names:
        raise ValueError(f"{where}: the video has no frames")
    frames = [workspace.join(folder, f"{name}/{entry}.jpg", f"{where}.filenames") for entry in names]
    maps = [workspace.join(masks, f"{name}/{entry}.png", f"{where}.filenames") for entry in names]
    workspace.check_files(frames + maps, f"{where}.filenames")
    instances = {}
    for entry in workspace.get(sequence, "instance_ids", list, where):
        instance = workspace.to_id(entry, f"{where}.instance_ids")
        if instance < 125 or instance // 100 > config.num_classes:
            raise ValueError(
                f"{where}.instance_ids: {instance} should be >= 125, its class {instance // 100} in "
                f"1..{config.num_classes} (num_classes)"
            )
        instances[instance] = instance // 100
    occupancy = workspace.get(sequence, "frame_instance_occupancy", list, where)
    workspace.check_items(occupancy, list, f"{where}.frame_instance_occupancy")
    stuff = []
    for entry in workspace.get(sequence, "stuff_classes", list, where):
        stuff.append(workspace.to_id(entry, f"{where}.stuff_classes"))
        if not 0 <= stuff[-1] < config.num_classes:
            raise ValueError(f"{where}.stuff_classes: {entry} is not in 0..{config.num_classes - 1} (num_classes)")
    height, width = images.image_size(frames[0])
    return VideoRecord(
        dataset=config.name,
        id=name,
        source=str(file),
        frame_paths=tuple(frames),
        height=height,
        width=width,
        instances=instances,
        segmentations=tuple(
            {workspace.to_id(entry, f"{where}.frame_instance_occupancy[{t}]"): None for entry in present}
            for t, present in enumerate(occupancy)
        ),
        annotated_frames=tuple(range(len(frames))),
        panoptic_maps=tuple(maps),
        read_panoptic=functools.partial(
            images.read_vipseg_map, instances=frozenset(instances), stuff_classes=frozenset(stuff)
        ),
    )
