"""KITTI-STEP: the official numbers, made-up cases against the measure written out, and malformed files."""

import numpy as np
import pytest

from tarvis_jax.evaluation.benchmarks.kitti_step import evaluate
from tests.evaluation import panoptic_cases, panoptic_oracles
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.mutations import check_refused

SIZE = (24, 40)
PRED, TRUE = "pred/0001/000001.png", "gt/0001/000001.png"


def read(folder) -> list[np.ndarray]:
    """Classes and instances of a sequence, [N, H, W] each."""
    values = np.stack([panoptic_cases.read_ids(path) for path in sorted(folder.glob("*.png"))])
    return [values & 255, (values >> 8 & 255) * 256 + (values >> 16)]


def test_official_numbers(shared_dir):
    files.check_official(evaluate, shared_dir / "metrics/kitti_step")


@pytest.mark.parametrize("seed", range(4))
def test_made_up_case(tmp_path, seed):
    panoptic_cases.write_kitti_step(tmp_path, np.random.default_rng(seed), num_videos=3, num_frames=3, size=SIZE)
    names = [f"{i:04d}" for i in range(3)]
    videos = [read(tmp_path / "gt" / name) + read(tmp_path / "pred" / name) for name in names]
    total = panoptic_oracles.stq(videos, 19, [11, 13])
    found = evaluate(tmp_path / "pred", tmp_path / "gt")
    files.check_equal(found["expected"], {key: total[key] for key in ("STQ", "AQ", "SQ")})
    per_sequence = {n: panoptic_oracles.stq([v], 19, [11, 13]) for n, v in zip(names, videos, strict=True)}
    files.check_equal(found["per_sequence"], per_sequence)
    assert found["per_sequence"]["0001"]["num_gt_tubes"] == 0 and found["expected"]["AQ"] > 0


def test_sequence_of_void(case, tmp_path):
    """A sequence without any labeled pixel has no SQ, and changes no total."""
    whole = evaluate(case / "pred", case / "gt")["expected"]
    void = files.spoiled(case, tmp_path, lambda folder: None)
    for side in ("gt", "pred"):
        panoptic_cases.write_ids(void / side / "0009/000000.png", np.full(SIZE, 255))
    found = evaluate(void / "pred", void / "gt")
    assert found["expected"] == whole
    files.check_equal(
        found["per_sequence"]["0009"],
        {"STQ": np.nan, "AQ": 0.0, "SQ": np.nan, "frames": 1, "num_gt_tubes": 0},
    )


def test_official_layout(case, tmp_path):
    (tmp_path / "panoptic_maps").mkdir()
    (tmp_path / "panoptic_maps/val").symlink_to(case / "gt")
    assert evaluate(case / "pred", tmp_path) == evaluate(case / "pred", case / "gt")


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kitti_step")
    panoptic_cases.write_kitti_step(folder, np.random.default_rng(0), num_videos=2, num_frames=2, size=SIZE)
    return folder


MUTATIONS = {
    **{f"result {what}": (make(PRED), (PRED,)) for what, make in files.RGB_MUTATIONS.items() if what != "is absent"},
    **{f"truth {what}": (make(TRUE), ()) for what, make in files.RGB_MUTATIONS.items()},
    "frame without result": (files.delete(PRED), ("pred/0001", "000001.png")),
    "result of no frame": (files.copy_file(PRED, "pred/0001/000002.png"), ("pred/0001", "000002.png")),
    "no result of a sequence": (files.delete("pred/0001"), ("pred/0001",)),
    "no results": (files.delete("pred"), ("pred",)),
    "no truth": (files.delete("gt"), ("gt",)),
    "class 19": (files.paint(PRED, (19, 0, 0)), (PRED, "unknown class 19")),
    "true class 254": (files.paint(TRUE, (254, 0, 0)), (TRUE, "unknown class 254")),
    "instance 1000": (files.paint(PRED, (13, 3, 232)), (PRED, "instance 1000")),
    "instance 1000 of stuff": (files.paint(TRUE, (0, 3, 232)), (TRUE, "instance 1000")),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_malformed(case, tmp_path, what):
    mutation, messages = MUTATIONS[what]
    folder = files.spoiled(case, tmp_path, mutation)
    check_refused(lambda: evaluate(folder / "pred", folder / "gt"), "0001" if "no " not in what else "", *messages)
