"""VIPSeg: VPQ and STQ, equal to the official evaluation (rules: `metrics/panoptic.py`, `metrics/stq.py`).

- `gt`: panoptic_gt_VIPSeg_val.json and panomasksRGB/<video>/<frame>.png; or the path of such a JSON file.
- `results`: pred.json and pan_pred/<video>/<frame>.png.

A PNG is RGB with 8 bits: R + 256 G + 65536 B is the id of the segment, 0 is void. Videos belong together by id, frames
by position. The official STQ numbers the segments of a video from 0 in the order in which its JSON lists them, and
takes a true thing with number 0 as a crowd: if the first listed segment of a video is a thing, it is no tube.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from input_pipeline.workspace import get, join, load_json
from tarvis_jax.evaluation.benchmarks import video_panoptic
from tarvis_jax.evaluation.benchmarks.video_panoptic import Categories, Listed
from tarvis_jax.evaluation.metrics.panoptic import Overlap
from tarvis_jax.evaluation.metrics.stq import VOID_CLASS, SegmentationTrackingQuality
from tarvis_jax.fields import shown

CASE = {"results": "pred", "gt": "gt"}
GT_JSON = "panoptic_gt_VIPSeg_val.json"
NUM_CLASSES = 124
WINDOWS = (1, 2, 4, 6, 8)  # of the official script
PAPER_WINDOWS = (1, 2, 4, 6)  # of the tables in papers


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """VPQ in percent (0..100), STQ, AQ and SQ as fractions (0..1), in total, per window and class, and per video.

    The videos are those of `gt`; `results` may have more.

    Raises:
      ValueError: a file or record is missing, of another kind or size or with numbers out of range, or the JSON of the
        results does not fit its PNGs; names the file and the record.
    """
    files = VipsegFiles(results, gt)
    scores = video_panoptic.WindowScores(files.categories, WINDOWS)
    things = [category for category, is_thing in files.categories.items() if is_thing]
    tracking, videos = SegmentationTrackingQuality(NUM_CLASSES, things), {}
    for video in files.videos():
        true_numbers, predicted_numbers = _numbers(video.truth), _numbers(video.prediction)
        overlaps = []
        for overlap in video_panoptic.read_overlaps(video.frames()):
            _add_to(tracking, overlap, true_numbers, predicted_numbers)
            overlaps.append(overlap)
        scores.add_video(overlaps, f"{files.true_json}: video {video.id}")
        videos[video.id] = tracking.end_video()
    tables = {window: scores.table(window) for window in WINDOWS}
    return {
        "expected": {
            "VPQ_window": {str(window): video_panoptic.groups_of(table) for window, table in tables.items()},
            "VPQ_mean_official_script (windows 1,2,4,6,8)": video_panoptic.mean_of(tables.values()),
            "VPQ_mean_paper (windows 1,2,4,6)": video_panoptic.mean_of(tables[window] for window in PAPER_WINDOWS),
        }
        | tracking.scores(),
        "stq_per_sequence": videos,
        "vpq_per_window_frames": {str(window): table for window, table in tables.items()},
    }


@dataclasses.dataclass(frozen=True)
class Video:
    """The records of a video; its PNGs are read by whoever goes through `frames`.

    Attributes:
      truth, prediction: the listed segments, one entry per frame.
      true_files, predicted_files: the PNGs.
    """

    id: str
    truth: list[Listed]
    true_files: list[pathlib.Path]
    prediction: list[Listed]
    predicted_files: list[pathlib.Path]

    def frames(self) -> Iterator[tuple[Listed, pathlib.Path, Listed, pathlib.Path]]:
        return zip(self.truth, self.true_files, self.prediction, self.predicted_files, strict=True)


class VipsegFiles:
    """Ground truth and results in VIPSeg's layout.

    Attributes:
      categories: id (0..123) -> is it a thing.
    """

    def __init__(self, results: pathlib.Path, gt: pathlib.Path):
        self.true_json = gt if gt.is_file() else gt / GT_JSON
        self.predicted_json = results / "pred.json"
        self._true_folder, self._predicted_folder = self.true_json.parent / "panomasksRGB", results / "pan_pred"
        self._truth, prediction = load_json(self.true_json), load_json(self.predicted_json)
        self.categories: Categories = video_panoptic.read_categories(self._truth, self.true_json)
        if max(self.categories) >= NUM_CLASSES:
            raise ValueError(f"{self.true_json}: category {max(self.categories)}; expected 0..{NUM_CLASSES - 1}")
        self._annotations = _by_video(self._truth, self.true_json)
        self._guesses = _by_video(prediction, self.predicted_json)

    def videos(self) -> Iterator[Video]:
        """The videos of the ground truth. ValueError naming the record that is not as it should be."""
        seen = set()
        for index, record in enumerate(get(self._truth, "videos", list, str(self.true_json))):
            where = f"{self.true_json}: videos[{index}]"
            video_id = get(record, "video_id", str, where)
            if video_id in seen:
                raise ValueError(f"{where}: a second video {video_id}")
            seen.add(video_id)
            images = get(record, "images", list, where)
            names = [get(image, "file_name", str, f"{where}: images[{i}]") for i, image in enumerate(images)]
            if not names:
                raise ValueError(f"{where}: video {video_id} has no images")
            yield Video(
                video_id,
                self._listed(self._annotations, self.true_json, video_id, names, is_truth=True),
                [join(self._true_folder, f"{video_id}/{name}", where) for name in names],
                self._listed(self._guesses, self.predicted_json, video_id, names, is_truth=False),
                [join(self._predicted_folder, f"{video_id}/{name}", where) for name in names],
            )
        if not seen:
            raise ValueError(f"{self.true_json}: 'videos' is empty")

    def _listed(self, annotations, path: pathlib.Path, video_id: str, names: list[str], *, is_truth) -> list[Listed]:
        if video_id not in annotations:
            raise ValueError(f"{path}: 'annotations' has no video {video_id}")
        frames = annotations[video_id]
        if len(frames) != len(names):
            raise ValueError(f"{path}: video {video_id}: expected {len(names)} frames, found {len(frames)}")
        return [
            video_panoptic.read_listed(
                frame, self.categories, f"{path}: video {video_id}, frame {i} ({name})", is_truth=is_truth
            )
            for i, (frame, name) in enumerate(zip(frames, names, strict=True))
        ]


def _by_video(content: Any, path: pathlib.Path) -> dict[str, list[Any]]:
    """Video id -> its frames."""
    videos: dict[str, list[Any]] = {}
    for index, record in enumerate(get(content, "annotations", list, str(path))):
        where = f"{path}: annotations[{index}]"
        video_id = get(record, "video_id", str, where)
        if video_id in videos:
            raise ValueError(f"{where}: a second annotation of video {shown(video_id)}")
        videos[video_id] = get(record, "annotations", list, where)
    return videos


def _numbers(frames: Sequence[Listed]) -> dict[int, int]:
    """Segment id -> its number in the official STQ."""
    ids = dict.fromkeys(segment for frame in frames for segment in frame.classes)
    return {segment: number for number, segment in enumerate(ids)}


def _add_to(
    tracking: SegmentationTrackingQuality, overlap: Overlap, true_numbers: dict[int, int], predicted: dict[int, int]
) -> None:
    columns = []
    for ids, classes, numbers in (
        (overlap.true_ids, overlap.true_classes, true_numbers),
        (overlap.predicted_ids, overlap.predicted_classes, predicted),
    ):
        ids = ids.tolist()
        columns.append(np.array([classes.get(i, VOID_CLASS) for i in ids]))  # what the frame does not list is void
        columns.append(np.array([numbers[i] if i in classes else 0 for i in ids]))
    tracking.add_pixels(*columns, overlap.pixels)
