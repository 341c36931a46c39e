"""Every evaluator against the numbers of the official toolkits (shared/metrics)."""

import json

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.evaluation.metrics import jf
from tarvis_jax.evaluation.metrics.ap import evaluate_ap, evaluate_ap_by_category, track_iou
from tarvis_jax.evaluation.metrics.panoptic import PanopticQuality, Segments, frame_overlap
from tarvis_jax.evaluation.metrics.stq import SegmentationTrackingQuality

ABSOLUTE = 1e-9  # both sides are float64; only the order of sums differs


@pytest.fixture(scope="module")
def metrics(shared_dir):
    return shared_dir / "metrics"


def read(path) -> np.ndarray:
    return np.array(Image.open(path)).astype(np.int64)


def load(path):
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", ["davis2017", "davis2017_real"])
def test_davis(metrics, name):
    root, expected = metrics / name, load(metrics / name / "expected.json")
    objects = []
    for video in (root / "DAVIS/ImageSets/2017/val.txt").read_text().split():
        files = sorted((root / "DAVIS/Annotations/480p" / video).glob("*.png"))
        truth = [np.array(Image.open(file)) for file in files]
        results = [root / "results" / video / file.name for file in files]
        prediction = [np.array(Image.open(path)) if path.is_file() else None for path in results]
        first = np.where(truth[0] == 255, 0, truth[0])  # 255 is void
        frames = jf.davis_frames(len(truth))
        for i in range(1, int(first.max()) + 1):
            objects.append(jf.score_object(video, i, ((truth[t] == i, prediction[t] == i) for t in frames)))
    assert jf.summarize(objects) == pytest.approx(expected["expected"], abs=ABSOLUTE)
    per_object = expected["per_object (M=mean, R=recall, D=decay)"]
    assert {f"{o.video}_{o.id}" for o in objects} == set(per_object)
    for each in objects:
        summary = jf.summarize([each])
        for letter in "JF":
            for short, kind in (("M", "Mean"), ("R", "Recall"), ("D", "Decay")):
                value = per_object[f"{each.video}_{each.id}"][letter + short]
                assert summary[f"{letter}-{kind}"] == pytest.approx(value, abs=ABSOLUTE)


@pytest.mark.parametrize("name", ["ytvis", "ovis"])
def test_track_ap(metrics, name):
    root, expected = metrics / name, load(metrics / name / "expected.json")
    truth, predictions = load(root / "annotations.json"), load(root / "results.json")
    assert evaluate_ap(truth, predictions) == pytest.approx(expected["expected"], abs=ABSOLUTE)
    _, found = evaluate_ap_by_category(truth, predictions)
    assert {str(c) for c in found} == set(expected["per_category"])
    for category, values in expected["per_category"].items():
        common = {k: v for k, v in values.items() if k in found[int(category)]}
        assert len(common) >= 4
        assert {k: found[int(category)][k] for k in common} == pytest.approx(common, abs=ABSOLUTE)


def test_track_iou(metrics):
    root = metrics / "ovis"
    truth, predictions = load(root / "annotations.json"), load(root / "results.json")
    for key, expected in load(root / "expected.json")["ious_example"].items():
        video, category = (int(part) for part in key.split(","))
        mine = [
            [e for e in entries if (e["video_id"], e["category_id"]) == (video, category)]
            for entries in (predictions, truth["annotations"])
        ]
        mine[0].sort(key=lambda e: -e["score"])
        iou = track_iou(*([e["segmentations"] for e in entries] for entries in mine))
        np.testing.assert_allclose(iou, np.asarray(expected), atol=ABSOLUTE)


def test_stq_on_kitti_step(metrics):
    root, expected = metrics / "kitti_step", load(metrics / "kitti_step/expected.json")
    total = SegmentationTrackingQuality(19, (11, 13))
    for video in sorted((root / "gt").iterdir()):
        alone = SegmentationTrackingQuality(19, (11, 13))
        for file in sorted(video.glob("*.png")):
            truth, prediction = read(file), read(root / "pred" / video.name / file.name)
            maps = [m for x in (truth, prediction) for m in (x[..., 0], 256 * x[..., 1] + x[..., 2])]
            alone.add_frame(*maps)
            total.add_frame(*maps)
        alone.end_video()
        total.end_video()
        values = {k: expected["per_sequence"][video.name][k] for k in ("STQ", "AQ", "SQ")}
        assert alone.scores() == pytest.approx(values, abs=ABSOLUTE)
    assert total.scores() == pytest.approx(expected["expected"], abs=ABSOLUTE)


def segments(path, infos, is_truth: bool) -> Segments:
    return Segments(
        read(path)[..., :3] @ np.array([1, 256, 65536]),
        {s["id"]: s["category_id"] for s in infos},
        frozenset(s["id"] for s in infos if s["iscrowd"]) if is_truth else frozenset(),
        {s["id"]: s["area"] for s in infos} if is_truth else None,
    )


def check_vpq(windows, things, stuff, expected):
    for window, quality in windows.items():
        for name, classes in (("all", None), ("thing", things), ("stuff", stuff)):
            assert 100 * quality.scores(classes) == pytest.approx(expected[window][name], abs=1e-7), (window, name)


def test_vpq_on_vipseg(metrics):
    root = metrics / "vipseg"
    truth, expected = load(root / "gt/panoptic_gt_VIPSeg_val.json"), load(root / "expected.json")["expected"]
    predictions = {a["video_id"]: a["annotations"] for a in load(root / "pred/pred.json")["annotations"]}
    windows = {n: PanopticQuality(124, n) for n in (1, 2, 4, 6, 8)}
    for video in truth["annotations"]:
        name = video["video_id"]
        overlaps = [
            frame_overlap(
                segments(root / "gt/panomasksRGB" / name / true["file_name"], true["segments_info"], True),
                segments(root / "pred/pan_pred" / name / guess["file_name"], guess["segments_info"], False),
            )
            for true, guess in zip(video["annotations"], predictions[name], strict=True)
        ]
        for quality in windows.values():
            quality.add_overlaps(overlaps)
    is_thing = {c["id"]: c["isthing"] for c in truth["categories"]}
    check_vpq(
        windows,
        [c for c, thing in is_thing.items() if thing],
        [c for c, thing in is_thing.items() if not thing],
        {n: expected["VPQ_window"][str(n)] for n in windows},
    )


def test_vpq_with_crowds_on_cityscapes(metrics):
    root = metrics / "cityscapes_vps"
    truth, expected = load(root / "gt/panpotic_gt_val_city_vps.json"), load(root / "expected.json")["expected"]
    guesses = load(root / "pred/pred.json")["annotations"]
    files = sorted((root / "gt/panoptic_video").glob("*.png"))
    overlaps = [
        frame_overlap(
            segments(file, true["segments_info"], True),
            segments(root / "pred/pan_pred" / f"{image['id']}.png", guess["segments_info"], False),
        )
        for file, image, true, guess in zip(files, truth["images"], truth["annotations"], guesses, strict=True)
    ]
    is_thing = {c["id"]: c["isthing"] for c in truth["categories"]}
    windows = {n: PanopticQuality(max(is_thing) + 1, n) for n in (1, 2, 3, 4)}
    for start in range(0, len(overlaps), 6):
        for quality in windows.values():
            quality.add_overlaps(overlaps[start : start + 6])
    check_vpq(
        windows,
        [c for c, thing in is_thing.items() if thing],
        [c for c, thing in is_thing.items() if not thing],
        {n: expected["VPQ_k"][str(5 * (n - 1))] for n in windows},
    )
