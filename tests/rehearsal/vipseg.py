"""VIPSEG: one 16-bit PNG per frame: 0 void, stuff class + 1, things 100 (class + 1) + number.

Official files: `imgs`, `panomasks` (the same PNGs), lists of the splits; and, as its own scripts make them,
`VIPSeg_720P` with `images`, `panomasks`, `panomasksRGB` and one JSON of segments per split.
"""

import pathlib
from typing import Any

import numpy as np

from tarvis_jax.datasets import class_names, table
from tests.rehearsal import files
from tests.rehearsal.scenes import VOID, Scene, spread

WALL, ROAD, SKY, PERSON, CAT, HORSE, CAR, TRAIN = 0, 18, 28, 60, 61, 63, 48, 123
THINGS = table.DATASETS["VIPSEG"].spec.thing_classes
CATEGORIES = [
    {"id": k, "name": name, "isthing": int(k in THINGS), "color": [k, 2 * k, 255 - k]}
    for k, name in enumerate(class_names.VIPSEG)
]


def write_vipseg(workspace: pathlib.Path, official: pathlib.Path) -> None:
    official = official / "VIPSeg"
    training = {
        # Things above bands of stuff of which one is of a thing's class, without number: a person.
        "0_wHveSGjXyDY": (
            Scene(720, 1280, 8, spread((PERSON, HORSE, TRAIN), {1: (0, 5, 6)}), (SKY, PERSON, ROAD), 1, 0.02),
            3,
        ),
        "1_4xbPWFGvMTY": (Scene(720, 960, 5, spread((CAT,), {0: (3,)}), (WALL, ROAD), 2), 12),
        "1001_3iEIq5HBY1s": (Scene(720, 405, 5, spread((PERSON, CAR)), (SKY, ROAD), 3, 0.05), 3),
        "2_-aGWJuMbI5c": (Scene(720, 1728, 5, spread([PERSON] * 28 + [CAR, CAR]), (SKY, WALL, ROAD), 4), 3),
        # No thing at all.
        "3_empty": (Scene(720, 1280, 4, (), (SKY, WALL), 5), 3),
    }
    sequences = []
    for name, (scene, step) in training.items():
        names = [f"{1200 + step * t:08d}" for t in range(scene.num_frames)]
        maps = _write_video(workspace / "dataset_images/training/vipseg", official, name, names, scene)
        for stem in names:
            mask = official / "panomasks" / name / f"{stem}.png"
            files.same_file(workspace / f"dataset_annotations/training/vipseg/panoptic_masks/{name}/{stem}.png", mask)
        found = [np.unique(values).tolist() for values in maps]
        stuff = sorted({value - 1 for values in found for value in values if 0 < value < 125})
        sequences.append(
            {
                "name": name,
                "filenames": names,
                "instance_ids": sorted({value for values in found for value in values if value >= 125}),
                "stuff_classes": [k for k in stuff if k not in THINGS],
                "frame_instance_occupancy": [[value for value in values if value >= 125] for values in found],
            }
        )
    content = {"categories": CATEGORIES, "sequences": sequences}
    files.write_json(workspace / "dataset_annotations/training/vipseg/video_info.json", content)
    _write_split(official, "train", training, truth=True)

    for split, folder, number in (("val", "vipseg", 12), ("test", "vipseg_test", 40)):
        videos = {
            f"{number}_1mWNahzcsAc": (
                Scene(720, 1280, 7, spread((PERSON, PERSON, CAR), {2: (0, 6)}), (SKY, ROAD), number),
                3,
            ),
            f"{number + 1}_2kQtb8vEOnY": (Scene(720, 540, 4, spread((HORSE,)), (WALL, ROAD), number + 1, 0.04), 3),
        }
        for name, (scene, step) in videos.items():
            names = [f"{1200 + step * t:08d}" for t in range(scene.num_frames)]
            _write_video(workspace / "dataset_images/inference" / folder, official, name, names, scene, split == "val")
        _write_split(official, split, videos, truth=split == "val")
        same = official / "VIPSeg_720P" / f"panoptic_gt_VIPSeg_{split}.json"
        files.same_file(workspace / f"dataset_annotations/inference/vipseg/{split}.json", same)
    names = [{**category, "isthing": bool(category["isthing"])} for category in CATEGORIES]
    files.write_json(official / "panoVIPSeg_categories.json", names)


def _values(scene: Scene, t: int) -> np.ndarray:
    """uint16 [H, W], as in `panomasks`; the things of a class are numbered from 1."""
    kinds, ids = scene.stuff_map(t).astype(np.int64), scene.id_map(t)
    numbers: dict[int, int] = {}
    values = np.zeros(len(scene.things) + 1, np.int64)
    for i, thing in enumerate(scene.things, start=1):
        numbers[thing.kind] = numbers.get(thing.kind, 0) + 1
        values[i] = 100 * (thing.kind + 1) + numbers[thing.kind]
    return np.where(ids > 0, values[ids], np.where(kinds == VOID, 0, kinds + 1)).astype(np.uint16)


def _write_video(images, official, name, names, scene, truth: bool = True) -> list[np.ndarray]:
    """Frames, and with `truth` both kinds of masks; PNGs that need no 16 bits have 8."""
    maps = []
    for t, stem in enumerate(names):
        file = f"{name}/{stem}.jpg"
        files.write_picture(images / file, scene.picture(t))
        files.same_file(official / "imgs" / file, images / file)
        files.same_file(official / "VIPSeg_720P/images" / file, images / file)
        if truth:
            values = _values(scene, t)
            maps.append(values)
            mask = official / "panomasks" / name / f"{stem}.png"
            files.write_picture(mask, values if values.max() > 255 else values.astype(np.uint8))
            files.same_file(official / "VIPSeg_720P/panomasks" / name / f"{stem}.png", mask)
            files.write_ids(official / "VIPSeg_720P/panomasksRGB" / name / f"{stem}.png", values)
    return maps


def _write_split(official: pathlib.Path, split: str, scenes: dict, truth: bool) -> None:
    files.write_text(official / f"{split}.txt", "".join(f"{name}\n" for name in scenes))
    content: dict[str, Any] = {"videos": [], "annotations": [], "categories": CATEGORIES}
    for name, (scene, step) in scenes.items():
        stems = [f"{1200 + step * t:08d}" for t in range(scene.num_frames)]
        size = {"width": scene.width, "height": scene.height}
        images = [{"id": stem, **size, "file_name": f"{stem}.png"} for stem in stems]
        content["videos"].append({"video_id": name, "images": images})
        if truth:
            frames = [
                {"file_name": f"{stem}.png", "image_id": stem, "segments_info": _segments(_values(scene, t))}
                for t, stem in enumerate(stems)
            ]
            content["annotations"].append({"video_id": name, "annotations": frames})
    if not truth:
        del content["annotations"]
    files.write_json(official / "VIPSeg_720P" / f"panoptic_gt_VIPSeg_{split}.json", content)


def _segments(values: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "id": value,
            "category_id": (value // 100 if value >= 125 else value) - 1,
            "iscrowd": 0,
            "bbox": files.box(values == value),
            "area": int((values == value).sum()),
        }
        for value in np.unique(values).tolist()
        if value
    ]
