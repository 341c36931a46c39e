"""Writes drawn videos as YouTube-VIS, KITTI-STEP, DAVIS and BURST have theirs, one function per dataset.

Each takes the workspace's root, the split ("train" or "val") and an iterable of `SyntheticVideo`, and consumes it one
video at a time.
"""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as coco_mask
from PIL import Image

from input_pipeline.synthetic_scenes import STUFFS, THINGS, SyntheticVideo
from tarvis_jax.masks.palette import palette

JPEG_QUALITY = 95
PANOPTIC_NAMES = STUFFS + THINGS  # the KITTI-STEP set's classes 0..6


def write_youtube_vis(root: pathlib.Path, split: str, videos: Iterable[SyntheticVideo]) -> None:
    """JSON with `videos`, `categories` (1..4), `annotations`; unlike the public one, that of val has the latter too."""
    folder = _images(root, split, "youtube_vis_2021")
    content: dict[str, Any] = {
        "info": {"description": "synthetic", "version": "1.0", "year": 2021},
        "licenses": [],
        "categories": [{"id": k + 1, "name": name, "supercategory": "object"} for k, name in enumerate(THINGS)],
        "videos": [],
        "annotations": [],
    }
    for video_id, video in enumerate(videos, start=1):
        num_frames, height, width = video.id_map.shape
        names = [f"video{video_id:05d}/{t * 5:05d}.jpg" for t in range(num_frames)]
        _write_frames(folder, names, video)
        size = {"height": height, "width": width, "length": num_frames}
        content["videos"].append({"id": video_id, **size, "file_names": names})
        masks = _encode(video.id_map)
        for instance, category in enumerate(video.classes, start=1):
            track = [frame.get(instance) for frame in masks]
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "video_id": video_id,
                    "category_id": category,
                    "iscrowd": 0,
                    **size,
                    "segmentations": track,
                    "bboxes": [rle and _box(rle) for rle in track],
                    "areas": [rle and int(coco_mask.area(rle)) for rle in track],
                }
            )
    file = "training/youtube_vis_2021.json" if split == "train" else "inference/youtube_vis/valid_2021.json"
    _write_json(root / "dataset_annotations" / file, content)


def write_kitti_step(root: pathlib.Path, split: str, videos: Iterable[SyntheticVideo]) -> None:
    """Training: the generic JSON; val: panoptic PNGs (R = class, instance = 256 G + B). Every pixel is labeled."""
    folder = _images(root, split, "kitti_step" if split == "train" else "kitti_step_val")
    sequences = []
    for number, video in enumerate(videos):
        num_frames, height, width = video.id_map.shape
        names = [f"{number:04d}/{t:06d}.png" for t in range(num_frames)]
        _write_frames(folder, names, video)
        class_of = np.array([0] + [len(STUFFS) + c - 1 for c in video.classes], np.uint8)
        class_map = np.where(video.id_map > 0, class_of[video.id_map], video.stuff_map)
        if split == "train":
            sequences.append(
                {
                    "id": f"{number:04d}",
                    "height": height,
                    "width": width,
                    "length": num_frames,
                    "image_paths": names,
                    "categories": {str(i): int(class_of[i]) for i in range(1, len(class_of))},
                    "segmentations": _counts(_encode(video.id_map)),
                    "semantic_segmentations": _counts(_encode(class_map + 1, shift=-1)),
                }
            )
        else:
            maps = np.stack([video.id_map, np.zeros_like(class_map), class_map], axis=-1)  # B, G, R
            truth = root / "dataset_annotations" / "inference" / "kitti_step_val"
            for name, panoptic in zip(names, maps, strict=True):
                _write_image(truth / name, panoptic)
    if split == "train":
        labels = {str(k): name for k, name in enumerate(PANOPTIC_NAMES)}
        content = {"meta": {"category_labels": labels}, "sequences": sequences}
        _write_json(root / "dataset_annotations" / "training" / "kitti_step.json", content)


def write_davis(root: pathlib.Path, split: str, videos: Iterable[SyntheticVideo]) -> None:
    """The official folder `davis/`, and the released workspace's names for the same files (links, JSON, list).

    As in DAVIS the objects are those of the first frame: only objects that show `min_visible_area` pixels or more there
    are annotated; the others belong to the background.
    """
    official = root / "davis"
    names, sequences = [], []
    for number, video in enumerate(videos):
        name = f"{split}-{number:05d}"
        names.append(name)
        num_frames, height, width = video.id_map.shape
        files = [f"{name}/{t:05d}" for t in range(num_frames)]
        _write_frames(official / "JPEGImages" / "480p", [f"{file}.jpg" for file in files], video)
        given = np.flatnonzero(video.areas[0, 1:] >= video.min_visible_area) + 1
        new_id = np.zeros(len(video.classes) + 1, np.uint8)
        new_id[given] = np.arange(1, len(given) + 1)
        id_map = new_id[video.id_map]
        for file, ids in zip(files, id_map, strict=True):
            _write_palette(official / "Annotations" / "480p" / f"{file}.png", ids)
        sequences.append(
            {
                "id": name,
                "height": height,
                "width": width,
                "length": num_frames,
                "image_paths": [f"{file}.jpg" for file in files],
                "categories": {str(i): 1 for i in range(1, len(given) + 1)},
                "segmentations": _counts(_encode(id_map)),
            }
        )
    _write_text(official / "ImageSets" / "2017" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    annotations = root / "dataset_annotations"
    if split == "train":
        _link(root / "dataset_images" / "training" / "davis", official / "JPEGImages" / "480p")
        content = {"meta": {"category_labels": {"1": "object"}}, "sequences": sequences}
        _write_json(annotations / "training" / "davis_semisupervised.json", content)
    else:
        _link(root / "dataset_images" / "inference" / "davis", official / "JPEGImages" / "480p")
        _link(annotations / "inference" / "davis" / "Annotations", official / "Annotations" / "480p")
        _write_text(annotations / "inference" / "davis" / "ImageSet_val.txt", "".join(f"{name}\n" for name in names))


def write_burst(root: pathlib.Path, split: str, videos: Iterable[SyntheticVideo]) -> None:
    """Training: one JSON; val: `first_frame_annotations_val.json` (mask, box, point of each track) and
    `all_classes_val.json` (ground truth). All tracks are of one category.

    A track starts in the first frame that shows `min_visible_area` pixels of it (objects without one are left out, and
    so are slivers before it, to which no fair point could be given); from there on masks are exact.
    """
    folder = _images(root, split, "burst" if split == "train" else "burst/val")
    sequences, first_frames = [], []
    for number, video in enumerate(videos, start=1):
        num_frames, height, width = video.id_map.shape
        name = f"{split}{number:05d}"
        files = [f"frame{t + 1:04d}.jpg" for t in range(num_frames)]
        _write_frames(folder, [f"Synthetic/{name}/{file}" for file in files], video)
        large = video.areas[:, 1:] >= video.min_visible_area
        starts = {i + 1: int(np.argmax(large[:, i])) for i in np.flatnonzero(large.any(axis=0))}
        masks = [
            {i: rle for i, rle in frame.items() if t >= starts.get(i, num_frames)}
            for t, frame in enumerate(_encode(video.id_map))
        ]
        sequence = {
            "id": number,
            "width": width,
            "height": height,
            "seq_name": name,
            "dataset": "Synthetic",
            "fps": 1,
            "all_image_paths": files,
            "annotated_image_paths": files,
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
            "track_category_ids": {str(i): 1 for i in starts},
        }
        truth = [{str(i): {"rle": rle["counts"], "is_gt": True} for i, rle in frame.items()} for frame in masks]
        sequences.append({**sequence, "segmentations": truth})
        prompts: list[dict[str, Any]] = [{} for _ in files]
        for i, t in starts.items():
            y, x = inner_point(video.id_map[t] == i)
            box = [int(value) for value in _box(masks[t][i])]
            prompts[t][str(i)] = {**truth[t][str(i)], "bbox": box, "point": {"x": x, "y": y}}
        first_frames.append({**sequence, "segmentations": prompts})
    categories = [{"id": 1, "name": "object", "synset": "object.n.01", "def": "any object", "synonyms": ["object"]}]
    content = {"categories": categories, "split": split}
    annotations = root / "dataset_annotations"
    if split == "train":
        _write_json(annotations / "training" / "burst.json", {**content, "sequences": sequences})
    else:
        burst = annotations / "inference" / "burst"
        _write_json(burst / "all_classes_val.json", {**content, "sequences": sequences})
        _write_json(burst / "first_frame_annotations_val.json", {**content, "sequences": first_frames})


def inner_point(mask: np.ndarray) -> tuple[int, int]:
    """(y, x) of the pixel of `mask` (bool [H, W], not empty) farthest from its border; ties: nearest to the mean."""
    distance = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    ys, xs = np.nonzero(distance >= distance.max() - 1e-4)
    mean_y, mean_x = (axis.mean() for axis in np.nonzero(mask))
    best = np.argmin((ys - mean_y) ** 2 + (xs - mean_x) ** 2)
    return int(ys[best]), int(xs[best])


def _images(root: pathlib.Path, split: str, name: str) -> pathlib.Path:
    return root / "dataset_images" / ("training" if split == "train" else "inference") / name


def _write_frames(folder: pathlib.Path, names: list[str], video: SyntheticVideo) -> None:
    (folder / names[0]).parent.mkdir(parents=True, exist_ok=True)
    for name, frame in zip(names, video.frames[..., ::-1], strict=True):
        _write_image(folder / name, frame, make_folder=False)


def _write_image(path: pathlib.Path, image: np.ndarray, make_folder: bool = True) -> None:
    """uint8 BGR [H, W, 3]."""
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY, cv2.IMWRITE_PNG_COMPRESSION, 1]
    parameters = parameters[:2] if path.suffix == ".jpg" else parameters[2:]
    if not cv2.imwrite(str(path), np.ascontiguousarray(image), parameters):
        raise OSError(f"{path}: could not be written")


def _write_palette(path: pathlib.Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids, mode="P")
    image.putpalette(_PALETTE)
    image.save(path, compress_level=1)


_PALETTE = palette().tobytes()


def _encode(label_map: np.ndarray, shift: int = 0) -> list[dict[int, dict[str, Any]]]:
    """uint8 [T, H, W] -> per frame {label + shift: RLE} of the labels > 0 that it shows."""
    counts = [np.bincount(frame.ravel()) for frame in label_map]
    shown = [(t, int(label)) for t, count in enumerate(counts) for label in np.flatnonzero(count) if label > 0]
    result: list[dict[int, dict[str, Any]]] = [{} for _ in label_map]
    if shown:
        masks = np.stack([label_map[t] == label for t, label in shown], axis=-1)
        for (t, label), rle in zip(shown, coco_mask.encode(np.asfortranarray(masks, np.uint8)), strict=True):
            size = [int(side) for side in rle["size"]]
            result[t][label + shift] = {"size": size, "counts": rle["counts"].decode("ascii")}
    return result


def _counts(masks: list[dict[int, dict[str, Any]]]) -> list[dict[str, str]]:
    return [{str(label): rle["counts"] for label, rle in frame.items()} for frame in masks]


def _box(rle: dict[str, Any]) -> list[float]:
    """x, y, width, height in pixels."""
    return coco_mask.toBbox(rle).tolist()


def _write_json(path: pathlib.Path, content: Any) -> None:
    _write_text(path, json.dumps(content))


def _write_text(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _link(link: pathlib.Path, target: pathlib.Path) -> None:
    """A relative link, so that the workspace can be moved."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
