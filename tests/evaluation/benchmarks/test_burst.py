"""BURST: a made-up case against the measure written out, and what becomes of malformed files."""

import copy
import itertools
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tarvis_jax.evaluation.benchmarks import benchmark
from tests.evaluation import cases, oracles
from tests.evaluation.benchmarks.mutations import DELETE, check_refused, set_value

MERGED = {207: 554, 201: 1175}
NOT_EVALUATED = {63, 720, 912, 967}  # distractors, and what becomes one
GT, FOUND = "gt/all_classes.json", "results.json"


def decode(record: dict, sequence: dict) -> np.ndarray:
    return coco_mask.decode({"size": [sequence["height"], sequence["width"]], "counts": record["rle"]}).astype(bool)


def oracle(truth: dict, results: dict) -> dict[int, dict]:
    """Class -> HOTA's measures (means over alphas) and AP, in percent."""
    found = {sequence["seq_name"]: sequence for sequence in results["sequences"]}
    hota_videos, ap_videos = {}, {}
    for sequence in sorted(truth["sequences"], key=lambda s: f"val-{s['dataset']}-{s['seq_name']}"):
        guesses = dict(
            zip(
                found[sequence["seq_name"]]["annotated_image_paths"],
                found[sequence["seq_name"]]["segmentations"],
                strict=True,
            )
        )
        categories = sequence["track_category_ids"]
        frames = []  # (any true object that is no distractor, true masks, predicted masks, their scores) by track
        for name, masks in zip(sequence["annotated_image_paths"], sequence["segmentations"], strict=True):
            true = {t: decode(m, sequence) for t, m in masks.items()}
            guess = {t: decode(m, sequence) for t, m in guesses[name].items()}
            is_evaluated = any(categories[t] not in (63, 720, 912) for t in true)
            frames.append((is_evaluated, true, guess, {t: m.get("score", 1.0) for t, m in guesses[name].items()}))
        annotated = {t for _, true, _, _ in frames for t in true}
        for category in {MERGED.get(c, c) for c in categories.values()} - NOT_EVALUATED:
            mine = [t for t, c in categories.items() if MERGED.get(c, c) == category and t in annotated]
            pairs = [
                ({t: m for t, m in true.items() if t in mine}, {t: m for t, m in guess.items() if t in mine})
                for is_evaluated, true, guess, _ in frames
                if is_evaluated
            ]
            hota_videos.setdefault(category, []).append(pairs)
            tracks = [
                {t: [frame[side].get(t) for frame in frames] for t in mine if any(t in f[side] for f in frames)}
                for side in (1, 2)
            ]
            is_free = category in sequence["not_exhaustive_category_ids"]
            ap_videos.setdefault(category, []).append(
                {
                    "truths": [(False, False)] * len(tracks[0]),
                    "found": [(np.mean([f[3][t] for f in frames if t in f[3]]), is_free) for t in tracks[1]],
                    "iou": [[oracles.track_iou(d, g) for g in tracks[0].values()] for d in tracks[1].values()],
                }
            )
    result = {}
    for category, videos in hota_videos.items():
        scores = [oracles.hota(videos, 0.05 * i) for i in range(1, 20)]
        row = {name: 100 * np.mean([each[name] for each in scores]) for name in scores[0]}
        points = [oracles.precision_recall(ap_videos[category], 0.5 + 0.05 * i, 100, slack=1e-12) for i in range(10)]
        if points[0] is not None:
            result[category] = row | {"AP": 100 * np.mean([precision for precision, _ in points])}
    return result


@pytest.mark.parametrize("seed", [2, 7])
def test_made_up_case(seed, tmp_path):
    cases.write_burst(tmp_path, np.random.default_rng(seed), num_videos=4, size=(48, 64), num_frames=5)
    truth, results = (json.loads((tmp_path / name).read_text()) for name in (GT, FOUND))
    found = benchmark("burst").evaluate(tmp_path / FOUND, tmp_path / GT)
    expected = oracle(truth, results)
    assert set(found["per_class"]) == {str(category) for category in expected}
    for category, row in expected.items():
        mine = {name: found["per_class"][str(category)][name] for name in row}
        assert mine == pytest.approx(row, abs=1e-9), category
    groups = {"all": set(expected), "common": {4, 347, 805} & set(expected)}
    groups["uncommon"] = groups["all"] - groups["common"]
    for metric in ("HOTA", "DetA", "AssA", "AP"):
        for group, classes in groups.items():
            mean = np.mean([expected[c][metric] for c in classes])
            assert found["expected"][metric][group] == pytest.approx(mean, abs=1e-9)
    assert len(expected) > 4 and 0 < found["expected"]["AP"]["all"] < found["expected"]["HOTA"]["all"] < 100


def test_only_300_masks_of_a_frame_count(tmp_path):
    """The best ones: here those that fit, which come last in the file and have the highest scores."""
    mask, wrong = np.zeros((16, 24), bool), np.zeros((16, 24), bool)
    mask[2:8, 3:9] = wrong[12:, 20:] = True
    tracks = {str(t): 805 for t in range(1, 321)}
    head = {"id": 1, "height": 16, "width": 24, "dataset": "d", "seq_name": "s", "track_category_ids": tracks}
    head |= {"neg_category_ids": [], "not_exhaustive_category_ids": [], "annotated_image_paths": ["a", "b"]}
    text, other = cases.encode(mask)["counts"], cases.encode(wrong)["counts"]
    true = {t: {"rle": text} for t in list(tracks)[300:]}
    guess = {t: {"rle": other, "score": 0.5} for t in tracks} | {t: {"rle": text, "score": 0.9} for t in true}
    everywhere = {"1": {"rle": other}}  # so that every track is one of the ground truth
    for name, frames in ((GT, [true, {t: {"rle": other} for t in tracks}]), (FOUND, [guess, everywhere])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = {"sequences": [head | {"segmentations": frames}], "split": "val"}
        (tmp_path / name).write_text(json.dumps(content | {"categories": [{"id": 805, "name": "baby"}]}))
    row = benchmark("burst").evaluate(tmp_path / FOUND, tmp_path / GT)["per_class"]["805"]
    assert row["TP_per_alpha"][0] == 20 + 1 and row["FP_per_alpha"][0] == 280


def test_sequences_without_results(tmp_path):
    cases.write_burst(tmp_path, np.random.default_rng(0), num_videos=2, size=(24, 32), num_frames=3)
    (tmp_path / FOUND).write_text('{"sequences": []}')
    found = benchmark("burst").evaluate(tmp_path / FOUND, tmp_path / "gt")["expected"]
    assert {found["HOTA"]["all"], found["AP"]["all"]} == {0.0}


SEQUENCE, TRUE = (FOUND, "sequences", 0), (GT, "sequences", 1)
MASK, IN_MASK = (*SEQUENCE, "segmentations", 0, "1"), "results.json, sequences[0], frame 'frame0001.jpg', track 1"
IN_FOUND, IN_TRUE = "results.json, sequences[0]", "all_classes.json, sequences[1]"
# Path of a value (file first), what it becomes, what the message says.
MUTATIONS = [
    ((FOUND,), [], "results.json"),
    ((FOUND, "sequences"), DELETE, "results.json: key 'sequences'"),
    ((FOUND, "split"), "test", "results.json: split is 'test'"),
    (SEQUENCE, None, IN_FOUND),
    ((*SEQUENCE, "seq_name"), "elsewhere", IN_FOUND),
    ((*SEQUENCE, "seq_name"), 3, IN_FOUND),
    ((*SEQUENCE, "seq_name"), "seq-2", "results.json, sequences[1]"),
    ((*SEQUENCE, "dataset"), DELETE, IN_FOUND),
    ((*SEQUENCE, "id"), 11, IN_FOUND),
    ((*SEQUENCE, "id"), 20, "results.json, sequences[1]"),
    ((*SEQUENCE, "width"), 24, IN_FOUND),
    ((*SEQUENCE, "height"), "24", IN_FOUND),
    ((*SEQUENCE, "annotated_image_paths"), ["frame0001.jpg"], IN_FOUND),
    ((*SEQUENCE, "annotated_image_paths", 2), "frame0001.jpg", IN_FOUND),
    ((*SEQUENCE, "annotated_image_paths", 0), 5, IN_FOUND),
    ((*SEQUENCE, "segmentations", 0), [], "results.json, sequences[0].segmentations[0]"),
    ((*SEQUENCE, "segmentations"), {}, IN_FOUND),
    ((*SEQUENCE, "segmentations", 0, "99"), {"rle": "P2"}, "frame 'frame0001.jpg', track 99"),
    ((*SEQUENCE, "segmentations", 0, "cat"), {"rle": "P2"}, "results.json, sequences[0].segmentations[0]"),
    ((*SEQUENCE, "segmentations", 0, "01"), {"rle": "P2"}, "results.json, sequences[0].segmentations[0]"),
    (MASK, "P2", IN_MASK),
    ((*MASK, "rle"), DELETE, IN_MASK),
    ((*MASK, "rle"), 7, IN_MASK),
    ((*MASK, "rle"), "", IN_MASK),
    ((*MASK, "rle"), "P2", IN_MASK),
    ((*MASK, "rle"), "P2o", IN_MASK),
    ((*MASK, "rle"), "oooooooo1", IN_MASK),
    ((*MASK, "rle"), "\u00e9", IN_MASK),
    ((*MASK, "score"), float("nan"), IN_MASK),
    ((*MASK, "score"), "high", IN_MASK),
    ((*MASK, "score"), 10**400, IN_MASK),
    ((GT, "split"), DELETE, "all_classes.json: key 'split'"),
    ((GT, "categories"), {"805": "baby"}, "all_classes.json: key 'categories'"),
    ((GT, "categories", 0, "id"), "4", "all_classes.json, categories[0]"),
    ((GT, "sequences"), [], "is none of the 0 sequences"),
    ((*TRUE, "id"), 10, IN_TRUE),
    ((*TRUE, "track_category_ids", "1"), 0, IN_TRUE),
    ((*TRUE, "track_category_ids", "1"), 1231, IN_TRUE),
    ((*TRUE, "track_category_ids", "1"), "baby", IN_TRUE),
    ((*TRUE, "track_category_ids"), {}, "all_classes.json, sequences[1], frame 'frame0001.jpg'"),
    ((*TRUE, "neg_category_ids"), DELETE, IN_TRUE),
    ((*TRUE, "not_exhaustive_category_ids"), ["a"], IN_TRUE),
    ((*TRUE, "height"), 10**9, IN_TRUE),
    (
        (*TRUE, "segmentations", 0, "1"),
        {"rle": "P2o"},
        "all_classes.json, sequences[1], frame 'frame0001.jpg', track 1",
    ),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The content of both files: two sequences of 3 frames of 24 x 32, in order, of class 805."""
    folder = tmp_path_factory.mktemp("tiny")
    cases.write_burst(folder, np.random.default_rng(4), num_videos=2, size=(24, 32), num_frames=3, num_tracks=2)
    content = {name: json.loads((folder / name).read_text()) for name in (GT, FOUND)}
    content[FOUND]["sequences"].sort(key=lambda sequence: sequence["id"])
    for file in content.values():
        for sequence in file["sequences"]:
            sequence |= {"dataset": "LaSOT", "track_category_ids": {"1": 805, "2": 805}}
            sequence["segmentations"][0]["1"] = {"rle": cases.encode(np.eye(24, 32, dtype=bool))["counts"]}
    return content


def write(folder, content):
    (folder / "gt").mkdir()
    for name, file in content.items():
        (folder / name).write_text(json.dumps(file))


@pytest.mark.parametrize("path, value, message", MUTATIONS, ids=itertools.count())
def test_mutation(tiny, tmp_path, path, value, message):
    write(tmp_path, set_value(copy.deepcopy(tiny), path, value))
    check_refused(lambda: benchmark("burst").evaluate(tmp_path / FOUND, tmp_path / GT), message)


@pytest.mark.parametrize("name", [GT, FOUND])
@pytest.mark.parametrize(
    "text", ["", '{"sequences": [', "[" * 100_000, '{"split": 1, "split": 2}'], ids=itertools.count()
)
def test_broken_file(tiny, tmp_path, name, text):
    write(tmp_path, tiny)
    (tmp_path / name).write_text(text)
    check_refused(lambda: benchmark("burst").evaluate(tmp_path / FOUND, tmp_path / GT), name, "not valid JSON")
