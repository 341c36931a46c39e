"""J&F: region similarity and boundary accuracy of objects given by example (DAVIS 2017; Perazzi et al., CVPR 2016).

Two protocols decide which objects and frames count:

- `MASK` (objects given by mask). A video whose objects are all in frame 0, with ids 1 to N, and whose frames are all
  annotated, is scored by the official semi-supervised rules of DAVIS: the first and the last frame do not count. Void
  (255) in the ground truth counts as background. In any other video, an object counts in the annotated frames after the
  one in which it is given, the last one included; without such a frame it does not count.
- `POINT` (objects given by point; ours, no official benchmark has it): an object counts from the first frame in which
  it is annotated, that frame included, because a point was given there and not a mask, to the last one, included.
  Objects that appear later count as well, each from its own first frame.

Objects are averaged with equal weight, whatever video they are from.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

MASK = "mask"
POINT = "point"
BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal


@dataclasses.dataclass(frozen=True)
class ObjectScores:
    """J and F (0..1) of one object in each of its evaluated frames, float64 [number of frames]."""

    video: str
    id: int
    region: np.ndarray
    boundary: np.ndarray


def region_similarity(truth: np.ndarray, prediction: np.ndarray) -> float:
    """J: intersection over union of two bool masks [H, W]; 1 where both are empty."""
    union = np.count_nonzero(truth | prediction)
    return np.count_nonzero(truth & prediction) / union if union else 1.0


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Pixels of a bool mask [H, W] that differ from their right, lower or lower right neighbor, where it exists."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def boundary_accuracy(truth: np.ndarray, prediction: np.ndarray) -> float:
    """F: harmonic mean of the shares of each boundary that lies near the other; bool masks [H, W].

    Near is within ceil(0.008 x diagonal) pixels. 1 where neither has a boundary, 0 where one has none. A mask that
    fills the frame has no boundary, so it scores 1 against an empty one, as in the official code.
    """
    box = _box_with_margin(truth | prediction)
    true_edge, predicted_edge = boundary_map(truth[box]), boundary_map(prediction[box])
    num_true, num_predicted = np.count_nonzero(true_edge), np.count_nonzero(predicted_edge)
    if num_true == 0 or num_predicted == 0:
        return float(num_true == num_predicted)
    disk = _disk(math.ceil(BOUNDARY_TOLERANCE * math.hypot(*truth.shape)))
    near_true = cv2.dilate(true_edge.view(np.uint8), disk).view(bool)
    near_predicted = cv2.dilate(predicted_edge.view(np.uint8), disk).view(bool)
    precision = np.count_nonzero(predicted_edge & near_true) / num_predicted
    recall = np.count_nonzero(true_edge & near_predicted) / num_true
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def score_object(video: str, object_id: int, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> ObjectScores:
    """Scores of one object; `pairs` of bool masks [H, W] (truth, prediction), one per evaluated frame.

    Raises:
      ValueError: no frame to evaluate, or masks of different sizes.
    """
    region, boundary = [], []
    for truth, prediction in pairs:
        if truth.shape != prediction.shape:
            raise ValueError(
                f"video {video}, object {object_id}: the predicted mask has size {prediction.shape}, "
                f"the ground truth {truth.shape}"
            )
        region.append(region_similarity(truth, prediction))
        boundary.append(boundary_accuracy(truth, prediction))
    if not region:
        raise ValueError(
            f"video {video}, object {object_id}: no frame to evaluate (DAVIS leaves out the first and last)"
        )
    return ObjectScores(video, object_id, np.asarray(region), np.asarray(boundary))


def davis_frames(num_frames: int) -> range:
    """The frames that DAVIS evaluates."""
    return range(1, num_frames - 1)


def summarize(objects: Sequence[ObjectScores]) -> dict[str, float]:
    """The seven numbers of DAVIS, as fractions: means over objects of each object's mean, recall and decay.

    Recall is the share of frames above 0.5; decay the mean of the first quarter of the frames minus that of the last.
    As in the official code, where the bounds of the quarters are bytes, the decay of more than 256 frames is that of
    other frames, or NaN.
    """
    if not objects:
        raise ValueError("J&F: no object to evaluate")
    region = np.mean([_statistics(o.region) for o in objects], axis=0)
    boundary = np.mean([_statistics(o.boundary) for o in objects], axis=0)
    result = {"J&F-Mean": float((region[0] + boundary[0]) / 2)}
    for name, values in (("J", region), ("F", boundary)):
        result |= {f"{name}-{kind}": float(v) for kind, v in zip(("Mean", "Recall", "Decay"), values, strict=True)}
    return result


def _statistics(values: np.ndarray) -> tuple[float, float, float]:
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1) & 255  # the official code has bytes
    first, last = values[edges[0] : edges[1] + 1], values[edges[3] : edges[4] + 1]
    decay = first.mean() - last.mean() if len(first) and len(last) else math.nan
    return values.mean(), (values > 0.5).mean(), decay


def _box_with_margin(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the pixels inside and one more on each side, where the frame has one.

    What `boundary_map` finds lies in there, and is found there, too: the margin is empty.
    """
    result = []
    for axis in (1, 0):
        inside = np.flatnonzero(mask.any(axis=axis))
        result.append(slice(max(inside[0] - 1, 0), inside[-1] + 2) if len(inside) else slice(0, 0))
    return tuple(result)


def _disk(radius: int) -> np.ndarray:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)
