"""Tiny datasets in the official formats, written by hand for the tests."""

import json
import pathlib

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

HEIGHT, WIDTH, FRAMES = 48, 64, 6


def rectangle(top, left, height, width):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def compressed(mask):
    """Counts of the compressed RLE, as text."""
    return coco_mask.encode(np.asfortranarray(mask))["counts"].decode()


def runs(mask):
    """Counts of the uncompressed RLE."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate(([0], edges, [flat.size]))
    lengths = np.diff(bounds).tolist()
    return [0, *lengths] if flat[0] else lengths


def objects(t):
    """Two moving objects; the second is only in frames 1 and later."""
    result = {1: rectangle(10, 5 + 3 * t, 12, 10)}
    if t >= 1:
        result[2] = rectangle(28, 40 - 2 * t, 10, 14)
    return result


def frame(t, seed):
    """A noisy gray image in which the objects are red and green."""
    image = np.random.default_rng([seed, t]).integers(60, 120, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    for label, mask in objects(t).items():
        image[mask > 0] = (220, 40, 40) if label == 1 else (40, 220, 40)
    return image


def write_frames(folder: pathlib.Path, seed=0, suffix=".jpg", names=None):
    folder.mkdir(parents=True, exist_ok=True)
    names = names or [f"{t:05d}" for t in range(FRAMES)]
    for t, name in enumerate(names):
        cv2.imwrite(str(folder / f"{name}{suffix}"), frame(t, seed)[..., ::-1])
    return [f"{folder.name}/{name}{suffix}" for name in names]


def write_json(path: pathlib.Path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def youtube_vis(images: pathlib.Path, num_videos=3, with_annotations=True):
    """The content of a YouTube-VIS JSON; even videos have uncompressed masks."""
    content = {"videos": [], "annotations": [], "categories": [{"id": i, "name": f"class{i}"} for i in (1, 2, 3)]}
    for v in range(1, num_videos + 1):
        names = write_frames(images / f"video{v}", seed=v)
        content["videos"].append({"id": v, "height": HEIGHT, "width": WIDTH, "length": FRAMES, "file_names": names})
        for label in (1, 2):
            segments = []
            for t in range(FRAMES):
                mask = objects(t).get(label)
                counts = None if mask is None else (compressed(mask) if v % 2 else runs(mask))
                segments.append(counts and {"size": [HEIGHT, WIDTH], "counts": counts})
            content["annotations"].append(
                {"id": 10 * v + label, "video_id": v, "category_id": label, "iscrowd": 0, "segmentations": segments}
            )
    if not with_annotations:
        del content["annotations"]
    return content


def generic(images: pathlib.Path, num_videos=2, semantic=False, suffix=".jpg"):
    """The released workspace's JSON. With `semantic` as KITTI-STEP: classes 11, 13 over 0, 8; a border is ignored."""
    content = {"meta": {"category_labels": {}}, "sequences": []}
    for v in range(num_videos):
        names = write_frames(images / f"{v:04d}", seed=v, suffix=suffix)
        sequence = {
            "id": f"{v:04d}",
            "height": HEIGHT,
            "width": WIDTH,
            "image_paths": names,
            "categories": {"1": 13, "2": 11},
            "segmentations": [{str(i): compressed(m) for i, m in objects(t).items()} for t in range(FRAMES)],
        }
        if semantic:
            sequence["semantic_segmentations"] = []
            for t in range(FRAMES):
                maps = class_map(t)
                sequence["semantic_segmentations"].append(
                    {str(label): compressed((maps == label).astype(np.uint8)) for label in np.unique(maps).tolist()}
                )
        content["sequences"].append(sequence)
    return content


def class_map(t):
    """uint8 [H, W]: sky-like 8 on top, road 0 below, the objects, and an ignored left border."""
    result = np.zeros((HEIGHT, WIDTH), np.uint8)
    result[:20] = 8
    for label, mask in objects(t).items():
        result[mask > 0] = {1: 13, 2: 11}[label]
    result[:, :3] = 255
    return result


def step_map(t):
    """KITTI-STEP's PNG as RGB: class, instance // 256, instance % 256."""
    result = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    result[..., 0] = class_map(t)
    for label, mask in objects(t).items():
        inside = (mask > 0) & (result[..., 0] != 255)
        result[inside, 1:] = divmod(300 if label == 1 else 2, 256)
    return result


def burst(images: pathlib.Path):
    """The content of a BURST JSON, two sequences with the same name in different datasets."""
    content = {"sequences": [], "categories": [{"id": 805, "name": "person"}], "split": "train"}
    for v, name in enumerate(("YFCC100M", "Charades")):
        write_frames(images / name / "clip", seed=v)
        names = [f"{t:05d}.jpg" for t in range(FRAMES)]
        segments = []
        for t in range(FRAMES):
            entries = {str(i): {"rle": compressed(m), "is_gt": True} for i, m in objects(t).items()}
            for i, mask in objects(t).items():
                rows, columns = np.nonzero(mask)
                entries[str(i)]["point"] = {"x": int(columns.mean()), "y": int(rows.mean())}
            entries["7"] = {"rle": compressed(rectangle(0, 0, 2, 2)), "is_gt": True}
            segments.append(entries)
        content["sequences"].append(
            {
                "id": v,
                "height": HEIGHT,
                "width": WIDTH,
                "dataset": name,
                "seq_name": "clip",
                "fps": 1,
                "all_image_paths": names,
                "annotated_image_paths": names,
                "track_category_ids": {"1": 805, "2": 805, "7": 805},
                "segmentations": segments,
            }
        )
    return content


def palette_png(path: pathlib.Path, ids: np.ndarray):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids.astype(np.uint8), mode="P")
    image.putpalette([(37 * i) % 256 for i in range(768)])
    image.save(path)


def write_masks(folder: pathlib.Path, frames=range(FRAMES)):
    """Palette PNGs of the objects, with void in a corner."""
    for t in frames:
        ids = np.zeros((HEIGHT, WIDTH), np.uint8)
        for label, mask in objects(t).items():
            ids[mask > 0] = label
        ids[-2:, -2:] = 255
        palette_png(folder / f"{t:05d}.png", ids)


def workspace(root: pathlib.Path):
    """A whole workspace with one small dataset per format; returns `root`."""
    images, annotations = root / "dataset_images", root / "dataset_annotations"
    write_json(
        annotations / "training" / "youtube_vis_2021.json", youtube_vis(images / "training" / "youtube_vis_2021")
    )
    write_json(
        annotations / "inference" / "youtube_vis" / "valid_2021.json",
        youtube_vis(images / "inference" / "youtube_vis_2021", 1, with_annotations=False),
    )
    write_json(
        annotations / "training" / "kitti_step.json",
        generic(images / "training" / "kitti_step", semantic=True, suffix=".png"),
    )
    write_frames(images / "inference" / "kitti_step_val" / "0002", suffix=".png")
    for t in range(FRAMES):
        path = annotations / "inference" / "kitti_step_val" / "0002" / f"{t:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), step_map(t)[..., ::-1])
    write_json(annotations / "training" / "davis_semisupervised.json", generic(images / "training" / "davis"))
    write_frames(images / "inference" / "davis" / "bear")
    write_masks(annotations / "inference" / "davis" / "Annotations" / "bear")
    (annotations / "inference" / "davis" / "ImageSet_val.txt").write_text("bear\n")
    write_json(annotations / "training" / "burst.json", burst(images / "training" / "burst"))
    vipseg(root)
    content = burst(images / "inference" / "burst" / "val")
    write_json(annotations / "inference" / "burst" / "all_classes_val.json", content)
    for sequence in content["sequences"]:
        for later in sequence["segmentations"][2:]:
            later.clear()
        for track in ("1", "7"):
            del sequence["segmentations"][1][track]
    write_json(annotations / "inference" / "burst" / "first_frame_annotations_val.json", content)
    return root


def vipseg(root: pathlib.Path):
    """Two VIPSeg training videos: person (60) and horse (63) over wall (0) and sky-like (8), a void border."""
    images = root / "dataset_images" / "training" / "vipseg"
    truth = root / "dataset_annotations" / "training" / "vipseg"
    sequences = []
    for name in ("1_a", "2_b"):
        names = [f"{t:08d}" for t in range(FRAMES)]
        write_frames(images / name, names=names)
        for t, stem in enumerate(names):
            path = truth / "panoptic_masks" / name / f"{stem}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), vipseg_map(t))
        sequences.append(
            {
                "name": name,
                "filenames": names,
                "instance_ids": [6101, 6402],
                "stuff_classes": [0, 8],
                "frame_instance_occupancy": [[{1: 6101, 2: 6402}[i] for i in objects(t)] for t in range(FRAMES)],
            }
        )
    write_json(truth / "video_info.json", {"sequences": sequences, "categories": []})


def vipseg_map(t):
    """uint16 [H, W]: 0 void, stuff class + 1, things (class + 1) * 100 + number."""
    result = class_map(t).astype(np.int64)
    return np.select([result == 255, result == 13, result == 11], [0, 6101, 6402], result + 1).astype(np.uint16)
