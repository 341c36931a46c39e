"""Tiny datasets as the datasets' own sites hand them out, of the objects in `official_files`."""

import pathlib

import cv2
import numpy as np

from tests.input_pipeline import official_files
from tests.input_pipeline.official_files import FRAMES, HEIGHT, WIDTH, class_map, objects, write_frames, write_json


def youtube_vis(root: pathlib.Path):
    """YouTube-VIS 2021: a JSON beside JPEGImages for each split."""
    write_json(root / "train/instances.json", official_files.youtube_vis(root / "train/JPEGImages"))
    content = official_files.youtube_vis(root / "valid/JPEGImages", 1) | {"annotations": None}
    write_json(root / "valid/instances.json", content)


def ovis(root: pathlib.Path):
    write_json(root / "annotations_train.json", official_files.youtube_vis(root / "train"))
    write_json(root / "annotations_valid.json", official_files.youtube_vis(root / "valid", 1, with_annotations=False))


def kitti_step(root: pathlib.Path):
    """Tracking images of both splits in one folder; JPEGs in the second sequence."""
    for split, sequence, suffix in (("train", "0000", ".png"), ("train", "0001", ".jpg"), ("val", "0002", ".png")):
        names = [f"{t:06d}" for t in range(FRAMES)]
        write_frames(root / "training/image_02" / sequence, names=names, suffix=suffix)
        for t, name in enumerate(names):
            _write(root / "panoptic_maps" / split / sequence / f"{name}.png", official_files.step_map(t))


def segments(ids: np.ndarray, classes: dict[int, int]):
    """`segments_info` of the ids of a map."""
    found = np.unique(ids[ids > 0]).tolist()
    return [{"id": i, "category_id": classes[i], "iscrowd": 0, "area": int((ids == i).sum())} for i in found]


def color_ids(t: int) -> tuple[np.ndarray, dict[int, int]]:
    """int [H, W] with ids of more than 16 bits (0 void), and the class of each: 8, 0, person (11), car (13)."""
    labels = class_map(t)
    classes = {1000: 8, 257: 0, 70_001: 13, 300: 11}
    ids = np.select([labels == label for label in classes.values()], list(classes), 0)
    return ids, classes


def cityscapes_vps(root: pathlib.Path, *, all_frames: bool = True):
    """Six annotated frames of one video for each split; thirty frames to infer from."""
    for split in ("train", "val"):
        content = {"images": [], "annotations": [], "categories": []}
        for t in range(FRAMES):
            key = f"0003_{5 * t + 5:04d}_frankfurt_000000_{100 + 5 * t:06d}"
            kind, mask = ("leftImg8bit", "gtFine_color") if t == 3 else ("newImg8bit", "final_mask")
            write_frames(root / split / "img", seed=t, suffix=".png", names=[f"{key}_{kind}"])
            ids, classes = color_ids(t)
            _write_ids(root / split / "panoptic_video" / f"{key}_{mask}.png", ids)
            content["images"].append({"id": key, "height": HEIGHT, "width": WIDTH, "file_name": f"{key}_{kind}.png"})
            content["annotations"].append(
                {"image_id": key, "file_name": f"{key}_{mask}.png", "segments_info": segments(ids, classes)}
            )
        write_json(root / f"panoptic_gt_{split}_city_vps.json", content)
    listed = [
        {
            "id": 30_000 + t,
            "height": HEIGHT,
            "width": WIDTH,
            "file_name": f"frankfurt_000000_{95 + t:06d}_leftImg8bit.png",
        }
        for t in range(1, 31)
    ]
    write_json(root / "im_all_info_val_city_vps.json", {"images": listed})
    if all_frames:
        names = [image["file_name"].removesuffix(".png") for image in listed]
        write_frames(root / "val/img_all", suffix=".png", names=names)


def vipseg(root: pathlib.Path, *, numbered: bool = True):
    """One video for each split in VIPSeg_720P; the values 9 (window) and 61 (person) are things without number."""
    for split, name in (("train", "1_a"), ("val", "12_b")):
        stems = [f"{3 * t:08d}" for t in range(FRAMES)]
        write_frames(root / "VIPSeg_720P/images" / name, names=stems)
        frames = []
        for t, stem in enumerate(stems):
            values = vipseg_values(t).astype(np.int64)
            classes = {i: (i // 100 if i >= 125 else i) - 1 for i in np.unique(values).tolist()}
            frames.append({"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments(values, classes)})
            _write_ids(root / "VIPSeg_720P/panomasksRGB" / name / f"{stem}.png", values)
            if numbered:
                _write(root / "VIPSeg_720P/panomasks" / name / f"{stem}.png", values.astype(np.uint16))
        images = [{"id": stem, "height": HEIGHT, "width": WIDTH, "file_name": f"{stem}.png"} for stem in stems]
        content = {
            "videos": [{"video_id": name, "images": images}],
            "annotations": [{"video_id": name, "annotations": frames}],
            "categories": [],
        }
        write_json(root / f"VIPSeg_720P/panoptic_gt_VIPSeg_{split}.json", content)


def vipseg_values(t: int) -> np.ndarray:
    """`official_files.vipseg_map` with a thing that has no number at the bottom."""
    values = official_files.vipseg_map(t)
    values[-6:, 10:] = 61
    return values


def davis(root: pathlib.Path):
    for split, name in (("train", "bear"), ("val", "cow"), ("test-dev", "car")):
        write_frames(root / "JPEGImages/480p" / name)
        annotated = (0,) if split == "test-dev" else range(FRAMES)
        official_files.write_masks(root / "Annotations/480p" / name, annotated)
        path = root / f"ImageSets/2017/{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\r\n")


def burst(root: pathlib.Path):
    write_json(root / "annotations/train/train.json", official_files.burst(root / "frames/train"))
    for split in ("val", "test"):
        content = official_files.burst(root / "frames" / split)
        write_json(root / f"annotations/{split}/all_classes.json", content)
        for sequence in content["sequences"]:
            for later in sequence["segmentations"][1:]:
                later.clear()
        write_json(root / f"annotations/{split}/first_frame_annotations.json", content)


WRITERS = {
    "YOUTUBE_VIS": youtube_vis,
    "OVIS": ovis,
    "KITTI_STEP": kitti_step,
    "CITYSCAPES_VPS": cityscapes_vps,
    "VIPSEG": vipseg,
    "DAVIS": davis,
    "BURST": burst,
}


def expected_mask(t: int, label: int) -> np.ndarray:
    """bool [H, W] of an object (1, 2) in frame t; absent objects have no pixel."""
    return objects(t).get(label, np.zeros((HEIGHT, WIDTH), np.uint8)) > 0


def _write(path: pathlib.Path, image: np.ndarray):
    """RGB [H, W, 3], or one channel of 8 or 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image)


def _write_ids(path: pathlib.Path, ids: np.ndarray):
    _write(path, np.stack([ids % 256, ids // 256 % 256, ids // 65_536], axis=-1).astype(np.uint8))
