"""Scores of a dataset: video results against the records of its files, by the metric of the dataset's task."""

import dataclasses
import math
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from input_pipeline.records import VideoRecord
from tarvis_jax import datasets
from tarvis_jax.evaluation.metrics import jf
from tarvis_jax.evaluation.metrics.ap import evaluate_ap_by_category
from tarvis_jax.evaluation.metrics.panoptic import WHOLE_VIDEO, PanopticQuality, frame_overlap, segments_from_maps
from tarvis_jax.evaluation.metrics.stq import SegmentationTrackingQuality
from tarvis_jax.masks import rle
from tarvis_jax.results.formats.youtube_vis import youtube_vis_predictions
from tarvis_jax.results.panoptic import panoptic_frame, thing_tracks
from tarvis_jax.results.tracks import Track, VideoResult

PANOPTIC_WINDOWS = {"PQ_tube": WHOLE_VIDEO, "PQ_frame": 1, "VPQ_4": 4}  # the main one first


@dataclasses.dataclass(frozen=True)
class DatasetScores:
    """Scores of one dataset as fractions (0..1; -1 = undefined).

    Attributes:
      summary: the published numbers by name, the main one first.
      per_class: class id 1..K -> scores by name; empty for datasets without classes.
      per_video: video -> the main scores by name, of this video alone, in the order of the ground truth.
    """

    summary: dict[str, float]
    per_class: dict[int, dict[str, float]] = dataclasses.field(default_factory=dict)
    per_video: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


def evaluate(
    results: Mapping[str, VideoResult],
    ground_truth: Iterable[VideoRecord],
    spec: datasets.DatasetSpec,
    *,
    max_predictions: int = 10,
    score_threshold: float = 0.5,
) -> DatasetScores:
    """Scores of all videos, and by class or by video.

    - instance: AP, AP50, AP75, AR1, ... (`ap.py`), most of them also per class and per video;
    - panoptic: PQ_tube, PQ_frame, VPQ_4, each also with `_things` and `_stuff` (`panoptic.py`); STQ, AQ, SQ (`stq.py`);
      per class the three kinds of PQ and the IoU over all pixels; all of them but those of things and stuff per video;
    - exemplar: J&F-Mean, J-..., F-..., for objects given by mask or by point (`jf.py`); the means also per video.

    Args:
      results: by `str(record.id)`; each is asked for once, and masks are decoded one frame at a time.
      ground_truth: every record needs its result; further results are an error.
      spec: task, number of classes, thing classes, and what exemplars are given.
      max_predictions: instance: (track, class) pairs per video that count, best first.
      score_threshold: panoptic: tracks below it are left out.
    Raises:
      ValueError: a video without result or the reverse, or sizes or numbers of frames that differ.
    """
    pairs = _pairs(results, ground_truth)
    if spec.task == datasets.INSTANCE:
        return _instance_scores(pairs, spec.num_classes, max_predictions)
    if spec.task == datasets.PANOPTIC:
        return _panoptic_scores(pairs, spec, score_threshold)
    if spec.task == datasets.EXEMPLAR:
        return _exemplar_scores(pairs, jf.POINT if spec.exemplar == datasets.POINT else jf.MASK)
    raise ValueError(f"there are no scores for task {spec.task!r}")


def format_table(
    scores: Mapping[str, Mapping[str, float]], skipped: Mapping[str, str] = types.MappingProxyType({})
) -> str:
    """Dataset -> scores, as lines of text in percent; "-" where undefined. Then dataset -> why there are no scores."""
    lines = []
    for dataset, values in scores.items():
        width = max(len(name) for name in values)
        lines.append(dataset)
        for name, value in values.items():
            lines.append(f"  {name:<{width}}  " + (f"{100 * value:6.2f}" if value != -1 else f"{'-':>6}"))
    lines += [f"{dataset}\n  not scored: {reason}" for dataset, reason in skipped.items()]
    return "\n".join(lines)


def scores_json(scores: DatasetScores, class_names: Mapping[int, str]) -> dict[str, Any]:
    """The scores as JSON knows them: "summary", and "per_class" and "per_video" as lists of rows with their names."""
    return {
        "summary": scores.summary,
        "per_class": [
            {"id": class_id, "name": class_names.get(class_id, f"class {class_id}")} | row
            for class_id, row in scores.per_class.items()
        ],
        "per_video": [{"video": video} | row for video, row in scores.per_video.items()],
    }


def ground_truth_json(records: Iterable[VideoRecord], num_classes: int) -> dict[str, Any]:
    """Records of an instance dataset as the content of a YouTube-VIS file (areas counted; videos numbered from 1)."""
    videos, annotations = [], []
    for video_id, record in enumerate(records, start=1):
        size = {"height": record.height, "width": record.width}
        names = [path.name for path in record.frame_paths]
        videos.append({"id": video_id, **size, "file_names": names})
        for instance, category in record.instances.items():
            track = [frame.get(instance) for frame in record.segmentations]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "video_id": video_id,
                    "category_id": category,
                    "iscrowd": int(instance in record.crowd),
                    "segmentations": track,
                    "areas": [each and rle.area(each) for each in track],
                }
            )
    categories = [{"id": c} for c in range(1, num_classes + 1)]
    return {"videos": videos, "categories": categories, "annotations": annotations}


def _pairs(results, ground_truth) -> Iterator[tuple[VideoRecord, VideoResult]]:
    records = {str(record.id): record for record in ground_truth}
    missing, surplus = sorted(records.keys() - results.keys()), sorted(results.keys() - records.keys())
    if missing or surplus or not records:
        raise ValueError(
            f"evaluation: expected one result for each of {len(records)} videos; without result: {missing[:5]}, "
            f"results of unknown videos: {surplus[:5]}"
        )
    for name, record in records.items():
        result = results[name]
        expected, found = (record.num_frames, record.height, record.width), (result.num_frames, *result.size)
        if expected != found:
            raise ValueError(f"{record.where}: frames, height and width are {expected}, in its result {found}")
        yield record, result


def _instance_scores(pairs, num_classes: int, max_predictions: int) -> DatasetScores:
    records, predictions = [], []
    for video_id, (record, result) in enumerate(pairs, start=1):
        if len(record.annotated_frames) < record.num_frames:
            record, result = record.annotated_only(), _of_frames(result, record.annotated_frames)
        records.append(record)
        predictions.append(youtube_vis_predictions(result, video_id, max_predictions))
    truth = ground_truth_json(records, num_classes)
    summary, per_class = evaluate_ap_by_category(truth, [each for video in predictions for each in video])
    per_video = {}
    for video_id, record in enumerate(records, start=1):
        tracks = [each for each in truth["annotations"] if each["video_id"] == video_id]
        alone = {**truth, "videos": [truth["videos"][video_id - 1]], "annotations": tracks}
        found, _ = evaluate_ap_by_category(alone, predictions[video_id - 1])
        per_video[str(record.id)] = {name: found[name] for name in ("AP", "AP50", "AP75", "AR10")}
    return DatasetScores(summary, per_class, per_video)


def _panoptic_scores(pairs, spec: datasets.DatasetSpec, score_threshold: float) -> DatasetScores:
    stuff = [c for c in range(spec.num_classes) if c not in spec.thing_classes]
    quality, per_video = _panoptic_quality(spec), {}
    tracking = SegmentationTrackingQuality(spec.num_classes, spec.thing_classes)
    for record, result in pairs:
        tracks = thing_tracks(result, spec.thing_classes, score_threshold)
        overlaps = []
        for frame in range(record.num_frames):
            truth = record.panoptic_map(frame)
            prediction = panoptic_frame(result, frame, tracks)
            tracking.add_frame(*truth, *prediction)
            overlaps.append(
                frame_overlap(
                    segments_from_maps(*truth, spec.thing_classes, is_truth=True),
                    segments_from_maps(*prediction, spec.thing_classes, is_truth=False),
                )
            )
        of_tracking, of_video = tracking.end_video(), _panoptic_quality(spec)
        for name, each in of_video.items():
            each.add_overlaps(overlaps)
            quality[name].add(each)
        scores = {name: each.scores() for name, each in of_video.items()}
        scores |= {name: of_tracking[name] for name in ("STQ", "AQ", "SQ")}
        per_video[str(record.id)] = {name: -1.0 if math.isnan(score) else score for name, score in scores.items()}
    summary = {}
    for name, each in quality.items():
        for suffix, classes in (("", None), ("_things", spec.thing_classes), ("_stuff", stuff)):
            summary[name + suffix] = each.scores(classes)
    columns = {name: each.by_class() for name, each in quality.items()} | {"IoU": tracking.iou_by_class()}
    per_class = {
        c + 1: {name: float(values[c]) for name, values in columns.items()}
        for c in range(spec.num_classes)
        if any(values[c] >= 0 for values in columns.values())
    }
    return DatasetScores(summary | tracking.scores(), per_class, per_video)


def _panoptic_quality(spec: datasets.DatasetSpec) -> dict[str, PanopticQuality]:
    return {name: PanopticQuality(spec.num_classes, window) for name, window in PANOPTIC_WINDOWS.items()}


def _exemplar_scores(pairs, protocol: str) -> DatasetScores:
    objects = []
    for record, result in pairs:
        tracks = {track.id: track for track in result.tracks}
        evaluated = _mask_objects(record) if protocol == jf.MASK else _point_objects(record)
        # As the official evaluation: an object that was not given is a mistake of the caller, not a wrong guess.
        unknown = sorted(tracks.keys() - record.instances.keys())
        if unknown:
            raise ValueError(f"{record.where}: the result has objects {unknown}, known are {sorted(record.instances)}")
        for instance, frames in evaluated.items():
            masks = ((_truth(record, t, instance), _prediction(tracks.get(instance), t, result.size)) for t in frames)
            objects.append(jf.score_object(str(record.id), instance, masks))
    per_video = {}
    for video in dict.fromkeys(each.video for each in objects):
        means = jf.summarize([each for each in objects if each.video == video])
        per_video[video] = {name: means[name] for name in ("J&F-Mean", "J-Mean", "F-Mean")}
    return DatasetScores(jf.summarize(objects), per_video=per_video)


def _of_frames(result: VideoResult, frames: Sequence[int]) -> VideoResult:
    tracks = [
        dataclasses.replace(track, segmentations=[track.segmentations[t] for t in frames]) for track in result.tracks
    ]
    return dataclasses.replace(result, num_frames=len(frames), tracks=tracks)


def _mask_objects(record: VideoRecord) -> dict[int, list[int]]:
    """Object -> frames that count: DAVIS's rules where the video is as DAVIS's are, else see `jf.MASK`."""
    frames = jf.davis_frames(record.num_frames)
    is_complete = set(frames) <= set(record.annotated_frames)
    if is_complete and set(record.visible_ids(0)) == set(record.instances) == set(range(1, len(record.instances) + 1)):
        return dict.fromkeys(sorted(record.instances), list(frames))
    later = {
        instance: [t for t in record.annotated_frames if t > start]
        for instance, start in sorted(record.first_frames().items())
    }
    return {instance: frames for instance, frames in later.items() if frames}


def _point_objects(record: VideoRecord) -> dict[int, list[int]]:
    return {
        instance: [t for t in record.annotated_frames if t >= start]
        for instance, start in record.first_frames().items()
    }


def _truth(record: VideoRecord, frame: int, instance: int) -> np.ndarray:
    if instance in record.instances:
        return record.instance_mask(frame, instance)
    return np.zeros((record.height, record.width), bool)


def _prediction(track: Track | None, frame: int, size: tuple[int, int]) -> np.ndarray:
    if track is None or track.segmentations[frame] is None:
        return np.zeros(size, bool)
    return rle.decode(track.segmentations[frame])
