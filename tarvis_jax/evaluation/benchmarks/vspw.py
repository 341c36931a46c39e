"""Video semantic segmentation (VSPW): mIoU, VC8 and VC16 by the official rules (`metrics/video_semantic.py`).

Either both sides are as VSPW has them,

- `gt`: val.txt with one video per line, and data/<video>/mask/<frame>.png with 0 and 255 = void and classes 1..124;
- `results`: <video>/<frame>.png with classes 0..123, as the official code writes them, one below those of the masks;
  255 is no class;

(PNGs are gray with 8 bits, or have a palette), or both are as VIPSeg has them (`benchmarks/vipseg.py`), of which the
category at each pixel is taken, and no class where no segment is listed.
"""

import collections
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from input_pipeline.workspace import join, load_text
from tarvis_jax.evaluation.benchmarks.files import paired_frames, read_ahead, read_class_values, read_rgb_values
from tarvis_jax.evaluation.benchmarks.video_panoptic import Listed
from tarvis_jax.evaluation.benchmarks.vipseg import GT_JSON, NUM_CLASSES, VipsegFiles
from tarvis_jax.evaluation.metrics.video_semantic import NO_CLASS, VideoSemanticQuality

CASE = {"results": "pred", "gt": "gt"}
CLIP_LENGTHS = (8, 16)

_Frame = tuple[np.ndarray, np.ndarray, pathlib.Path]  # truth and prediction, uint8 [H, W]; file for messages


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Fractions (0..1): mIoU, VC8, VC16 in total and per video (NaN: no clip that long); IoU of each true class.

    The videos are those of `gt`; `results` may have more.

    Raises:
      ValueError: a video or frame is missing, a PNG is of another kind or size, or a class is unknown; names the file.
    """
    if gt.is_file() or (gt / GT_JSON).exists():
        videos = _vipseg_videos(results, gt)
    else:
        videos = _vspw_videos(results, gt)
    total, scores = VideoSemanticQuality(NUM_CLASSES, CLIP_LENGTHS), {}
    for name, frames in videos:
        for truth, prediction, path in frames:
            try:
                total.add_frame(truth, prediction)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
        scores[name] = total.end_video()
    iou = {str(c): {"IoU": float(value)} for c, value in enumerate(total.iou_by_class()) if value >= 0}
    return {"expected": total.scores(), "per_class": iou, "per_video": scores}


def _vspw_videos(results: pathlib.Path, gt: pathlib.Path) -> Iterator[tuple[str, Iterator[_Frame]]]:
    for name in _video_names(gt / "val.txt"):
        masks = join(gt / "data", name, str(gt)) / "mask"
        yield name, read_ahead(_read_vspw, paired_frames(masks, join(results, name, str(gt))))


def _read_vspw(files: tuple[pathlib.Path, pathlib.Path]) -> _Frame:
    true_file, predicted_file = files
    return _true_classes(true_file), read_class_values(predicted_file), predicted_file


def _video_names(path: pathlib.Path) -> list[str]:
    names = load_text(path).split()
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise ValueError(f"{path}: video {twice[0]!r} is listed twice")
    if not names:
        raise ValueError(f"{path}: has no videos")
    return names


def _true_classes(path: pathlib.Path) -> np.ndarray:
    values = read_class_values(path)
    if (wrong := values[(values > NUM_CLASSES) & (values != 255)]).size:
        raise ValueError(f"{path}: unknown class {wrong[0]}; expected 1..{NUM_CLASSES}, or 0 or 255 for void")
    return values - np.uint8(1)  # 0 becomes 255; the other void value stays another one, as VC compares them


def _vipseg_videos(results: pathlib.Path, gt: pathlib.Path) -> Iterator[tuple[str, Iterator[_Frame]]]:
    for video in VipsegFiles(results, gt).videos():
        yield video.id, read_ahead(_read_vipseg, video.frames())


def _read_vipseg(frame: tuple[Listed, pathlib.Path, Listed, pathlib.Path]) -> _Frame:
    truth, true_png, prediction, predicted_png = frame
    return _classes(truth, true_png), _classes(prediction, predicted_png, is_result=True), predicted_png


def _classes(listed: Listed, path: pathlib.Path, *, is_result: bool = False) -> np.ndarray:
    """The category at each pixel, uint8 [H, W]; 255 where the segment is not listed."""
    values = read_rgb_values(path)
    ids = np.array(sorted(listed.classes) or [0])
    categories = np.array([listed.classes.get(i, NO_CLASS) for i in ids.tolist()], np.uint8)
    position = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    is_listed = ids[position] == values
    if is_result and (unknown := values[~is_listed & (values != 0)]).size:
        raise ValueError(f"{path} ({listed.where}): predicted segment {unknown[0]} has pixels and is not listed")
    return np.where(is_listed, categories[position], np.uint8(NO_CLASS))
