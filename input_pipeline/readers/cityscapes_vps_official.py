"""Cityscapes-VPS as its own scripts leave it: {train,val}/img, {train,val}/panoptic_video and the JSONs above them."""

import collections
import pathlib

from input_pipeline import bad_records, images, workspace
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
    listed, frames = {}, collections.defaultdict(list)

    def add_image(item):
        where = f"{file}, images[{item[0]}]"
        name = workspace.get(item[1], "file_name", str, where)
        listed[cityscapes_vps.frame_key(name, where)] = name

    def add_annotation(item):
        where = f"{file}, annotations[{item[0]}]"
        name = workspace.get(item[1], "file_name", str, where)
        frames[pathlib.PurePosixPath(name).name.partition("_")[0]].append((where, name, item[1]))

    def read_video(item):
        video, entries = item[0], []
        for where, name, annotation in item[1]:
            key = cityscapes_vps.frame_key(name, where)
            if key not in listed:
                raise ValueError(f"{where}: {name!r} is the map of no image")
            entries.append((listed[key], annotation))
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
        return cityscapes_vps.with_segments(record, [each for _, each in entries], maps, config, str(file))

    bad_records.keep_good(enumerate(workspace.get(content, "images", list, str(file))), add_image)
    bad_records.keep_good(enumerate(workspace.get(content, "annotations", list, str(file))), add_annotation)
    return bad_records.keep_good(sorted(frames.items()), read_video)
