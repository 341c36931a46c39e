"""Writes made-up ground truth and results in the official layouts: with what is unusual in real files, of any size.

The objects are ellipses that move, vanish and come back; the results are the same ellipses with errors, and others.
`python -m benchmarks.evaluation` measures on larger cases of the same kind.
"""

import json
import pathlib

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Masks = list[np.ndarray | None]  # one bool mask [H, W] or None per frame

YTVIS_CATEGORIES = (1, 3, 4, 17, 26, 40)
BURST_CATEGORIES = {
    4: "airplane", 63: "basketball", 201: "walking_cane", 207: "cap", 347: "cup", 554: "hat", 720: "mug",
    805: "baby", 888: "razorblade", 912: "plastic_bag", 967: "shopping_bag", 1175: "walking_stick",
}  # fmt: skip


def ellipses(rng: np.random.Generator, size: tuple[int, int], num_frames: int) -> Masks:
    """One object; at least one frame shows it."""
    height, width = size
    center, speed = rng.uniform(0, (height, width)), rng.normal(0, 0.03, 2) * (height, width)
    radius = rng.uniform(0.05, 0.3, 2) * (height, width) + 1
    y, x = np.ogrid[:height, :width]
    masks: Masks = []
    for t in range(num_frames):
        inside = (((y - center[0]) / radius[0]) ** 2 + ((x - center[1]) / radius[1]) ** 2) <= 1
        masks.append(inside if inside.any() and (rng.random() > 0.1 or t == 0) else None)
        center = center + speed + rng.normal(0, 0.01, 2) * (height, width)
    if all(mask is None for mask in masks):
        masks[0] = np.ones(size, bool)
    return masks


def predicted(rng: np.random.Generator, masks: Masks, strength: float) -> Masks:
    """The same object as a program would find it: moved, missed in some frames, found in others."""
    result: Masks = []
    for mask in masks:
        if mask is None or rng.random() < 0.1:
            shape = next(each.shape for each in masks if each is not None)
            result.append(None if rng.random() < 0.8 else np.zeros(shape, bool))
            continue
        shift = np.rint(rng.normal(0, strength, 2) * mask.shape).astype(int)
        moved = np.roll(mask, shift, (0, 1))
        result.append(moved if rng.random() < 0.9 else mask | moved)
    return result


def encode(mask: np.ndarray, as_list: bool = False) -> dict:
    """COCO's RLE, compressed or as a list of runs."""
    if as_list:
        flat = mask.T.reshape(-1).astype(np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
        runs = np.diff([0, *edges, flat.size]).tolist()
        return {"size": list(mask.shape), "counts": runs}
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode()}


def write_tracks(
    folder: pathlib.Path,
    rng: np.random.Generator,
    *,
    with_occlusion: bool,
    num_videos: int = 5,
    size: tuple[int, int] | None = None,
    num_frames: int = 6,
    num_tracks: int = 4,
) -> None:
    """annotations.json and results.json of YouTube-VIS, or of OVIS; sizes are random unless one is given."""
    levels = ["no_occlusion", "slight_occlusion", "severe_occlusion"]
    videos, annotations, results = [], [], []
    for video in range(1, num_videos + 1):
        shape = size or tuple(int(side) for side in rng.integers((60, 60), (400, 500)))
        length = num_frames if size else int(rng.integers(2, 2 * num_frames))
        number = 3 * video  # ids are no positions
        videos.append(
            {"id": number, "height": shape[0], "width": shape[1], "length": length}
            | {"file_names": [f"v{number}/{t:05d}.jpg" for t in range(length)]}
        )
        for _ in range(num_tracks if size else int(rng.integers(0, num_tracks + 1))):
            masks = ellipses(rng, shape, length)
            category = int(rng.choice(YTVIS_CATEGORIES[:-1]))
            is_crowd = int(rng.random() < 0.15)
            labels = [None if mask is None else str(rng.choice(levels)) for mask in masks]
            annotations.append(
                {"id": 2 * len(annotations) + 1, "video_id": number, "category_id": category, "iscrowd": is_crowd}
                | {"segmentations": [None if m is None else encode(m, as_list=not with_occlusion) for m in masks]}
                | {"areas": [None if m is None else int(m.sum()) for m in masks]}
                | ({"occlusion": labels} if with_occlusion else {})
            )
            for _ in range(int(rng.integers(0, 4))):
                guess = predicted(rng, masks, float(rng.choice([0.0, 0.01, 0.05])))
                results.append((number, category if rng.random() < 0.8 else int(rng.choice(YTVIS_CATEGORIES)), guess))
        for _ in range(2):
            results.append((number, int(rng.choice(YTVIS_CATEGORIES)), ellipses(rng, shape, length)))
    if not size:  # more than 100 detections of one category in one video
        masks = [np.eye(videos[0]["height"], videos[0]["width"], dtype=bool)] * videos[0]["length"]
        results += [(videos[0]["id"], YTVIS_CATEGORIES[0], masks)] * 105
    entries = [
        {"video_id": video, "category_id": category, "score": round(float(rng.random()), 1)}  # many are equal
        | {"segmentations": [None if mask is None else encode(mask) for mask in masks]}
        for video, category, masks in results
    ]
    rng.shuffle(entries)
    rng.shuffle(videos)
    categories = [{"id": category, "name": f"class {category}"} for category in YTVIS_CATEGORIES]
    truth = {"videos": videos, "categories": categories, "annotations": annotations}
    _write_json(folder / "annotations.json", truth)
    _write_json(folder / "results.json", entries)


def write_davis(
    folder: pathlib.Path,
    rng: np.random.Generator,
    *,
    num_videos: int = 4,
    size: tuple[int, int] | None = None,
    num_frames: int = 7,
    num_objects: int = 3,
) -> None:
    """DAVIS/ and results/; the JPEG images are empty files, which the official toolkit only looks for."""
    names = [f"clip-{video}" for video in range(num_videos)]
    for name in names:
        shape = size or tuple(int(side) for side in rng.integers((20, 20), (150, 260)))
        length = num_frames if size else int(rng.integers(3, 2 * num_frames))
        count = num_objects if size else int(rng.integers(1, num_objects + 1))
        truths = [ellipses(rng, shape, length) for _ in range(count)]
        guesses = [predicted(rng, masks, 0.02) for masks in truths]
        truths.append([None] * 2 + ellipses(rng, shape, length)[2:])  # shows up later than frame 0
        for t in range(length):
            truth, guess = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
            for image, tracks in ((truth, truths), (guess, guesses)):
                for number, masks in enumerate(tracks, start=1):
                    if masks[t] is not None:
                        image[masks[t]] = number
            truth[rng.random(shape) < 0.002] = 255
            if t == 0:
                truth[0, :count] = np.arange(1, count + 1)  # no object is covered by another
            _write_palette(folder / "DAVIS/Annotations/480p" / name / f"{t:05d}.png", truth)
            image = folder / "DAVIS/JPEGImages/480p" / name / f"{t:05d}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()
            if 0 < t < length - 1:
                _write_palette(folder / "results" / name / f"{t:05d}.png", guess)
    listing = folder / "DAVIS/ImageSets/2017/val.txt"
    listing.parent.mkdir(parents=True)
    listing.write_text("\n".join(names) + "\n")


def write_burst(
    folder: pathlib.Path,
    rng: np.random.Generator,
    *,
    num_videos: int = 5,
    size: tuple[int, int] | None = None,
    num_frames: int = 6,
    num_tracks: int = 6,
) -> None:
    """gt/all_classes.json and results.json."""
    truth, results = [], []
    for number in range(1, num_videos + 1):
        shape = size or tuple(int(side) for side in rng.integers((40, 40), (150, 260)))
        names = [f"frame{30 * t + 1:04d}.jpg" for t in range(num_frames)]
        extra = [f"frame{30 * t + 16:04d}.jpg" for t in range(num_frames)]
        categories = {str(t): int(rng.choice(list(BURST_CATEGORIES))) for t in range(1, num_tracks + 1)}
        tracks = {t: ellipses(rng, shape, num_frames) for t in categories}
        guesses = {t: predicted(rng, masks, 0.03) for t, masks in tracks.items() if rng.random() < 0.9}
        if len(guesses) > 1:  # two objects change places
            one, other = list(guesses)[:2]
            guesses[one][2:], guesses[other][2:] = guesses[other][2:], guesses[one][2:]
        if number == 1:  # a frame without any true object
            for masks in tracks.values():
                masks[1] = None
        head = {"id": 10 * number, "height": shape[0], "width": shape[1], "seq_name": f"seq-{number}"}
        head |= {"dataset": str(rng.choice(["LaSOT", "Charades"])), "fps": 30, "track_category_ids": categories}
        head |= {
            "all_image_paths": names,
            "neg_category_ids": [5],
            "not_exhaustive_category_ids": [347, 4][: number % 3],
        }
        truth.append(head | {"annotated_image_paths": names, "segmentations": _by_frame(tracks, num_frames)})
        found = _by_frame(guesses, num_frames)
        for masks in found:
            for record in masks.values():
                if rng.random() < 0.8:
                    record["score"] = round(float(rng.random()), 1)
        between = [frame for pair in zip(found, found, strict=True) for frame in pair]
        paths = [name for pair in zip(names, extra, strict=True) for name in pair]
        results.append(head | {"annotated_image_paths": paths, "segmentations": between})
    rng.shuffle(results)
    categories = [{"id": c, "name": name} for c, name in BURST_CATEGORIES.items()]
    _write_json(folder / "gt/all_classes.json", {"sequences": truth, "categories": categories, "split": "val"})
    _write_json(folder / "results.json", {"sequences": results, "categories": categories, "split": "val"})


def _by_frame(tracks: dict[str, Masks], num_frames: int) -> list[dict[str, dict]]:
    return [
        {t: {"rle": encode(masks[frame])["counts"]} for t, masks in tracks.items() if masks[frame] is not None}
        for frame in range(num_frames)
    ]


def _write_json(path: pathlib.Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _write_palette(path: pathlib.Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette([channel for i in range(256) for channel in (i, 255 - i, i * 7 % 256)])
    image.save(path)
