"""What was found in a held-out video beside what is there, as one picture."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from input_pipeline.records import VideoRecord
from tarvis_jax import datasets
from tarvis_jax.results.panoptic import thing_tracks
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import VideoResult
from tarvis_jax.visualize.overlay import NUM_COLORS, draw_overlay, draw_result
from tarvis_jax.visualize.sheet import contact_sheet, fit_scale

_NUM_FRAMES = 3
_MIN_SCORE = 0.3  # VIS: tracks below are not drawn
_ID_STEP = NUM_COLORS << 16  # more than any instance id; ids of all classes keep their color
_JPEG_QUALITY = 92


def write_comparison(
    path: pathlib.Path,
    record: VideoRecord,
    result: VideoResult,
    spec: datasets.DatasetSpec,
    *,
    class_names: Mapping[int, str],
    score_threshold: float,
    targets: Sequence[Target] = (),
) -> None:
    """Writes a JPEG with three annotated frames of a video: above the ground truth, below the result.

    Args:
      record: the video with its ground truth.
      result: what was found in it.
      class_names: class id 1..K -> name.
      score_threshold: panoptic: things below it are left out, as in the evaluation.
      targets: what was given.
    """
    if spec.task == datasets.PANOPTIC:
        result = dataclasses.replace(result, tracks=thing_tracks(result, spec.thing_classes, score_threshold))
    annotated = record.annotated_frames or range(record.num_frames)
    chosen = np.unique(np.linspace(0, len(annotated) - 1, _NUM_FRAMES).round().astype(int))
    rows = [], []
    scale = fit_scale(record.width)
    for frame in (annotated[i] for i in chosen):
        image = record.load_frame(frame)
        rows[0].append(_draw_truth(image, record, frame, spec, class_names, targets, scale))
        rows[1].append(
            draw_result(
                image,
                result,
                frame,
                class_names=class_names,
                min_score=_MIN_SCORE if spec.task == datasets.INSTANCE else 0.0,
                targets=targets,
                scale=scale,
            )
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = contact_sheet(rows)[..., ::-1]
    if not cv2.imwrite(str(path), sheet, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise OSError(f"{path}: could not be written")


def _draw_truth(
    image: np.ndarray,
    record: VideoRecord,
    frame: int,
    spec: datasets.DatasetSpec,
    class_names: Mapping[int, str],
    targets: Sequence[Target],
    scale: float,
) -> np.ndarray:
    masks, labels, semantic = {}, {}, None
    if spec.task == datasets.PANOPTIC:
        semantic, ids = record.panoptic_map(frame)
        is_thing = np.isin(semantic, spec.thing_classes) & (ids > 0)
        keys = np.where(is_thing, semantic.astype(np.int64) * _ID_STEP + ids, -1)  # ids may repeat between classes
        for key in np.unique(keys[is_thing]).tolist():
            masks[key] = keys == key
            labels[key] = _label(class_names, key // _ID_STEP + 1, key % _ID_STEP)
    else:
        for instance in record.visible_ids(frame):
            masks[instance] = record.instance_mask(frame, instance)
            labels[instance] = str(instance)
            if spec.task == datasets.INSTANCE:
                labels[instance] = _label(class_names, record.instances[instance], instance)
    return draw_overlay(
        image,
        masks,
        labels=labels,
        semantic=semantic,
        semantic_labels={class_id - 1: name for class_id, name in class_names.items()},
        targets=[target for target in targets if target.frame == frame],
        scale=scale,
    )


def _label(class_names: Mapping[int, str], class_id: int, instance: int) -> str:
    return f"{class_names.get(class_id, f'class {class_id}')} {instance}"
