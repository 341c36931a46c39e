"""VIPSeg: a JSON that lists videos and their instances, and one panoptic PNG per frame (`images.read_vipseg_map`)."""

import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
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
    """Frames of the videos in the official panoptic JSON; its ground truth is left to the evaluator."""
    paths = {key: getattr(config, key).replace("{split}", split) for key in ("eval_images", "eval_annotations")}
    folder = workspace.resolve(paths["eval_images"], root, dataset=config.name, key="eval_images", kind="folder")
    file = workspace.resolve(paths["eval_annotations"], root, dataset=config.name, key="eval_annotations", kind="file")
    videos = []
    for i, video in enumerate(workspace.get(workspace.load_json(file), "videos", list, str(file))):
        where = f"{file}, videos[{i}]"
        name = workspace.get(video, "video_id", str, where)
        # The JSON lists the names of the masks; the frames are JPEGs of the same names.
        listed = [
            workspace.get(image, "file_name", str, f"{where}.images")
            for image in workspace.get(video, "images", list, where)
        ]
        frames = [workspace.join(folder, f"{name}/{pathlib.Path(entry).stem}.jpg", where) for entry in listed]
        workspace.check_files(frames, where)
        if not frames:
            raise ValueError(f"{where}: the video has no frames")
        height, width = images.image_size(frames[0])
        videos.append(
            VideoRecord(
                dataset=config.name,
                id=name,
                source=str(file),
                frame_paths=tuple(frames),
                height=height,
                width=width,
                instances={},
                segmentations=tuple({} for _ in frames),
                annotated_frames=(),
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
        read_panoptic=images.read_vipseg_map,
    )
