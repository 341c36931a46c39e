"""`evaluate` on synthetic data: the truth scores 1, damage of known size scores what can be worked out by hand."""

import dataclasses

import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.config import dataset_config
from input_pipeline.synthetic import THING_CLASSES, write_synthetic_workspace
from tarvis_jax.datasets import TASKS, DatasetSpec
from tarvis_jax.evaluation.metrics import jf
from tarvis_jax.evaluation.metrics.panoptic import WHOLE_VIDEO, PanopticQuality, frame_overlap, segments_from_maps
from tarvis_jax.evaluation.scores import evaluate, format_table
from tarvis_jax.masks import rle
from tarvis_jax.results.tracks import Track, VideoResult, encode_semantic

NAMES = ("YOUTUBE_VIS", "KITTI_STEP", "DAVIS", "BURST")
SPECS = {
    "YOUTUBE_VIS": DatasetSpec("instance", 4),
    "KITTI_STEP": DatasetSpec("panoptic", 7, THING_CLASSES),
    "DAVIS": DatasetSpec("exemplar", exemplar="mask"),
    "BURST": DatasetSpec("exemplar", exemplar="point"),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = write_synthetic_workspace(
        tmp_path_factory.mktemp("evaluate") / "data", num_train=1, num_val=3, num_frames=6, height=64, width=64
    )
    paths = {"BURST": {"eval_annotations": "dataset_annotations/inference/burst/all_classes_{split}.json"}}
    return {
        name: readers.ground_truth_videos(
            dataset_config(name, num_classes=spec.num_classes, thing_classes=spec.thing_classes, **paths.get(name, {})),
            "val",
            str(root),
        )
        for name, spec in SPECS.items()
    }


def perfect(record, spec: DatasetSpec) -> VideoResult:
    """The ground truth as a result."""
    tracks, semantic = [], None
    if spec.task == "panoptic":
        maps = [record.panoptic_map(t) for t in range(record.num_frames)]
        semantic = [encode_semantic(classes) for classes, _ in maps]
        masks = {
            int(i): ([ids == i for _, ids in maps], 1 + max(int(c[ids == i].max(initial=0)) for c, ids in maps))
            for i in np.unique([ids for _, ids in maps])
            if i > 0
        }
    else:
        frames = range(record.num_frames)
        masks = {i: ([record.instance_mask(t, i) for t in frames], label) for i, label in record.instances.items()}
    for i, (frames, label) in masks.items():
        track = Track(i, [rle.encode(m) if m.any() else None for m in frames])
        if spec.num_classes:
            logits = [0.0] * (spec.num_classes + 1)
            logits[label] = 20.0
            track = dataclasses.replace(track, class_logits=logits, class_id=label, score=0.99)
        tracks.append(track)
    size = (record.height, record.width)
    return VideoResult(str(record.id), record.dataset, size, record.num_frames, tracks, semantic)


@pytest.mark.parametrize("name", NAMES)
def test_the_truth_scores_one(records, name):
    results = {str(r.id): perfect(r, SPECS[name]) for r in records[name]}
    found = evaluate(results, records[name], SPECS[name])
    scores = found.summary
    undefined = [key for key, value in scores.items() if value == -1]
    assert all(key in ("APm", "APl", "ARm", "ARl") for key in undefined), "no object is that large"
    for key, value in scores.items():
        if key not in undefined and "Decay" not in key and key != "AR1":
            assert value == pytest.approx(1.0), key
    assert f"{name}\n" in format_table({name: scores})
    tables = [*found.per_class.values(), *found.per_video.values()]
    assert tables and all(v == pytest.approx(1.0) for t in tables for k, v in t.items() if k != "AR1")


def test_point_objects_count_from_their_first_frame(records):
    """Emptying all predictions of one frame lowers each object's J by one over its number of frames."""
    spec, videos = SPECS["BURST"], records["BURST"]
    results = {str(r.id): perfect(r, spec) for r in videos}
    for result in results.values():
        for track in result.tracks:
            track.segmentations[0] = None
    expected, by_video = [], {}
    for record in videos:
        starts = record.first_frames().values()
        by_video[str(record.id)] = [1 - (start == 0) / (record.num_frames - start) for start in starts]
        expected += by_video[str(record.id)]
    assert any(e < 1 for e in expected)
    scores = evaluate(results, videos, spec)
    assert scores.summary["J-Mean"] == pytest.approx(np.mean(expected))
    assert {video: each["J-Mean"] for video, each in scores.per_video.items()} == pytest.approx(
        {video: np.mean(values) for video, values in by_video.items()}
    )


def test_mask_objects_do_not_count_in_the_first_and_last_frame(records):
    spec, videos = SPECS["DAVIS"], records["DAVIS"]
    results = {str(r.id): perfect(r, spec) for r in videos}
    for result in results.values():
        for track in result.tracks:
            track.segmentations[0] = track.segmentations[-1] = None
    assert evaluate(results, videos, spec).summary["J&F-Mean"] == 1.0


def test_mask_objects_that_come_late_count_from_the_frame_after(records):
    """Frames that are not annotated do not count, nor does the frame in which the object is given; the last does."""
    record = records["DAVIS"][0]
    segmentations = [dict(frame) for frame in record.segmentations]
    first = segmentations[0].pop(1)  # object 1 comes in frame 1
    segmentations[3] = {}
    late = dataclasses.replace(record, segmentations=tuple(segmentations), annotated_frames=(0, 1, 2, 4, 5))
    result = perfect(late, SPECS["DAVIS"])
    (track,) = (track for track in result.tracks if track.id == 1)
    for frame, cost in ((0, 0), (1, 0), (2, 1), (3, 0), (5, 1)):
        right, track.segmentations[frame] = track.segmentations[frame], first if frame in (0, 3) else None
        scores = evaluate({str(late.id): result}, [late], SPECS["DAVIS"]).summary
        assert scores["J-Mean"] == pytest.approx(1 - cost / 3 / len(late.instances)), frame
        track.segmentations[frame] = right


def test_instances_count_in_annotated_frames_alone(records):
    record, spec = records["YOUTUBE_VIS"][0], SPECS["YOUTUBE_VIS"]
    result = perfect(record, spec)
    sparse = dataclasses.replace(
        record,
        segmentations=tuple(frame if t % 2 else {} for t, frame in enumerate(record.segmentations)),
        annotated_frames=tuple(range(1, record.num_frames, 2)),
    )
    found = evaluate({str(record.id): result}, [sparse], spec).summary
    assert found == evaluate({str(record.id): perfect(sparse, spec)}, [sparse], spec).summary and found[
        "AP"
    ] == pytest.approx(1)


def test_id_switch_costs_the_tube_and_not_the_frames(records):
    spec, videos = SPECS["KITTI_STEP"], records["KITTI_STEP"]
    results = {str(r.id): perfect(r, spec) for r in videos}
    for result in results.values():
        late = []
        for track in result.tracks:  # the second half of every track gets another id
            halves = [list(track.segmentations) for _ in range(2)]
            halves[0][3:] = halves[1][:3] = [None] * 3
            track.segmentations = halves[0]
            late.append(dataclasses.replace(track, id=track.id + 100, segmentations=halves[1]))
        result.tracks += late
    scores = evaluate(results, videos, spec).summary
    assert scores["PQ_frame"] == scores["PQ_tube_stuff"] == scores["SQ"] == 1.0
    per_class = evaluate(results, videos, spec).per_class
    assert all(row["IoU"] == row["PQ_frame"] == 1.0 for row in per_class.values())
    assert all((row["PQ_tube"] == 1.0) == (c - 1 not in THING_CLASSES) for c, row in per_class.items())
    assert scores["PQ_tube_things"] < 0.9 and scores["AQ"] < 0.9


def test_a_task_without_scores(records, monkeypatch):
    monkeypatch.setitem(TASKS, "semantic", ())
    results = {str(r.id): perfect(r, SPECS["DAVIS"]) for r in records["DAVIS"]}
    with pytest.raises(ValueError, match="there are no scores for task 'semantic'"):
        evaluate(results, records["DAVIS"], DatasetSpec("semantic", 3))


def test_missing_result_and_wrong_size_are_named(records):
    videos, spec = records["DAVIS"], SPECS["DAVIS"]
    results = {str(r.id): perfect(r, spec) for r in videos}
    gone = results.pop("val-00001")
    with pytest.raises(ValueError, match=r"without result: \['val-00001'\]"):
        evaluate(results, videos, spec)
    results["val-00001"] = dataclasses.replace(gone, size=(9, 9))
    with pytest.raises(ValueError, match=r"\(6, 64, 64\), in its result \(6, 9, 9\)"):
        evaluate(results, videos, spec)
    results["val-00001"] = dataclasses.replace(gone, tracks=[Track(77, [None] * 6)])
    with pytest.raises(ValueError, match=r"objects \[77\]"):
        evaluate(results, videos, spec)


def test_panoptic_quality_by_hand():
    """Two frames of 4 x 5: stuff 0 above, thing 1 below; the prediction loses half of the thing in frame 2."""
    truth_class = np.zeros((2, 4, 5), int)
    truth_class[:, 2:] = 1
    truth_instance = np.where(truth_class == 1, 7, 0)
    guess_class = truth_class.copy()
    guess_class[1, 2] = 0
    guess_instance = np.where(guess_class == 1, 3, 0)
    guess_instance[0, 3] = 4  # in frame 1 half of it is another object
    overlaps = [
        frame_overlap(
            segments_from_maps(truth_class[t], truth_instance[t], (1,), is_truth=True),
            segments_from_maps(guess_class[t], guess_instance[t], (1,), is_truth=False),
        )
        for t in range(2)
    ]
    frame, tube = PanopticQuality(2, 1), PanopticQuality(2, WHOLE_VIDEO)
    frame.add_overlaps(overlaps)
    tube.add_overlaps(overlaps)
    # Frame 1: stuff IoU 1; the halves have IoU 0.5 each: no match, 2 FP, 1 FN.
    # Frame 2: stuff 10/15; thing 5/10: FP, FN.
    assert frame.scores([0]) == pytest.approx((1 + 10 / 15) / 2)
    assert frame.scores([1]) == 0.0
    # Video: stuff 20/25; id 3 has 10 of the 20 thing pixels: IoU 0.5, no match.
    assert tube.scores([0]) == pytest.approx(20 / 25)
    assert tube.scores([1]) == 0.0
    np.testing.assert_allclose(tube.by_class(), [20 / 25, 0.0])
    assert (tube.false_positives[1], tube.false_negatives[1]) == (2, 1)


def test_predictions_on_void_are_no_errors():
    truth_class, instances = np.zeros((4, 4), int), np.zeros((4, 4), int)
    truth_class[2:] = 255
    guess_class = truth_class.copy()
    guess_class[2:] = 1
    overlap = frame_overlap(
        segments_from_maps(truth_class, instances, (1,), is_truth=True),
        segments_from_maps(guess_class, instances + 1, (1,), is_truth=False),
    )
    quality = PanopticQuality(2, 1)
    quality.add_overlaps([overlap])
    assert quality.scores() == 1.0 and quality.false_positives.sum() == 0


def test_boundary_accuracy_of_a_shift():
    """A square moved by more than the tolerance of ceil(0.008 x diagonal) = 1 pixel keeps only parallel edges."""
    truth, near, far = (np.zeros((64, 96), bool) for _ in range(3))
    truth[20:40, 20:40] = near[21:41, 20:40] = far[30:50, 60:80] = True
    assert jf.boundary_accuracy(truth, near) == 1.0
    assert jf.boundary_accuracy(truth, far) == 0.0
    assert jf.region_similarity(truth, near) == 19 / 21
    assert jf.boundary_accuracy(truth, np.zeros_like(truth)) == 0.0
    assert jf.boundary_accuracy(~truth & truth, np.zeros_like(truth)) == 1.0


def test_prediction_is_what_the_track_says(records):
    record = records["YOUTUBE_VIS"][0]
    track = perfect(record, SPECS["YOUTUBE_VIS"]).tracks[0]
    shown = [t for t, rle in enumerate(track.segmentations) if rle]
    np.testing.assert_array_equal(rle.decode(track.segmentations[shown[0]]), record.instance_mask(shown[0], track.id))
