"""KITTI-STEP: STQ, AQ and SQ, equal to the official evaluation (deeplab2; see `metrics/stq.py` for its rules).

Both folders have <sequence>/<frame>.png; `gt` may also be the official root, whose `panoptic_maps/val` is taken. A PNG
is RGB with 8 bits: R is the class (0..18, 255 = void), 256 G + B the number of the instance. Numbers end at 999, as the
official evaluation has 1000 places per class.
"""

import pathlib
from typing import Any

import numpy as np

from tarvis_jax.evaluation.benchmarks.files import paired_frames, read_ahead, read_rgb_values, video_folders
from tarvis_jax.evaluation.metrics.overlap import count_pairs
from tarvis_jax.evaluation.metrics.stq import SegmentationTrackingQuality

CASE = {"results": "pred", "gt": "gt"}
NUM_CLASSES = 19
THING_CLASSES = (11, 13)  # person, car
_MAX_INSTANCE = 999


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Fractions (0..1): STQ, AQ, SQ in total and per sequence, with the numbers of frames and of true tubes.

    The sequences are those of `gt`; `results` may have more.

    Raises:
      ValueError: a sequence or frame is missing, a sequence of the results has more frames than the ground truth, a PNG
        is of another kind or size, or a class or instance is out of range; names the file.
    """
    official = gt / "panoptic_maps" / "val"
    total, sequences = SegmentationTrackingQuality(NUM_CLASSES, THING_CLASSES), {}
    for folder in video_folders(official if official.is_dir() else gt):
        for columns in read_ahead(_read_frame, paired_frames(folder, results / folder.name)):
            total.add_pixels(*columns)
        sequences[folder.name] = total.end_video()
    return {"expected": total.scores(), "per_sequence": sequences}


def _read_frame(files: tuple[pathlib.Path, pathlib.Path]) -> tuple[np.ndarray, ...]:
    """True classes and instances, predicted classes and instances, pixels; int64 [P] each."""
    true_file, predicted_file = files
    truth, prediction = read_rgb_values(true_file), read_rgb_values(predicted_file)
    if truth.shape != prediction.shape:
        raise ValueError(f"{predicted_file}: has size {prediction.shape}, the ground truth {truth.shape}")
    true_values, predicted_values, pixels = count_pairs(truth, prediction)
    return *_decoded(true_values, true_file), *_decoded(predicted_values, predicted_file), pixels


def _decoded(values: np.ndarray, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Classes and instances of the values R + 256 G + 65536 B in a file, int64 [P] each."""
    classes, instances = values & 255, (values >> 8 & 255) * 256 + (values >> 16)
    if (wrong := classes[(classes >= NUM_CLASSES) & (classes != 255)]).size:
        raise ValueError(f"{path}: unknown class {wrong[0]}; expected 0..{NUM_CLASSES - 1}, or 255 for void")
    if (wrong := instances[instances > _MAX_INSTANCE]).size:
        raise ValueError(f"{path}: instance {wrong[0]}; expected 0..{_MAX_INSTANCE}")
    return classes, instances
