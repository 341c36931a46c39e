"""Cityscapes-VPS as its own scripts leave it: {train,val}/img, {train,val}/panoptic_video and the JSONs above them."""

import collections
import pathlib

from input_pipeline import images, workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.readers import cityscapes_vps
from input_pipeline.records import VideoRecord

evaluation_videos = cityscapes_vps.evaluation_videos
ground_truth_videos = cityscapes_vps.ground_truth_videos


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The annotated frames of `train_annotations` (panoptic_gt_train_city_vps.json), six of each video.

    The four digits with which the name of a frame starts are its video.
    """
    folder = workspace.resolve(config.train_images, root, dataset=config.name, key="train_images", kind="folder")
    file = workspace.resolve(config.train_annotations, root, dataset=config.name, key="train_annotations", kind="file")
    content = workspace.load_json(file)
    maps = cityscapes_vps.maps_folder(file, folder.parent.name)
    listed = {}
    for i, image in enumerate(workspace.get(content, "images", list, str(file))):
        where = f"{file}, images[{i}]"
        name = workspace.get(image, "file_name", str, where)
        listed[cityscapes_vps.frame_key(name, where)] = name
    frames = collections.defaultdict(list)
    for i, annotation in enumerate(workspace.get(content, "annotations", list, str(file))):
        where = f"{file}, annotations[{i}]"
        name = workspace.get(annotation, "file_name", str, where)
        key = cityscapes_vps.frame_key(name, where)
        if key not in listed:
            raise ValueError(f"{where}: {name!r} is the map of no image")
        frames[pathlib.PurePosixPath(name).name.partition("_")[0]].append((listed[key], annotation))
    videos = []
    for video, entries in sorted(frames.items()):
        entries.sort(key=lambda entry: entry[0])
        paths = [workspace.join(folder, name, f"{file}, images") for name, _ in entries]
        workspace.check_files(paths, f"{file}, video {video!r}")
        height, width = images.image_size(paths[0])
        record = VideoRecord(
            dataset=config.name,
            id=video,
            source=str(file),
            frame_paths=tuple(paths),
            height=height,
            width=width,
            instances={},
            segmentations=tuple({} for _ in paths),
            annotated_frames=(),
        )
        videos.append(cityscapes_vps.with_segments(record, [each for _, each in entries], maps, config, str(file)))
    return videos
