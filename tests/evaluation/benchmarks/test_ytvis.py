"""YouTube-VIS and OVIS: a made-up case against the measure written out, and what becomes of malformed files."""

import copy
import itertools
import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tarvis_jax.evaluation.benchmarks import benchmark
from tests.evaluation import cases, oracles
from tests.evaluation.benchmarks.mutations import DELETE, check_refused, set_value

IOUS = [0.5 + 0.05 * i for i in range(10)]
OCCLUSION = {"no_occlusion": 0.0, "slight_occlusion": 0.25, "severe_occlusion": 0.75}
SIZES = {"s": (0, 128**2), "m": (128**2, 256**2), "l": (256**2, 1e10)}
LEVELS = {"light": (0, 0.25), "medium": (0.25, 0.5), "heavy": (0.5, 1)}


def decode(entry: dict) -> list:
    result = []
    for rle in entry["segmentations"]:
        if rle and isinstance(rle["counts"], list):
            rle = coco_mask.frPyObjects(rle, *rle["size"])
        result.append(coco_mask.decode(rle).astype(bool) if rle else None)
    return result


def mean_area(areas: list) -> float:
    return float(np.mean([area for area in areas if area] or [0]))


def compare(truth: dict, results: list) -> tuple[dict, dict]:
    """Mean area of each result, and IoU of each with each true track of its video and class, by their identities."""
    tracks = {id(entry): decode(entry) for entry in (*truth["annotations"], *results)}
    sizes = {id(d): mean_area([0 if m is None else int(m.sum()) for m in tracks[id(d)]]) for d in results}
    ious = {
        (id(d), id(g)): oracles.track_iou(tracks[id(d)], tracks[id(g)])
        for d, g in itertools.product(results, truth["annotations"])
        if (d["video_id"], d["category_id"]) == (g["video_id"], g["category_id"])
    }
    return sizes, ious


def oracle(truth: dict, results: list, compared: tuple, area: tuple = (0, np.inf), occlusion: tuple = (0, 1)):
    """(IoU threshold, limit) -> category -> (AP, recall), for categories with a track that counts."""
    sizes, ious = compared
    scores = {(iou, limit): {} for iou in IOUS for limit in (1, 10, 100)}
    for category in (each["id"] for each in truth["categories"]):
        videos = []
        for video in sorted(each["id"] for each in truth["videos"]):
            mine = [
                [entry for entry in entries if (entry["video_id"], entry["category_id"]) == (video, category)]
                for entries in (truth["annotations"], results)
            ]
            truths = []
            for entry in mine[0]:
                labels = sorted(OCCLUSION[label] for label in entry.get("occlusion", []) if label)
                score = float(np.mean(labels[len(labels) // 2 :])) if labels else 0.0
                is_inside = area[0] <= mean_area(entry["areas"]) <= area[1] and occlusion[0] <= score <= occlusion[1]
                truths.append((bool(entry["iscrowd"]) or not is_inside, bool(entry["iscrowd"])))
            found = []
            for entry in mine[1]:
                found.append((entry["score"], not area[0] <= sizes[id(entry)] <= area[1]))
            iou = [[ious[id(d), id(g)] for g in mine[0]] for d in mine[1]]
            videos.append({"truths": truths, "found": found, "iou": iou})
        for iou, limit in scores:
            pair = oracles.precision_recall(videos, iou, limit)
            if pair is not None:
                scores[iou, limit][category] = pair
    return scores


def mean(scores: dict, index: int, limit: int = 100, ious: list = IOUS) -> float:
    values = [pair[index] for iou in ious for pair in scores[iou, limit].values()]
    return float(np.mean(values)) if values else -1.0


@pytest.mark.parametrize("name", ["ytvis", "ovis"])
def test_made_up_case(name, tmp_path):
    cases.write_tracks(tmp_path, np.random.default_rng(28), with_occlusion=name == "ovis", num_videos=8, num_frames=4)
    truth, results = (json.loads((tmp_path / file).read_text()) for file in ("annotations.json", "results.json"))
    found = benchmark(name).evaluate(tmp_path / "results.json", tmp_path / "annotations.json")
    compared = compare(truth, results)
    scores = oracle(truth, results, compared)
    expected = {"AP": mean(scores, 0), "AP50": mean(scores, 0, ious=IOUS[:1]), "AP75": mean(scores, 0, ious=[IOUS[5]])}
    expected |= {f"AR{limit}": mean(scores, 1, limit) for limit in (1, 10, 100)}
    for letter, limits in SIZES.items():
        scores_here = oracle(truth, results, compared, area=limits)
        expected |= {f"AP{letter}": mean(scores_here, 0), f"AR{letter}": mean(scores_here, 1)}
    for level, limits in LEVELS.items() if name == "ovis" else ():
        scores_here = oracle(truth, results, compared, occlusion=limits)
        expected |= {f"AP_occ_{level}": mean(scores_here, 0), f"AR_occ_{level}": mean(scores_here, 1)}
    assert found["expected"] == pytest.approx(expected, abs=1e-9)
    assert 0 < expected["AP"] < 1 and len(set(expected.values())) > 7
    assert set(found["per_category"]) == {str(c) for c in scores[0.5, 100]}
    for category, row in found["per_category"].items():
        values = [scores[iou, 100][int(category)] for iou in IOUS]
        assert row["AP"] == pytest.approx(np.mean([pair[0] for pair in values]), abs=1e-9)
        assert row["AR100"] == pytest.approx(np.mean([pair[1] for pair in values]), abs=1e-9)


def test_nothing_found(tmp_path):
    cases.write_tracks(tmp_path, np.random.default_rng(0), with_occlusion=True)
    (tmp_path / "results.json").write_text("[]")
    found = benchmark("ovis").evaluate(tmp_path, tmp_path)["expected"]
    assert {found["AP"], found["AR100"], found["AP_occ_light"]} == {0.0}


def test_id_zero_is_never_found(tmp_path):
    """The official code takes the id of a matched track for whether there was a match."""
    cases.write_tracks(tmp_path, np.random.default_rng(0), with_occlusion=False, num_videos=2, size=(32, 32))
    truth = json.loads((tmp_path / "annotations.json").read_text())
    truth["annotations"] = [truth["annotations"][0] | {"id": 0, "iscrowd": 0}]
    entry = {key: truth["annotations"][0][key] for key in ("video_id", "category_id", "segmentations")}
    (tmp_path / "results.json").write_text(json.dumps([entry | {"score": 0.5}]))
    for number, score in ((0, 0.0), (1, 1.0)):
        truth["annotations"][0]["id"] = number
        (tmp_path / "annotations.json").write_text(json.dumps(truth))
        assert benchmark("ytvis").evaluate(tmp_path, tmp_path)["expected"]["AP"] == pytest.approx(score)


GT, FOUND = "annotations.json", "results.json"
MASK = (FOUND, 2, "segmentations", 0)
ENTRY, FRAME = "results.json, entry 2", "results.json, entry 2, segmentations[0]"
# Path of a value (file first), what it becomes, what the message says.
MUTATIONS = [
    ((FOUND,), {"results": []}, "results.json: expected a list"),
    ((FOUND, 2), [1, 2], ENTRY),
    ((FOUND, 2, "video_id"), 10**6, ENTRY),
    ((FOUND, 2, "video_id"), "3", ENTRY),
    ((FOUND, 2, "video_id"), DELETE, ENTRY),
    ((FOUND, 2, "category_id"), 999, ENTRY),
    ((FOUND, 2, "category_id"), None, ENTRY),
    ((FOUND, 2, "score"), float("nan"), ENTRY),
    ((FOUND, 2, "score"), float("inf"), ENTRY),
    ((FOUND, 2, "score"), 10**400, ENTRY),
    ((FOUND, 2, "score"), "0.5", ENTRY),
    ((FOUND, 2, "score"), True, ENTRY),
    ((FOUND, 2, "score"), DELETE, ENTRY),
    ((FOUND, 2, "segmentations"), DELETE, ENTRY),
    ((FOUND, 2, "segmentations"), [], ENTRY),
    ((FOUND, 2, "segmentations"), [None] * 99, ENTRY),
    ((FOUND, 2, "segmentations"), {"0": None}, ENTRY),
    (MASK, 7, FRAME),
    (MASK, "no RLE \u00e9", FRAME),
    (MASK, {"counts": "0"}, FRAME),
    (MASK, {"size": [32, 40]}, FRAME),
    (MASK, {"size": [40, 32], "counts": "P24"}, FRAME),
    (MASK, {"size": [32, 40], "counts": "04"}, FRAME),
    (MASK, {"size": [32, 40], "counts": "P2o"}, FRAME),
    (MASK, {"size": [32, 40], "counts": [5, -5, 1280]}, FRAME),
    (MASK, {"size": [32, 40], "counts": [5, 5]}, FRAME),
    (MASK, {"size": [32, 40], "counts": [1280.0]}, FRAME),
    (MASK, {"size": [32, 40], "counts": [2**70]}, FRAME),
    (MASK, [[0, 0, 1, 1]], FRAME),
    ((GT,), [], "annotations.json"),
    ((GT, "videos"), DELETE, "annotations.json: key 'videos'"),
    ((GT, "videos", 1, "id"), 6, "annotations.json, videos[1]"),
    ((GT, "videos", 1, "height"), 0, "annotations.json, videos[1]"),
    ((GT, "videos", 1, "width"), 10**9, "annotations.json, videos[1]"),
    ((GT, "videos", 1, "file_names"), 3, "annotations.json, videos[1]"),
    ((GT, "categories", 0, "id"), 40, "annotations.json, categories["),
    ((GT, "annotations", 1, "id"), 1, "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "video_id"), 77, "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "category_id"), 77, "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "areas"), [1], "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "areas", 0), -1, "annotations.json, annotations[1], areas[0]"),
    ((GT, "annotations", 1, "areas", 0), "many", "annotations.json, annotations[1], areas[0]"),
    ((GT, "annotations", 1, "iscrowd"), "no", "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "segmentations", 0), {"size": [9, 9], "counts": [81]}, "annotations[1], segmentations[0]"),
    ((GT, "annotations", 1, "occlusion"), DELETE, "annotations.json, annotations[1]"),
    ((GT, "annotations", 1, "occlusion", 0), "foggy", "annotations.json, annotations[1], occlusion[0]"),
    ((GT, "annotations", 1, "occlusion"), [None] * 3, "annotations.json, annotations[1]"),
]
TEXTS = [
    (lambda text: text[: len(text) // 2], "not valid JSON"),
    (lambda text: b"", "not valid JSON"),
    (lambda text: b"\xff\xfe" + text, "not valid JSON"),
    (lambda text: b"[" * 100_000, "not valid JSON"),
    (lambda text: text.replace(b'"video_id"', b'"video_id": 3, "video_id"', 1), "two values of key 'video_id'"),
    (None, "cannot be read"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A case of OVIS and the content of its files; video 3 is the first, 3 frames of 32 x 40."""
    folder = tmp_path_factory.mktemp("tiny")
    cases.write_tracks(
        folder, np.random.default_rng(1), with_occlusion=True, num_videos=2, size=(32, 40), num_frames=3, num_tracks=2
    )
    content = {name: json.loads((folder / name).read_text()) for name in (GT, FOUND)}
    content[GT]["videos"].sort(key=lambda video: video["id"], reverse=True)
    assert [video["id"] for video in content[GT]["videos"]] == [6, 3] and len(content[GT]["annotations"]) == 4
    return content


@pytest.mark.parametrize("path, value, message", MUTATIONS, ids=itertools.count())
def test_mutation(tiny, tmp_path, path, value, message):
    files = set_value(copy.deepcopy(tiny), path, value)
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    check_refused(lambda: benchmark("ovis").evaluate(tmp_path / FOUND, tmp_path / GT), message)


@pytest.mark.parametrize("name", [GT, FOUND])
@pytest.mark.parametrize("change, message", TEXTS, ids=itertools.count())
def test_broken_file(tiny, tmp_path, name, change, message):
    for each, content in tiny.items():
        (tmp_path / each).write_text(json.dumps(content))
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    check_refused(
        lambda: benchmark("ovis").evaluate(tmp_path / FOUND, tmp_path / GT), f"{name}: {message}"[:12], message
    )
