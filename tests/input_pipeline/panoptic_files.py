"""Tiny images with panoptic maps, in the layouts of the released workspace and of the official downloads."""

import json
import pathlib

import cv2
import numpy as np

SIZE = (48, 72)


def layout() -> tuple[np.ndarray, np.ndarray]:
    """(classes, instances), int [H, W]: stuff 0 above, stuff 1 below, two things of class 2, a void corner."""
    classes, instances = np.zeros(SIZE, int), np.zeros(SIZE, int)
    classes[24:] = 1
    for number, (top, left) in enumerate(((12, 8), (20, 40)), start=1):
        classes[top : top + 16, left : left + 20] = 2
        instances[top : top + 16, left : left + 20] = number
    classes[:6, :6] = 255
    return classes, instances


def picture(seed: int) -> np.ndarray:
    """uint8 RGB; things are red, the rest is noise without red."""
    image = np.random.default_rng(seed).integers(0, 120, (*SIZE, 3), dtype=np.uint8)
    image[layout()[1] > 0] = (230, 20, 20)
    return image


def write_image(path: pathlib.Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def write_map(path: pathlib.Path, ids: np.ndarray) -> None:
    """An id map in the colors of a panoptic PNG."""
    write_image(path, np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8))


def segments(categories: tuple[int, int, int]) -> tuple[np.ndarray, list[dict]]:
    """(ids int [H, W], segments_info) of `layout` with these categories; ids need all three bytes."""
    classes, instances = layout()
    ids, info = np.zeros(SIZE, int), []
    for label, number in ((0, 0), (1, 0), (2, 1), (2, 2)):
        is_segment = (classes == label) & (instances == number)
        identity = 70_000 * (label + 1) + 300 * number + 7
        ids[is_segment] = identity
        info.append({"id": identity, "category_id": categories[label], "iscrowd": int(number == 2)})
    return ids, info


def released(
    root: pathlib.Path, folder: str, categories: tuple[int, int, int], names: dict[str, tuple[str, str, str]]
) -> pathlib.Path:
    """Images and annotations as in the released workspace; the last image shows no thing. Returns the JSON's path.

    Args:
      names: image id -> file_name in the JSON, path of the image below its folder, name of the map.
    """
    images, annotations = (
        root / "dataset_images/training" / folder,
        root / f"dataset_annotations/training/{folder}_panoptic",
    )
    content = {"images": [], "annotations": []}
    ids, info = segments(categories)
    for seed, (image_id, (name, path, png)) in enumerate(names.items()):
        write_image(images / path, picture(seed))
        is_last = seed == len(names) - 1
        write_map(annotations / "pan_maps" / png, ids)
        content["images"].append({"id": image_id, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        content["annotations"].append(
            {"image_id": image_id, "file_name": png, "segments_info": info[:2] if is_last else info}
        )
    file = annotations / "segments.json"
    file.write_text(json.dumps(content))
    return file


def workspace(root: pathlib.Path) -> pathlib.Path:
    """All four datasets of the released tree, each with two images that show things and one that shows none."""
    released(root, "coco", (92, 200, 90), {i: (f"{i:012d}.jpg", f"{i:012d}.jpg", f"{i:012d}.png") for i in (9, 25, 30)})
    names = [f"ADE_train_{i:08d}" for i in (1, 2, 3)]
    released(root, "ade20k", (0, 2, 149), {name: (f"{name}.jpg", f"{name}.jpg", f"{name}.png") for name in names})
    names = [f"{city}_000000_000019" for city in ("aachen", "bochum", "zurich")]
    released(
        root,
        "cityscapes",
        (7, 23, 26),
        {
            name: (
                f"{name}_gtFine_leftImg8bit.png",
                f"{name.split('_')[0]}/{name}_leftImg8bit.png",
                f"{name}_gtFine_panoptic.png",
            )
            for name in names
        },
    )
    names = ["0035fkbjWljhaftpVM37-g", "-a", "b_c"]
    released(root, "mapillary", (3, 28, 56), {name: (f"{name}.jpg", f"{name}.jpg", f"{name}.png") for name in names})
    return root
