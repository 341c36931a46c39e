"""What a run or an evaluation left behind becomes one page."""

import json

import cv2
import numpy as np

from tarvis_jax.visualize.run_report import write_evaluation_report, write_training_report
from tests.visualize.test_report import Page

SCORES = {
    "KITTI_STEP": {
        "summary": {"PQ_tube": 0.621, "STQ": 0.5},
        "per_class": [{"id": 1, "name": "road <wet>", "PQ_tube": 0.9}, {"id": 2, "name": "car", "PQ_tube": 0.345}],
        "per_video": [],
        "num_videos": 3,
        "num_frames": 40,
        "num_segmented": 30,
        "seconds": 25.0,
        "compile_seconds": 10.0,
        "pictures": [],
    },
    "DAVIS": {
        "summary": {"J&F-Mean": 0.74},
        "per_class": [],
        "per_video": [{"video": "cows", "J&F-Mean": 0.777}],
        "num_videos": 1,
        "num_frames": 10,
        "num_segmented": 10,
        "seconds": 1.0,
        "compile_seconds": 0.0,
        "pictures": [{"file": "DAVIS-cows.jpg", "score": "J&F-Mean 77.7 %"}],
    },
    "OVIS": {"skipped": "valid.json: key 'annotations' is missing"},
}


def leave_evaluation(folder):
    (folder / "pictures").mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps(SCORES))
    cv2.imwrite(str(folder / "pictures" / "DAVIS-cows.jpg"), np.zeros((20, 30, 3), np.uint8))


def test_training(tmp_path):
    leave_evaluation(tmp_path / "eval" / "final")
    for name in ("DAVIS-cows", "DAVIS-dog"):  # the first is among the evaluation's pictures
        (tmp_path / "demo" / name / "overlays").mkdir(parents=True)
        for frame in range(5):
            overlay = np.full((80, 900, 3), 50 * frame, np.uint8)
            cv2.imwrite(str(tmp_path / "demo" / name / "overlays" / f"{frame:05d}.png"), overlay)
    rates = {"steps_per_sec": 2.0, "data_wait_percent": 4.0, "train_seconds": 95.0, "compile_seconds": 20.0}
    entries = [{"step": step, "loss": 1.0 / step, **rates} for step in (1, 2)] + [{"step": 2, "eval/DAVIS/J": 0.7}]
    path = write_training_report(
        tmp_path,
        {"train": {"seed": 7}},
        {"train": {"seed": 0}},
        entries,
        tmp_path / "eval/final",
        {"DAVIS": "3 videos or images were left out"},
    )
    assert path == tmp_path / "report.html" and (tmp_path / "curves.png").is_file()
    page = Page(path.read_text())
    words = "".join(page.text)
    for expected in ("62.1", "road <wet>", "34.5", "cows", "77.7", "3 min 10 s", "40.0 s", "2.00 (median", "4.0 %"):
        assert expected in words, expected
    assert "OVIS" in words and "valid.json: key 'annotations' is missing" in words
    assert "Bad data that was left out" in words and "3 videos or images were left out" in words
    assert "15.0 s for 30 frames (2.0 frames/s" in words and "train.seed" in words and "jax" in words
    _, comparison, demo = page.images()
    assert comparison.shape == (20, 30, 3)
    assert demo.shape[1] == 3 * 400 + 2 * 4 and abs(int(demo[10, 600, 0]) - 100) < 5, "first, middle, last frame"


def test_run_without_evaluation_and_metrics(tmp_path):
    path = write_training_report(tmp_path, {}, {}, [], None, {})
    assert not Page(path.read_text()).images() and not (tmp_path / "curves.png").exists()


def test_evaluation(tmp_path):
    folder = tmp_path / "final"
    leave_evaluation(folder)
    path = write_evaluation_report(folder, "my <run>", {"a": 1}, {"a": 1})
    page = Page(path.read_text())
    words = "".join(page.text)
    assert path == folder / "report.html" and "Evaluation of my <run>" in words
    assert "None." in words, "no setting differs"
    assert len(page.images()) == 1
