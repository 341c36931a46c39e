"""Every evaluator against the numbers of the official toolkits (shared/metrics)."""

import json

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.evaluation.metrics import jf
from tarvis_jax.evaluation.metrics.ap import evaluate_ap, evaluate_ap_by_category, track_iou

ABSOLUTE = 1e-9  # both sides are float64; only the order of sums differs


@pytest.fixture(scope="module")
def metrics(shared_dir):
    return shared_dir / "metrics"


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
