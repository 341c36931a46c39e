"""A lab with classes of its own: clips of moving shapes whose truth is known, and a person who labels and corrects."""

import pathlib
import shutil
from collections.abc import Sequence

import cv2
import numpy as np

from input_pipeline import readers
from input_pipeline.config import DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.masks import rle
from tarvis_jax.results.formats import Options, ResultVideo, cvat_video
from tarvis_jax.results.tracks import Track, VideoResult

CLASSES = ("ball", "bar")
HEIGHT, WIDTH, NUM_FRAMES = 64, 96, 9
CORRECTED_EVERY = 4  # frames: 0, 4, 8 are looked at


def draw(seed: int, classes: Sequence[str] = CLASSES) -> tuple[np.ndarray, VideoResult]:
    """Frames uint8 RGB [T, H, W, 3] and the true tracks, ids from 1 on, classes counted from 1.

    A class is told by its shape alone: colors are random, shapes turn, move and cover each other.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    owner = np.zeros((NUM_FRAMES, HEIGHT, WIDTH), np.uint8)
    base = cv2.resize(rng.uniform(60, 190, (5, 7, 3)).astype(np.float32), (WIDTH, HEIGHT))
    frames = np.stack([base] * NUM_FRAMES)
    labels = rng.integers(0, len(classes), rng.integers(2, 5)).tolist()
    for track, label in enumerate(labels, start=1):
        (cy, cx), speed = rng.uniform((12, 14), (52, 82)), rng.uniform(-3, 3, 2)
        radius, angle, turn = rng.uniform(9, 15), rng.uniform(0, np.pi), rng.uniform(-0.15, 0.15)
        color = rng.uniform(0, 255, 3)
        for t in range(NUM_FRAMES):
            dy, dx = y - cy - t * speed[0], x - cx - t * speed[1]
            u = (np.cos(angle + t * turn) * dx + np.sin(angle + t * turn) * dy) / radius
            v = (np.cos(angle + t * turn) * dy - np.sin(angle + t * turn) * dx) / radius
            distance = np.hypot(u, v)
            mask = {
                "ball": distance < 0.8,
                "bar": (abs(u) < 1) & (abs(v) < 0.35),
                "star": distance < 0.6 + 0.4 * np.cos(5 * np.arctan2(v, u)),
            }[classes[label]]
            owner[t][mask] = track
            frames[t][mask] = color
    frames = np.clip(frames + rng.normal(0, 10, frames.shape), 0, 255).astype(np.uint8)
    tracks = [
        Track(track, _encoded(owner == track), None, label + 1)
        for track, label in enumerate(labels, start=1)
        if (owner == track).any()
    ]
    return frames, VideoResult("", "", (HEIGHT, WIDTH), NUM_FRAMES, tracks)


def write_frames(folder: pathlib.Path, frames: np.ndarray) -> None:
    """As CVAT names them in an export."""
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames):
        assert cv2.imwrite(str(folder / f"frame_{t:06d}.png"), frame[..., ::-1])


def export(folder: pathlib.Path, name: str, truth: VideoResult, classes: Sequence[str]) -> None:
    """What the tool writes for a clip: folder/<name>/annotations.xml; images that are there stay."""
    names = tuple(f"frame_{t:06d}" for t in range(truth.num_frames))
    written = folder.with_name(f"{folder.name}.part")
    cvat_video.write(written, [ResultVideo(name, names, lambda: truth)], Options(class_names=tuple(classes)))
    (folder / name).mkdir(parents=True, exist_ok=True)
    shutil.move(written / name / "annotations.xml", folder / name / "annotations.xml")
    shutil.rmtree(written)


def correct(
    labels: pathlib.Path, clips: pathlib.Path, data: pathlib.Path, name: str, truth: VideoResult, classes: Sequence[str]
) -> dict[str, int]:
    """Puts a clip with the model's labels into the training data, after a person has looked at every fourth frame.

    There, masks are drawn as they are. Tracks of nothing are removed, and their classes are mended. Objects that the
    model has missed are added: drawn in these frames, and moved in a line between them. The other masks are the
    model's.

    Returns:
      How many tracks were kept, of these mended in their class, removed, and added.
    """
    folder = data / name
    folder.mkdir(parents=True)
    shutil.copytree(clips / name, folder / "images")
    shutil.copy(labels / name / "annotations.xml", folder)
    found = read(folder, classes)
    shown = range(0, NUM_FRAMES, CORRECTED_EVERY)
    left = {track.id: np.stack([_decoded(each) for each in track.segmentations]) for track in truth.tracks}
    by_id = {track.id: track for track in truth.tracks}
    tracks, done = [], {"kept": 0, "class": 0, "removed": 0, "added": 0}
    for instance, label in found.instances.items():
        masks = np.stack([found.instance_mask(t, instance) for t in range(found.num_frames)])
        overlap = {other: (masks & true).sum() / (masks | true).sum() for other, true in left.items()}
        best = max(overlap, key=overlap.get, default=None)
        if best is None or overlap[best] < 0.5:
            done["removed"] += 1
            continue
        masks[shown] = left.pop(best)[shown]
        done["kept"] += 1
        done["class"] += label != by_id[best].class_id
        tracks.append(Track(instance, _encoded(masks), None, by_id[best].class_id))
    number = max(found.instances, default=0)
    for missed, true in left.items():
        number += 1
        done["added"] += 1
        tracks.append(Track(number, _encoded(_moved_in_a_line(true, shown)), None, by_id[missed].class_id))
    export(data, name, VideoResult(name, "", (HEIGHT, WIDTH), NUM_FRAMES, tracks), classes)
    return done


def read(folder: pathlib.Path, classes: Sequence[str]) -> VideoRecord:
    """The labels of one clip, as training reads them: folder/annotations.xml and folder/images."""
    config = DatasetConfig(
        name="LAB",
        reader="cvat_video",
        task="instance",
        num_classes=len(classes),
        class_names=tuple(classes),
        eval_images=str(folder / "images"),
        eval_annotations=str(folder / "annotations.xml"),
    )
    (record,) = readers.evaluation_videos(config, "val")
    return record


def _moved_in_a_line(true: np.ndarray, shown: range) -> np.ndarray:
    """Masks bool [T, H, W] of which only the frames `shown` are taken; each holds on, moved towards the next one."""
    masks = np.zeros_like(true)
    for first, last in zip(shown, [*shown[1:], None], strict=True):
        masks[first] = true[first]
        if last is None or not true[first].any() or not true[last].any():
            continue
        start, end = (np.argwhere(true[t]).mean(0) for t in (first, last))
        for t in range(first + 1, last):
            dy, dx = (end - start) * (t - first) / (last - first)
            moved = cv2.warpAffine(true[first].astype(np.uint8), np.float32([[1, 0, dx], [0, 1, dy]]), (WIDTH, HEIGHT))
            masks[t] = moved > 0
    return masks


def _encoded(masks: np.ndarray) -> list[rle.Rle | None]:
    return [rle.encode(mask) if mask.any() else None for mask in masks]


def _decoded(encoded: rle.Rle | None) -> np.ndarray:
    return np.zeros((HEIGHT, WIDTH), bool) if encoded is None else rle.decode(encoded)
