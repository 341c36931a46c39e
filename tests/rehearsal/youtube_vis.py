"""YOUTUBE_VIS and OVIS: one JSON per split; `segmentations` are null where an object is absent.

Official files: YouTube-VIS 2021 `{train,valid}/instances.json` with `{train,valid}/JPEGImages/<video>/<frame>.jpg`;
OVIS `annotations_{train,valid}.json` with `{train,valid}/<video>/<frame>.jpg`.
"""

import pathlib
from typing import Any

from tarvis_jax.datasets import class_names
from tests.rehearsal import files
from tests.rehearsal.scenes import Scene, spread

PERSON, DOG, BIRD, FISH = 26, 9, 3, 13  # of YouTube-VIS 2021


def write_youtube_vis(workspace: pathlib.Path, official: pathlib.Path) -> None:
    training = {
        # An object that leaves and returns; masks as lists of runs.
        "003234408d": (Scene(720, 1280, 8, spread((PERSON, DOG, DOG), {1: (0, 1, 5, 6, 7)}), seed=1), range(0, 40, 5)),
        # 4:3, a crowd, gaps of up to 130 frames; masks as text.
        "0043f083b5": (Scene(480, 640, 6, spread((BIRD, BIRD), crowds=(1,)), seed=2), (0, 5, 50, 55, 185, 190)),
        # Portrait; one frame alone shows objects.
        "3245e049fb": (Scene(1280, 720, 5, spread((PERSON, FISH), {0: (2,), 1: (2,)}), seed=3), range(0, 25, 5)),
        # Masks that overlap, one without a pixel; the fewest frames that a clip can be cut from.
        "a46012c642": (Scene(1080, 1920, 3, spread((PERSON, DOG, PERSON), scale=1.4), seed=4), (10, 15, 20)),
        # Nobody annotated anything.
        "ffe59ed1c1": (Scene(720, 1280, 4, (), seed=5), range(0, 20, 5)),
    }
    videos = _write_frames(workspace / "dataset_images/training/youtube_vis_2021", training, "{:05d}.jpg")
    tracks = _tracks(training, as_runs=("003234408d", "a46012c642"), overlapping=("a46012c642",))
    lost = next(track for track in tracks if track["video_id"] == 4)
    lost["segmentations"][1], lost["bboxes"][1], lost["areas"][1] = (
        {"size": [1080, 1920], "counts": [1080 * 1920]},
        [0.0] * 4,
        0.0,
    )
    content = _content(videos, class_names.YOUTUBE_VIS_2021, 2021, tracks)
    files.write_json(workspace / "dataset_annotations/training/youtube_vis_2021.json", content)
    files.write_json(official / "youtube_vis_2021/train/instances.json", content)
    _link(
        official / "youtube_vis_2021/train/JPEGImages", workspace / "dataset_images/training/youtube_vis_2021", videos
    )

    inference = {
        "00f88c4f0a": (Scene(720, 1280, 14, spread((PERSON, DOG, BIRD), {2: range(5, 9)}), seed=6), range(0, 70, 5)),
        "0b6db1c6fd": (Scene(1280, 720, 4, spread((FISH,)), seed=7), (0, 5, 60, 65)),
    }
    videos = _write_frames(workspace / "dataset_images/inference/youtube_vis_2021", inference, "{:05d}.jpg")
    content = _content(videos, class_names.YOUTUBE_VIS_2021, 2021, None)
    files.write_json(workspace / "dataset_annotations/inference/youtube_vis/valid_2021.json", content)
    files.write_json(official / "youtube_vis_2021/valid/instances.json", content)
    _link(
        official / "youtube_vis_2021/valid/JPEGImages", workspace / "dataset_images/inference/youtube_vis_2021", videos
    )


def write_ovis(workspace: pathlib.Path, official: pathlib.Path) -> None:
    training = {
        # Thirty objects, most of which hide others.
        "001ca3cb": (
            Scene(1080, 1920, 6, spread([1 + n % 25 for n in range(30)], {4: (0, 1, 5)}, scale=1.3)),
            range(1, 7),
        ),
        "0f1b2c3d": (Scene(720, 1280, 5, spread((19, 19, 12), {0: (3, 4), 1: (0,)}), seed=1), (1, 2, 3, 11, 12)),
        "a3f4c9d1": (Scene(1920, 1080, 4, spread((1, 24)), seed=2), range(1, 5)),
    }
    videos = _write_frames(workspace / "dataset_images/training/ovis", training, "img_{:07d}.jpg")
    content = _content(videos, class_names.OVIS, 2020, _tracks(training))
    files.write_json(workspace / "dataset_annotations/training/ovis.json", content)
    files.write_json(official / "ovis/annotations_train.json", content)
    _link(official / "ovis/train", workspace / "dataset_images/training/ovis", videos)

    inference = {
        "b7a1e0c2": (Scene(1080, 1920, 7, spread((1, 2, 3, 4), {3: (0, 6)}, scale=1.2), seed=3), range(1, 8)),
        "cc11aa22": (Scene(640, 360, 5, spread((9,)), seed=4), range(1, 6)),
    }
    videos = _write_frames(workspace / "dataset_images/inference/ovis", inference, "img_{:07d}.jpg")
    content = _content(videos, class_names.OVIS, 2020, None)
    del content["annotations"]
    files.write_json(workspace / "dataset_annotations/inference/ovis/valid.json", content)
    files.write_json(official / "ovis/annotations_valid.json", content)
    _link(official / "ovis/valid", workspace / "dataset_images/inference/ovis", videos)


_Videos = dict[str, tuple[Scene, Any]]


def _write_frames(folder: pathlib.Path, scenes: _Videos, pattern: str) -> list[dict[str, Any]]:
    videos = []
    for number, (name, (scene, frames)) in enumerate(scenes.items(), start=1):
        names = [f"{name}/{pattern.format(frame)}" for frame in frames]
        for t, file in enumerate(names):
            files.write_picture(folder / file, scene.picture(t))
        size = {"height": scene.height, "width": scene.width, "length": scene.num_frames}
        videos.append({"id": number, **size, "file_names": names, "license": 1, "date_captured": "", "flickr_url": ""})
    return videos


def _tracks(scenes: _Videos, as_runs: tuple[str, ...] = (), overlapping: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """One entry per object; ids count over all videos."""
    tracks: list[dict[str, Any]] = []
    for number, (name, (scene, _)) in enumerate(scenes.items(), start=1):
        size = [scene.height, scene.width]
        maps = [scene.id_map(t) for t in range(scene.num_frames)]
        all_runs = [files.runs(ids) for ids in maps]
        for i, thing in enumerate(scene.things, start=1):
            track = {"segmentations": [], "bboxes": [], "areas": []}
            for t in range(scene.num_frames):
                counts, mask = all_runs[t].get(i), maps[t] == i
                if counts and name in overlapping:
                    mask = scene.id_map(t, only=(i,)) > 0
                    counts = files.runs(mask)[1]
                code = counts and (counts if name in as_runs else files.to_text(counts, *size))
                track["segmentations"].append(counts and {"size": size, "counts": code})
                track["bboxes"].append(counts and [float(side) for side in files.box(mask)])
                track["areas"].append(counts and float(files.area(counts)))
            ids = {"id": len(tracks) + 1, "video_id": number, "category_id": thing.kind, "iscrowd": int(thing.crowd)}
            tracks.append({**ids, "height": size[0], "width": size[1], "length": scene.num_frames, **track})
    return tracks


def _content(videos: list, names: tuple[str, ...], year: int, tracks: list | None) -> dict[str, Any]:
    return {
        "info": {"description": "made up", "url": "", "version": "1.0", "year": year, "contributor": ""},
        "licenses": [{"id": 1, "name": "none", "url": ""}],
        "videos": videos,
        "categories": [{"supercategory": "object", "id": k, "name": name} for k, name in enumerate(names, start=1)],
        "annotations": tracks,
    }


def _link(folder: pathlib.Path, images: pathlib.Path, videos: list[dict[str, Any]]) -> None:
    for video in videos:
        for name in video["file_names"]:
            files.same_file(folder / name, images / name)
