"""What Cityscapes-VPS and VIPSeg have in common: segments in JSON and RGB PNG files (COCO panoptic), and VPQ."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from input_pipeline.frame_limits import MAX_PIXELS
from input_pipeline.workspace import get
from tarvis_jax.evaluation.benchmarks.files import read_ahead, read_rgb_values
from tarvis_jax.evaluation.metrics.panoptic import Overlap, PanopticQuality, Segments, frame_overlap
from tarvis_jax.fields import shown

MAX_CLASSES = 255
MAX_SEGMENT_ID = 2**24 - 1  # three colors of 8 bits
_GROUPS = ("all", "thing", "stuff")

Categories = dict[int, bool]  # id -> is it a thing


@dataclasses.dataclass(frozen=True)
class Listed:
    """The segments that a JSON file lists for one frame.

    Attributes:
      where: file and record, for messages.
      classes: segment id -> category id, in the order of the file.
      crowd: ids of crowds; empty for results.
      areas: segment id -> pixels according to the file; empty for results.
    """

    where: str
    classes: dict[int, int]
    crowd: frozenset[int]
    areas: dict[int, float]


def read_categories(truth: Any, path: pathlib.Path) -> Categories:
    """The categories of a file of ground truth. ValueError naming the record that is not as it should be."""
    categories: Categories = {}
    for index, record in enumerate(get(truth, "categories", list, str(path))):
        where = f"{path}: categories[{index}]"
        category, is_thing = get(record, "id", int, where), get(record, "isthing", int, where)
        if not 0 <= category < MAX_CLASSES:
            raise ValueError(f"{where}: 'id' should be in 0..{MAX_CLASSES - 1}, found {shown(category)}")
        if category in categories:
            raise ValueError(f"{where}: a second category {category}")
        if is_thing not in (0, 1):
            raise ValueError(f"{where}: 'isthing' should be 0 or 1, found {shown(is_thing)}")
        categories[category] = is_thing == 1
    if not categories:
        raise ValueError(f"{path}: 'categories' is empty")
    return categories


def read_listed(frame: Any, categories: Categories, where: str, *, is_truth: bool) -> Listed:
    """The segments of an annotation record of one frame.

    Args:
      where: file and record, for messages.
      is_truth: crowd flags and areas are read (those of results do not matter).
    Raises:
      ValueError: a field that is absent or of another type, an unknown category, or an id twice.
    """
    classes: dict[int, int] = {}
    areas: dict[int, float] = {}
    crowd = set()
    for record in get(frame, "segments_info", list, where):
        segment = get(record, "id", int, f"{where}: segments_info[{len(classes)}]")
        here = f"{where}: segment {shown(segment)}"
        if not 0 <= segment <= MAX_SEGMENT_ID:
            raise ValueError(f"{here}: ids should be in 0..{MAX_SEGMENT_ID}")
        if segment in classes:
            raise ValueError(f"{here} is listed twice")
        category = get(record, "category_id", int, here)
        if category not in categories:
            raise ValueError(f"{here}: unknown category {shown(category)}")
        classes[segment] = category
        if not is_truth:
            continue
        is_crowd, area = get(record, "iscrowd", int, here), get(record, "area", (int, float), here)
        if is_crowd not in (0, 1):
            raise ValueError(f"{here}: 'iscrowd' should be 0 or 1, found {shown(is_crowd)}")
        if not 0 <= area <= MAX_PIXELS:
            raise ValueError(f"{here}: 'area' should be a number of pixels, found {shown(area)}")
        areas[segment] = area
        if is_crowd:
            crowd.add(segment)
    return Listed(where, classes, frozenset(crowd), areas)


def read_overlaps(frames: Iterable[tuple[Listed, pathlib.Path, Listed, pathlib.Path]]) -> Iterator[Overlap]:
    """Frames, each given as the listed segments and the PNG of the truth and of the prediction.

    Raises:
      ValueError: a PNG is no RGB map, sizes differ, or JSON and PNG of the prediction have different segments; names
        the file.
    """
    return read_ahead(_read_overlap, frames)


def _read_overlap(frame: tuple[Listed, pathlib.Path, Listed, pathlib.Path]) -> Overlap:
    truth, truth_png, prediction, prediction_png = frame
    true_segments = Segments(read_rgb_values(truth_png), truth.classes, truth.crowd, truth.areas)
    predicted_segments = Segments(read_rgb_values(prediction_png), prediction.classes)
    try:
        return frame_overlap(true_segments, predicted_segments)
    except ValueError as error:
        raise ValueError(f"{prediction_png} ({prediction.where}): {error}") from None


class WindowScores:
    """VPQ for several lengths of window."""

    def __init__(self, categories: Categories, windows: Sequence[int]):
        self.categories = categories
        self.quality = {window: PanopticQuality(max(categories) + 1, window) for window in windows}

    def add_video(self, overlaps: Sequence[Overlap], where: str) -> None:
        """All frames of a video; `where` for messages."""
        for quality in self.quality.values():
            try:
                quality.add_overlaps(overlaps)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    def table(self, window: int) -> dict[str, Any]:
        """Percent by group ("all", "thing", "stuff"), number of classes in each, and sums of each class that occurs.

        A group without any class is NaN (the official scripts end with a division by zero).
        """
        quality = self.quality[window]
        by_class = quality.by_class()
        groups = {
            "all": list(self.categories),
            "thing": [c for c, is_thing in self.categories.items() if is_thing],
            "stuff": [c for c, is_thing in self.categories.items() if not is_thing],
        }
        found = {name: [c for c in group if by_class[c] >= 0] for name, group in groups.items()}
        return (
            {name: 100 * quality.scores(group) if group else math.nan for name, group in found.items()}
            | {f"n_classes_{name}": len(group) for name, group in found.items()}
            | {
                "per_class": {
                    str(c): {
                        "iou": float(quality.iou[c]),
                        "tp": int(quality.true_positives[c]),
                        "fp": int(quality.false_positives[c]),
                        "fn": int(quality.false_negatives[c]),
                    }
                    for c in found["all"]
                }
            }
        )


def groups_of(table: dict[str, Any]) -> dict[str, float]:
    """The three published numbers of a table."""
    return {name: table[name] for name in _GROUPS}


def mean_of(tables: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Their means over windows."""
    tables = list(tables)
    return {name: sum(table[name] for table in tables) / len(tables) for name in _GROUPS}
