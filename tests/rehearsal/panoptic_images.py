"""COCO, ADE20K, CITYSCAPES and MAPILLARY: an RGB PNG per image (id = R + 256 G + 65536 B), a JSON of its segments.

Official files: COCO `train2017`, `annotations/panoptic_train2017{,.json}`; ADE20K `ADEChallengeData2016` (class PNGs,
instance PNGs, and the panoptic ones that are made of them); Cityscapes `leftImg8bit`, `gtFine` (16-bit instance PNGs,
and the panoptic ones); Mapillary Vistas 1.2 `training/{images,labels,instances,panoptic}`.
"""

import pathlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tarvis_jax.datasets import class_names
from tests.rehearsal import files
from tests.rehearsal.scenes import VOID, Scene, spread


def write_coco(workspace: pathlib.Path, official: pathlib.Path) -> None:
    person, car, dog, sky, grass, pavement = 1, 3, 18, 187, 193, 191
    stuff = (sky, grass, pavement)
    scenes = {
        "000000000009": Scene(480, 640, 1, spread((person, person, dog, car), crowds=(1,)), stuff, 1, 0.03),
        "000000000025": Scene(640, 427, 1, spread((dog,)), stuff, 2),
        "000000000030": Scene(428, 640, 1, spread([person] * 30), (grass,), 3),
        "000000000034": Scene(230, 640, 1, spread((car,)), stuff, 4),  # so wide that the cap of its larger side counts
        "000000000036": Scene(480, 640, 1, (), stuff, 5),  # no thing
    }
    things = {person: "person", car: "car", dog: "dog"}
    names = {**things, sky: "sky-other-merged", grass: "grass-merged", pavement: "pavement-merged"}
    content, maps = _describe(
        scenes, ".jpg", things, names, lambda kind, n: (kind * 7919 + n * 104_729) % (1 << 24), int
    )
    # An object of which no pixel is left.
    content["annotations"][0]["segments_info"].append(
        {"id": 77, "category_id": car, "area": 0, "bbox": [0, 0, 0, 0], "iscrowd": 0}
    )
    images = workspace / "dataset_images/training/coco"
    for name, scene in scenes.items():
        picture = scene.picture(0)
        if name == "000000000025":  # a gray JPEG
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        files.write_picture(images / f"{name}.jpg", picture)
        files.same_file(official / f"coco/train2017/{name}.jpg", images / f"{name}.jpg")
    written = workspace / "dataset_annotations/training/coco_panoptic"
    _write_panoptic(written, content, maps)
    _share_panoptic(official / "coco/annotations", "panoptic_train2017", "panoptic_train2017", written)


def write_ade20k(workspace: pathlib.Path, official: pathlib.Path) -> None:
    wall, building, sky, floor, bed, cabinet, person = 0, 1, 2, 3, 7, 10, 12
    number = {bed: 1, cabinet: 3, person: 4}  # of the hundred classes that have instances
    scenes = {
        "ADE_train_00000001": Scene(512, 683, 1, spread((bed, person, cabinet)), (wall, floor), 1, 0.05),
        "ADE_train_00000002": Scene(768, 576, 1, spread((person, person)), (sky, building, floor), 2),
        "ADE_train_00000003": Scene(256, 256, 1, (), (sky, building), 3),
        "ADE_train_00000004": Scene(1536, 2048, 1, spread([person] * 12), (sky, building, floor), 4, 0.01),
    }
    names = {wall: "wall", building: "building", sky: "sky", floor: "floor"}
    names |= {bed: "bed", cabinet: "cabinet", person: "person"}
    content, maps = _describe(scenes, ".jpg", number, names, lambda kind, n: 1 + kind * 256 + n * 65_536, str)
    content["images"].append(
        {"id": "ADE_train_00000005", "file_name": "ADE_train_00000005.jpg", "height": 9, "width": 9}
    )
    images, challenge = workspace / "dataset_images/training/ade20k", official / "ADEChallengeData2016"
    for name, scene in scenes.items():
        files.write_picture(images / f"{name}.jpg", scene.picture(0))
        files.same_file(challenge / f"images/training/{name}.jpg", images / f"{name}.jpg")
        classes, ids = scene.class_map(0), scene.id_map(0)
        labels = np.where(classes == VOID, 0, classes + 1).astype(np.uint8)
        files.write_picture(challenge / f"annotations/training/{name}.png", labels)
        kinds = np.array([0, *(number[thing.kind] for thing in scene.things)], np.uint8)
        red, green = kinds[ids], ids.astype(np.uint8)
        instances = np.stack([np.zeros_like(red), green, red], axis=-1)
        files.write_picture(challenge / f"annotations_instance/training/{name}.png", instances)
    written = workspace / "dataset_annotations/training/ade20k_panoptic"
    _write_panoptic(written, content, maps)
    _share_panoptic(challenge, "ade20k_panoptic_train", "ade20k_panoptic_train", written)


def write_cityscapes(workspace: pathlib.Path, official: pathlib.Path) -> None:
    """Segments of the released workspace may be of class 0 (unlabeled) and -1 (license plate); officially not."""
    ego, static, road, building, sky, person, car = 1, 4, 7, 11, 23, 24, 26
    scenes = {
        "aachen_000000_000019": Scene(
            1024, 2048, 1, spread((car, person, car), crowds=(2,)), (sky, building, road), 1, 0.02
        ),
        "zurich_000121_000019": Scene(1024, 2048, 1, spread([person] * 20 + [car] * 10), (building, road, ego), 2),
        "bochum_000000_000313": Scene(1024, 2048, 1, (), (sky, static, road), 3, 0.1),
    }
    names = dict(enumerate(class_names.CITYSCAPES))

    def number(kind: int, n: int) -> int:
        return kind * 1000 + n - 1 if n else kind

    content, maps = _describe(
        scenes, "_gtFine_leftImg8bit.png", range(24, 34), names, number, str, "_gtFine_panoptic.png"
    )
    for annotation in content["annotations"]:  # a group has the id of its class
        for segment in annotation["segments_info"]:
            if segment["iscrowd"]:
                ids = maps[annotation["file_name"]]
                ids[ids == segment["id"]] = segment["category_id"]
                segment["id"] = segment["category_id"]
    evaluated = [k for k in names if k not in (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)]
    for annotation in content["annotations"]:
        name = annotation["file_name"].removesuffix("_gtFine_panoptic.png")
        images = workspace / "dataset_images/training/cityscapes"
        file = f"{name.split('_')[0]}/{name}_leftImg8bit.png"
        files.write_picture(images / file, scenes[name].picture(0))
        files.same_file(official / "cityscapes/leftImg8bit/train" / file, images / file)
        fine = str(official / "cityscapes/gtFine/train" / file).removesuffix("_leftImg8bit.png")
        ids = maps[annotation["file_name"]]
        files.write_picture(pathlib.Path(f"{fine}_gtFine_instanceIds.png"), ids.astype(np.uint16))
        labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        files.write_picture(pathlib.Path(f"{fine}_gtFine_labelIds.png"), labels)
    few = [
        {**a, "segments_info": [s for s in a["segments_info"] if s["category_id"] in evaluated]}
        for a in content["annotations"]
    ]
    few_maps = {a["file_name"]: maps[a["file_name"]].copy() for a in few}
    for annotation in few:
        ids = few_maps[annotation["file_name"]]
        ids[~np.isin(ids, [segment["id"] for segment in annotation["segments_info"]])] = 0
    fine = official / "cityscapes/gtFine"
    files.write_json(fine / "cityscapes_panoptic_train.json", {**content, "annotations": few})
    for file, ids in few_maps.items():
        files.write_ids(fine / "cityscapes_panoptic_train" / file, ids)

    plate, unlabeled = 65_535, 0
    first = content["annotations"][0]
    maps[first["file_name"]][900:950, 1000:1100] = plate
    for segment, kind, size in ((unlabeled, 0, 1024 * int(0.02 * 2048)), (plate, -1, 5000)):
        first["segments_info"].append(
            {"id": segment, "category_id": kind, "area": size, "bbox": [0, 0, 1, 1], "iscrowd": 0}
        )
    _write_panoptic(workspace / "dataset_annotations/training/cityscapes_panoptic", content, maps)


def write_mapillary(workspace: pathlib.Path, official: pathlib.Path) -> None:
    bird, animal, person, car, building, road, sky, ego = 1, 2, 20, 56, 18, 14, 28, 65
    scenes = {
        "0035fkbjWljhaftpVM37-g": Scene(
            3000, 4000, 1, spread((person, car, bird)), (sky, building, road, ego), 1, 0.01
        ),
        "00qclUcInksIYnm19b1Xfw": Scene(1536, 2048, 1, spread([car] * 6), (sky, road), 2, 0.02),
        "01aUCdtGMfpDdFkYXQa4Rw": Scene(1920, 1080, 1, spread((animal, person)), (building, road), 3),
        "02xyzUCdtGMfpDdFkYXQa4": Scene(720, 1280, 1, (), (sky, road), 4),
    }
    things = (bird, animal, person, car)
    names = {bird: "Bird", animal: "Ground Animal", person: "Person", car: "Car", building: "Building", road: "Road"}
    names |= {sky: "Sky", ego: "Ego Vehicle"}
    content, maps = _describe(scenes, ".jpg", things, names, lambda kind, n: kind * 256 + n, str)
    images, vistas = workspace / "dataset_images/training/mapillary", official / "mapillary/training"
    for name, scene in scenes.items():
        files.write_picture(images / f"{name}.jpg", scene.picture(0))
        files.same_file(vistas / f"images/{name}.jpg", images / f"{name}.jpg")
        classes, ids = scene.class_map(0), scene.id_map(0)
        labels = np.where(classes == VOID, 65, classes.astype(np.int64) - 1)  # from 0; 65 is Unlabeled
        files.write_palette(vistas / f"labels/{name}.png", labels.astype(np.uint8))
        files.write_picture(vistas / f"instances/{name}.png", (labels * 256 + ids).astype(np.uint16))
    written = workspace / "dataset_annotations/training/mapillary_panoptic"
    _write_panoptic(written, content, maps)
    _share_panoptic(vistas / "panoptic", "panoptic_2018", ".", written)


def _describe(
    scenes: dict[str, Scene],
    image_suffix: str,
    things,
    names: dict[int, str],
    number: Callable[[int, int], int],
    to_id: Callable[[str], Any],
    mask_suffix: str = ".png",
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The panoptic JSON and the maps [H, W] of ids by file name.

    Args:
      scenes: by name.
      image_suffix, mask_suffix: what the JSON adds to the name.
      things: the classes that have instances.
      names: of all classes.
      number: (class, place among the image's things from 1; 0 for stuff) -> id of the segment.
      to_id: name -> id of the image.
    """
    categories = [{"id": k, "name": name, "isthing": int(k in things), "color": [k, 0, 0]} for k, name in names.items()]
    content: dict[str, Any] = {"info": {}, "licenses": [], "categories": categories, "images": [], "annotations": []}
    maps = {}
    for name, scene in scenes.items():
        ids, stuff = scene.id_map(0), scene.stuff_map(0)
        codes = np.zeros(len(scene.things) + 1, np.int64)
        for i, thing in enumerate(scene.things, start=1):
            codes[i] = number(thing.kind, i)
        bands = np.zeros(256, np.int64)
        for kind in scene.stuff:
            bands[kind] = number(kind, 0)
        result = np.where(ids > 0, codes[ids], bands[stuff])
        segments = []
        for kind, segment, crowd in [
            *((kind, bands[kind], False) for kind in scene.stuff),
            *((thing.kind, codes[i], thing.crowd) for i, thing in enumerate(scene.things, start=1)),
        ]:
            mask = result == segment
            if mask.any():
                box = {"bbox": files.box(mask), "iscrowd": int(crowd)}
                segments.append({"id": int(segment), "category_id": kind, "area": int(mask.sum()), **box})
        size = {"height": scene.height, "width": scene.width}
        content["images"].append({"id": to_id(name), "file_name": f"{name}{image_suffix}", **size})
        file = f"{name}{mask_suffix}"
        content["annotations"].append({"image_id": to_id(name), "file_name": file, "segments_info": segments})
        maps[file] = result
    return content, maps


def _write_panoptic(folder: pathlib.Path, content: dict[str, Any], maps: dict[str, np.ndarray]) -> None:
    """The released workspace's names."""
    files.write_json(folder / "segments.json", content)
    for name, ids in maps.items():
        files.write_ids(folder / "pan_maps" / name, ids)


def _share_panoptic(folder: pathlib.Path, name: str, masks: str, workspace: pathlib.Path) -> None:
    """`<folder>/<name>.json` and `<folder>/<masks>/*.png`, with the content of the released workspace's."""
    files.same_file(folder / f"{name}.json", workspace / "segments.json")
    for path in (workspace / "pan_maps").iterdir():
        files.same_file(folder / masks / path.name, path)
