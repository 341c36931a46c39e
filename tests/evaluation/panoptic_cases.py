"""Writes made-up cases of KITTI-STEP, Cityscapes-VPS, VIPSeg and VSPW in the official layouts, with what is unusual in
real files, of any size.

Bands of stuff lie under ellipses that move; the results are the same with errors, and others.
"""

import json
import pathlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

NUM_BANDS, NUM_ELLIPSES = 3, 6
NUM_SEGMENTS = NUM_BANDS + NUM_ELLIPSES  # 1.. in the maps of `scene`; the last two are in the results only


def scene(rng: np.random.Generator, size: tuple[int, int], num_frames: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(truth, prediction) of each frame: int64 [H, W], 0 = void, else a segment 1..NUM_SEGMENTS."""
    height, width = size
    y, x = np.ogrid[:height, :width]
    center, speed = rng.uniform(0, size, (NUM_ELLIPSES + 1, 2)), rng.normal(0, 0.03, (NUM_ELLIPSES + 1, 2)) * size
    radius = rng.uniform(0.1, 0.3, (NUM_ELLIPSES + 1, 2)) * size + 1

    def bands(border: float) -> np.ndarray:
        row = y + 0.05 * height * np.sin(8 * x / width) + border
        return np.clip(row * NUM_BANDS // height, 0, NUM_BANDS - 1).astype(np.int64) + 1

    def paint(ids: np.ndarray, i: int, shift: np.ndarray, value: int) -> None:
        dy, dx = (y - center[i, 0] - shift[0]) / radius[i, 0], (x - center[i, 1] - shift[1]) / radius[i, 1]
        ids[dy**2 + dx**2 <= 1] = value

    swapped = rng.random() < 0.3
    for frame in range(num_frames):
        truth, prediction = bands(0), bands(rng.normal(0, 0.03) * height)
        for i in range(NUM_ELLIPSES):
            value = NUM_BANDS + 1 + i
            if i < NUM_ELLIPSES - 2 and rng.random() < 0.95:
                paint(truth, i, np.zeros(2), value)
            if rng.random() < 0.9:
                found = value ^ 1 if swapped and frame == num_frames // 2 else value
                paint(prediction, i, rng.normal(0, 0.02, 2) * size, min(found, NUM_SEGMENTS))
        paint(truth, NUM_ELLIPSES, np.zeros(2), 0)
        if rng.random() < 0.3:
            paint(prediction, NUM_ELLIPSES, np.zeros(2), 0)
        yield truth, prediction
        center += speed


def write_kitti_step(folder: pathlib.Path, rng: np.random.Generator, *, num_videos, num_frames, size) -> None:
    for video in range(num_videos):
        classes = np.array([255, 0, 2, 8, *rng.choice([11, 13, 11, 13, 13], NUM_ELLIPSES)])
        if video == 1:
            classes[NUM_BANDS + 1 :] = 4  # no things
        instances = np.where(np.isin(classes, (11, 13)), rng.choice([0, 1, 255, 256, 700, 999], len(classes)), 0)
        found = np.where(rng.random(len(classes)) < 0.8, classes, rng.choice([11, 13, 3, 255], len(classes)))
        numbers = rng.integers(0, 1000, len(classes))
        for frame, (truth, prediction) in enumerate(scene(rng, size, num_frames)):
            for side, ids, labels, n in (("gt", truth, classes, instances), ("pred", prediction, found, numbers)):
                values = labels[ids] + (n[ids] // 256 << 8) + (n[ids] % 256 << 16)
                write_ids(folder / side / f"{video:04d}" / f"{frame:06d}.png", values)


def write_cityscapes_vps(folder: pathlib.Path, rng: np.random.Generator, *, num_videos, size, num_frames=6) -> None:
    """Always six frames per video; `num_frames` is there for callers that write all kinds of cases."""
    images, truths, guesses = [], [], []
    for video in range(num_videos):
        for frame, (truth, prediction, *infos) in enumerate(_segments(rng, size, 6, np.arange(19), with_crowd=True)):
            name = f"{video:04d}_{frame:04d}_town"
            source, target = (("newImg8bit", "final_mask"), ("leftImg8bit", "gtFine_color"))[frame == 3]
            images.append({"id": name, "height": size[0], "width": size[1], "file_name": f"{name}_{source}.png"})
            truths.append({"image_id": name, "file_name": f"{name}_{target}.png", "segments_info": infos[0]})
            guesses.append({"image_id": name, "file_name": f"{name}.png", "segments_info": infos[1]})
            write_ids(folder / "gt/panoptic_video" / f"{name}_{target}.png", truth)
            write_ids(folder / "pred/pan_pred" / f"{name}.png", prediction)
    gt = {"images": images, "annotations": truths, "categories": _categories(19)}
    write_json(folder / "gt/panpotic_gt_val_city_vps.json", gt)
    write_json(folder / "pred/pred.json", {"annotations": guesses})


def write_vipseg(folder: pathlib.Path, rng: np.random.Generator, *, num_videos, num_frames, size) -> None:
    """Videos get shorter by one frame each, down to one."""
    videos, truths, guesses = [], [], []
    for video in range(num_videos):
        video_id, classes, length = f"{video}_x", rng.permutation(124)[:20], max(1, num_frames - video)
        frames = []
        for frame, (truth, prediction, *infos) in enumerate(_segments(rng, size, length, classes, with_crowd=False)):
            name = f"{frame:08d}.png"
            frames.append((name, *infos))
            write_ids(folder / "gt/panomasksRGB" / video_id / name, truth)
            write_ids(folder / "pred/pan_pred" / video_id / name, prediction)
        sizes = {"height": size[0], "width": size[1]}
        videos.append({"video_id": video_id, "images": [{"id": n[:-4], "file_name": n, **sizes} for n, *_ in frames]})
        for index, records in ((1, truths), (2, guesses)):
            entries = [{"file_name": each[0], "segments_info": each[index]} for each in frames]
            records.append({"video_id": video_id, "annotations": entries})
    gt = {"videos": videos, "annotations": truths, "categories": _categories(124)}
    write_json(folder / "gt/panoptic_gt_VIPSeg_val.json", gt)
    write_json(folder / "pred/pred.json", {"annotations": guesses[::-1]})


def write_vspw(folder: pathlib.Path, rng: np.random.Generator, *, num_videos, num_frames, size) -> None:
    """Videos get shorter by one frame each, down to one."""
    names = [f"{video}_x" for video in range(num_videos)]
    for video, name in enumerate(names):
        labels = np.array([0, *rng.permutation(124)[:NUM_SEGMENTS] + 1], np.uint8)
        found = np.where(rng.random(len(labels)) < 0.8, labels, rng.permutation(labels)) - np.uint8(1)
        labels[rng.integers(len(labels))] = 255
        for frame, (truth, prediction) in enumerate(scene(rng, size, max(1, num_frames - video))):
            write_classes(folder / "gt/data" / name / "mask" / f"{frame:08d}.png", labels[truth])
            write_classes(folder / "pred" / name / f"{frame:08d}.png", found[prediction])
    (folder / "gt/val.txt").write_text("\n".join(names) + "\n")


def write_ids(path: pathlib.Path, ids: np.ndarray) -> None:
    """An RGB PNG: id = R + 256 G + 65536 B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)).save(path)


def read_ids(path: pathlib.Path) -> np.ndarray:
    return np.array(Image.open(path)).astype(np.int64) @ np.array([1, 256, 65536])


def write_classes(path: pathlib.Path, classes: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(classes.astype(np.uint8)).save(path)


def write_json(path: pathlib.Path, content) -> None:
    path.write_text(json.dumps(content))


def _segments(rng: np.random.Generator, size, num_frames: int, classes: np.ndarray, *, with_crowd: bool) -> Iterator:
    """(true ids, predicted ids, true records, predicted records) of each frame."""
    ids = rng.choice([*range(1, 300), *range(65_000, 66_000), 2**24 - 1], (2, NUM_SEGMENTS + 1), replace=False)
    ids[:, 0] = 0
    if rng.random() < 0.5:
        ids[1] = ids[0]
    categories = rng.choice(classes, (2, NUM_SEGMENTS + 1))
    categories[1] = np.where(rng.random(NUM_SEGMENTS + 1) < 0.8, categories[0], categories[1])
    crowds = rng.random(NUM_SEGMENTS + 1) < (0.3 if with_crowd else 0)
    hidden = rng.integers(1, NUM_SEGMENTS + 1)  # of the truth, in no JSON
    for maps in scene(rng, size, num_frames):
        records = []
        for side, values in enumerate(maps):
            listed = []
            for segment in rng.permutation(np.arange(1, NUM_SEGMENTS + 1)):
                area = int(np.count_nonzero(values == segment))
                if side == 0 and segment == hidden or area == 0 and (side == 1 or rng.random() < 0.8):
                    continue
                category = categories[side, segment] if rng.random() < 0.95 else rng.choice(classes)
                record = {"id": int(ids[side, segment]), "category_id": int(category), "iscrowd": int(crowds[segment])}
                listed.append(record | {"area": area + int(rng.random() < 0.2) * int(rng.integers(1, 50))})
            records.append(listed)
        yield ids[0][maps[0]], ids[1][maps[1]], *records


def _categories(number: int) -> list[dict]:
    return [{"id": i, "name": str(i), "isthing": int(i % 3 == 0)} for i in range(number)]
