"""KITTI_STEP and CITYSCAPES_VPS: the generic JSON for training, where classes are 0..18, and 255 is ignored.

Official files: KITTI-STEP `panoptic_maps/{train,val}/<sequence>/<frame>.png` (R = class, instance = 256 G + B) beside
KITTI's `image_02`; Cityscapes-VPS `{train,val}/{img,img_all,panoptic_video}` with JSON files of segments.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tarvis_jax.datasets import class_names
from tests.rehearsal import files
from tests.rehearsal.scenes import VOID, Scene, spread

ROAD, BUILDING, SKY, PERSON, RIDER, CAR, BICYCLE = 0, 2, 10, 11, 12, 13, 18
NAMES = class_names.CITYSCAPES_EVALUATED
KITTI_VAL = ("0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018")


def write_kitti_step(workspace: pathlib.Path, official: pathlib.Path) -> None:
    stuff = (SKY, BUILDING, ROAD)
    kitti = official / "kitti_step"
    training = {  # with the ids of their objects
        # Ids above 255, a car that leaves and returns, pixels of no class.
        "0000": (Scene(375, 1242, 8, spread((CAR, PERSON, CAR), {1: (0, 1, 6)}, rows=1), stuff, 1, 0.05), (300, 1, 17)),
        # An object with id 0, as only the JSON can have it.
        "0001": (Scene(370, 1226, 5, spread((CAR, CAR), rows=1), stuff, 2), (0, 1)),
        # One frame with objects.
        "0003": (Scene(374, 1238, 6, spread((PERSON,), {0: (4,)}), stuff, 3), (5,)),
        "0020": (Scene(376, 1241, 5, spread([CAR] * 25 + [PERSON] * 5, rows=3), stuff, 4), tuple(range(1, 31))),
    }
    sequences = []
    for name, (scene, ids) in training.items():
        names = [f"{name}/{t:06d}.png" for t in range(scene.num_frames)]
        sequences.append(_generic(scene, name, names, ids, as_runs=name == "0003"))
        _write_sequence(workspace / "dataset_images/training/kitti_step", kitti, "train", names, scene, ids)
    _write_generic(workspace / "dataset_annotations/training/kitti_step.json", sequences)
    for number, name in enumerate(KITTI_VAL):
        frames = 8 if number == 0 else 1 + number % 3
        scene = Scene(375 - number % 2, 1242 - 4 * (number % 2), frames, spread((CAR, PERSON)), stuff, 5 + number, 0.03)
        names = [f"{name}/{t:06d}.png" for t in range(frames)]
        _write_sequence(workspace / "dataset_images/inference/kitti_step_val", kitti, "val", names, scene, (2, 301))


def write_cityscapes_vps(workspace: pathlib.Path, official: pathlib.Path) -> None:
    stuff = (SKY, BUILDING, ROAD)
    vps = official / "cityscapes_vps"
    sequences, train_json, val_json, names_of_all = [], _segments_json(), _segments_json(), _segments_json()
    # Training has every fifth of 30 frames, and `image_paths` is flat; the second video misses its people at the end.
    cities = (("frankfurt", 279, spread((CAR, PERSON, RIDER))), ("lindau", 19, spread((PERSON, CAR), {0: (0, 1)})))
    for v, (city, first, things) in enumerate(cities, start=1):
        scene = Scene(1024, 2048, 6, things, stuff, v, 0.02)
        names = [f"{v:04d}_{6 * v - 5 + t:04d}_{city}_000000_{first + 5 * t:06d}_newImg8bit.png" for t in range(6)]
        ids = tuple(1000 * (24 + v) + n for n in range(len(things)))
        sequences.append(_generic(scene, f"{v:04d}", names, ids))
        images = workspace / "dataset_images/training/cityscapes_vps"
        _write_vps(images, vps / "train", names, scene, range(6), train_json, v, 1)
    _write_generic(workspace / "dataset_annotations/training/cityscapes_vps.json", sequences)
    files.write_json(vps / "panoptic_im_train_city_vps.json", train_json)
    for v, (city, first) in enumerate((("frankfurt", 1711), ("munster", 499)), start=1):
        scene = Scene(1024, 2048, 30, spread((CAR, PERSON, BICYCLE), {1: range(10, 20)}), stuff, 10 + v, 0.02)
        names = [f"{city}_000000_{first + t:06d}_leftImg8bit.png" for t in range(1, 31)]
        images = workspace / "dataset_images/inference/cityscapes_vps_val"
        _write_vps(images, vps / "val", names, scene, range(4, 30, 5), val_json, v, 5)
        for t, name in enumerate(names, start=1):
            names_of_all["images"].append({"id": 10_000 * v + t, "file_name": name, "height": 1024, "width": 2048})
    files.write_json(vps / "panoptic_gt_val_city_vps.json", val_json)
    names_of_all.pop("annotations")
    for path in (workspace / "dataset_annotations/inference/cityscapes_vps", vps):
        files.write_json(path / "im_all_info_val_city_vps.json", names_of_all)


def _generic(scene: Scene, name: str, names: list[str], ids: Sequence[int], as_runs: bool = False) -> dict[str, Any]:
    size = scene.height, scene.width
    segmentations, semantics = [], []
    for t in range(scene.num_frames):
        masks = {str(ids[i - 1]): counts for i, counts in files.runs(scene.id_map(t)).items() if i}
        classes = {str(k): counts for k, counts in files.runs(scene.class_map(t)).items()}
        for target, found in ((segmentations, masks), (semantics, classes)):
            target.append({k: counts if as_runs else files.to_text(counts, *size) for k, counts in found.items()})
    return {
        "id": name,
        "height": size[0],
        "width": size[1],
        "length": scene.num_frames,
        "image_paths": names,
        "categories": {str(i): thing.kind for i, thing in zip(ids, scene.things, strict=True)},
        "segmentations": segmentations,
        "semantic_segmentations": semantics,
    }


def _write_generic(path: pathlib.Path, sequences: list[dict[str, Any]]) -> None:
    files.write_json(path, {"meta": {"category_labels": dict(enumerate(NAMES))}, "sequences": sequences})


def _write_sequence(images, kitti, split, names, scene, ids) -> None:
    """Frames for the workspace; KITTI's tracking folder and the panoptic maps of KITTI-STEP."""
    numbers = np.array((0, *(i or 7 for i in ids)), np.int64)  # 0 is no instance in a PNG
    for t, name in enumerate(names):
        files.write_picture(images / name, scene.picture(t))
        files.same_file(kitti / "training/image_02" / name, images / name)
        shown = numbers[scene.id_map(t)]
        step = np.stack([shown % 256, shown // 256, scene.class_map(t)], axis=-1).astype(np.uint8)  # B, G, R
        files.write_picture(kitti / "panoptic_maps" / split / name, step)


def _segments_json() -> dict[str, list]:
    things = range(PERSON, BICYCLE + 1)
    categories = [
        {"id": k, "name": name, "isthing": int(k in things), "color": [k, 9 * k, 255 - k]}
        for k, name in enumerate(NAMES)
    ]
    return {"images": [], "annotations": [], "categories": categories}


def _write_vps(images, split, names, scene, annotated, content, video, step) -> None:
    """Frames; of the annotated ones also `img`, `panoptic_video` and their segments.

    An id of a PNG is R + 256 G + 65536 B: the class for stuff, 1000 class + number for things, which they keep over
    the whole video.
    """
    for t, name in enumerate(names):
        if t in annotated or t == 0:
            files.write_picture(images / name, scene.picture(t))
        else:  # the picture before, which costs nothing
            files.same_file(images / name, images / names[t - 1])
        files.same_file(split / "img_all" / name, images / name)
        if t not in annotated:
            continue
        files.same_file(split / "img" / name, images / name)
        kinds, ids = scene.class_map(t).astype(np.int64), scene.id_map(t).astype(np.int64)
        segments = np.where(ids > 0, 1000 * kinds + ids, kinds + 1)
        segments[kinds == VOID] = 0
        mask = name.replace("_newImg8bit", "_final_mask").replace("_leftImg8bit", "_gtFine_color")
        files.write_ids(split / "panoptic_video" / mask, segments)
        number = (t + 1) * (1 if step == 5 else 5)
        image = {"id": f"{video:04d}_{number:04d}_{'_'.join(name.split('_')[-4:-1])}", "height": 1024, "width": 2048}
        content["images"].append({**image, "file_name": name})
        found = [segment for segment in np.unique(segments).tolist() if segment]
        content["annotations"].append(
            {
                "image_id": image["id"],
                "file_name": mask,
                "segments_info": [
                    {
                        "id": segment,
                        "category_id": segment // 1000 if segment > 1000 else segment - 1,
                        "area": int((segments == segment).sum()),
                        "bbox": files.box(segments == segment),
                        "iscrowd": 0,
                    }
                    for segment in found
                ],
            }
        )
