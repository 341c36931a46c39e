"""Cityscapes-VPS: the official numbers, made-up cases against the measure written out, and malformed files."""

import json

import numpy as np
import pytest

from tarvis_jax.evaluation.benchmarks.cityscapes_vps import WINDOWS, evaluate
from tests.evaluation import panoptic_cases, panoptic_oracles
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.mutations import DELETE, check_refused

SIZE = (20, 30)
GT, PRED = "gt/panpotic_gt_val_city_vps.json", "pred/pred.json"
TRUE_PNG, PRED_PNG = "gt/panoptic_video/0000_0001_town_final_mask.png", "pred/pan_pred/0000_0001_town.png"


def test_official_numbers(shared_dir):
    files.check_official(evaluate, shared_dir / "metrics/cityscapes_vps")


@pytest.mark.parametrize("seed", range(3))
def test_made_up_case(tmp_path, seed):
    panoptic_cases.write_cityscapes_vps(tmp_path, np.random.default_rng(seed), num_videos=2, size=SIZE)
    gt, guess = (json.loads((tmp_path / name).read_text()) for name in (GT, PRED))
    maps = [
        np.stack([panoptic_cases.read_ids(path) for path in sorted((tmp_path / name).glob("*.png"))])
        for name in ("gt/panoptic_video", "pred/pan_pred")
    ]
    lists = [[each["segments_info"] for each in content["annotations"]] for content in (gt, guess)]
    videos = [[each[start : start + 6] for each in (*maps, *lists)] for start in (0, 6)]
    is_thing = {each["id"]: each["isthing"] == 1 for each in gt["categories"]}
    tables = {window: panoptic_oracles.vpq_table(videos, window, is_thing) for window in WINDOWS.values()}
    found = evaluate(tmp_path / "pred", tmp_path / "gt")
    files.check_equal(found["per_window_frames"], {str(window): table for window, table in tables.items()})
    for name, mean in found["expected"]["VPQ_mean"].items():
        files.check_equal(mean, sum(table[name] for table in tables.values()) / 4)
        assert found["expected"]["VPQ_k"]["10"][name] == found["per_window_frames"]["3"][name]


def test_other_layouts(case, tmp_path):
    """The official tree (`val/panoptic_video`, the other spelling), and the file in place of the folder."""
    expected = evaluate(case / "pred", case / "gt")
    (tmp_path / "val").mkdir()
    (tmp_path / "val/panoptic_video").symlink_to(case / "gt/panoptic_video")
    (tmp_path / "panoptic_gt_val_city_vps.json").symlink_to(case / GT)
    assert evaluate(case / "pred", tmp_path) == expected
    assert evaluate(case / "pred", tmp_path / "panoptic_gt_val_city_vps.json") == expected


def test_no_class_of_a_group(case, tmp_path):
    """The official script divides by zero; here the group has no number and the others do."""
    stuff = files.change_json(GT, lambda gt: [each.update(isthing=0) for each in gt["categories"]])
    folder = files.spoiled(case, tmp_path, stuff)
    found = evaluate(folder / "pred", folder / "gt")["expected"]["VPQ_mean"]
    assert np.isnan(found["thing"]) and found["all"] == found["stuff"] > 0


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cityscapes_vps")
    panoptic_cases.write_cityscapes_vps(folder, np.random.default_rng(0), num_videos=1, size=SIZE)
    return folder


def repeat_segment(content) -> None:
    segments = content["annotations"][1]["segments_info"]
    segments.append(segments[0])


def add_segment(content) -> None:
    content["annotations"][1]["segments_info"].append({"id": 77_777, "category_id": 1})


def unlisted(content) -> None:
    del content["annotations"][1]["segments_info"][0]


def drop(key: str):
    return lambda content: content[key].pop()


SEGMENT = ("annotations", 1, "segments_info", 0)
WHERE = ("annotations[1]", "0000_0001_town")
MUTATIONS = {
    **{f"true PNG {what}": (make(TRUE_PNG), ("0000_0001_town",)) for what, make in files.RGB_MUTATIONS.items()},
    **{f"PNG {what}": (make(PRED_PNG), (PRED_PNG,)) for what, make in files.RGB_MUTATIONS.items()},
    **{f"truth {what}": (make(GT), ("city_vps.json",)) for what, make in files.JSON_MUTATIONS.items()},
    **{f"results {what}": (make(PRED), (PRED,)) for what, make in files.JSON_MUTATIONS.items()},
    "no folder of PNGs": (files.delete("gt/panoptic_video"), ("panoptic_video",)),
    "an annotation too few": (files.change_json(PRED, drop("annotations")), (PRED, "expected 6", "found 5")),
    "a true annotation too few": (files.change_json(GT, drop("annotations")), (GT, "expected 6", "found 5")),
    "five images": (files.change_json(GT, drop("images")), (GT, "6 images per video", "found 5")),
    "image twice": (files.set_json(GT, "images", 1, "id", "0000_0000_town"), (GT, "images[1]")),
    "image outside": (files.set_json(GT, "images", 1, "file_name", "../../x.png"), (GT, "leaves")),
    "annotation of another dataset": (files.set_json(PRED, "annotations", 1, "image_id", "x"), (PRED, "'x'")),
    "annotation twice": (
        files.set_json(PRED, "annotations", 1, "image_id", "0000_0000_town"),
        (PRED, "annotations[1]"),
    ),
    "annotation of another type": (files.set_json(PRED, "annotations", 1, "text"), (PRED, "annotations[1]")),
    "no annotations": (files.set_json(PRED, "annotations", DELETE), (PRED, "'annotations'")),
    "no segments": (files.set_json(PRED, "annotations", 1, "segments_info", DELETE), (PRED, "'segments_info'")),
    "PNG without JSON": (files.change_json(PRED, unlisted), (PRED_PNG, *WHERE, "no class")),
    "JSON without PNG": (
        files.change_json(PRED, add_segment),
        (PRED_PNG, *WHERE, "[77777] have a class and no pixels"),
    ),
    "id twice": (files.change_json(PRED, repeat_segment), (PRED, *WHERE, "twice")),
    "true id twice": (files.change_json(GT, repeat_segment), (GT, *WHERE, "twice")),
    "id of another type": (files.set_json(PRED, *SEGMENT, "id", 1.5), (PRED, *WHERE)),
    "id too high": (files.set_json(PRED, *SEGMENT, "id", 2**24), (PRED, *WHERE, str(2**24))),
    "negative id": (files.set_json(GT, *SEGMENT, "id", -1), (GT, *WHERE, "-1")),
    "unknown category": (files.set_json(PRED, *SEGMENT, "category_id", 19), (PRED, *WHERE, "19")),
    "unknown true category": (files.set_json(GT, *SEGMENT, "category_id", 19), (GT, *WHERE, "19")),
    "no category": (files.set_json(PRED, *SEGMENT, "category_id", None), (PRED, *WHERE)),
    "category twice": (files.set_json(GT, "categories", 1, "id", 0), (GT, "categories[1]")),
    "categories of another type": (files.set_json(GT, "categories", 3), (GT, "'categories'")),
    "isthing 2": (files.set_json(GT, "categories", 1, "isthing", 2), (GT, "categories[1]", "2")),
    "category too high": (files.set_json(GT, "categories", 1, "id", 10**9), (GT, "categories[1]")),
    "no area": (files.set_json(GT, *SEGMENT, "area", DELETE), (GT, *WHERE, "'area'")),
    "NaN area": (files.set_json(GT, *SEGMENT, "area", float("nan")), (GT, *WHERE, "nan")),
    "negative area": (files.set_json(GT, *SEGMENT, "area", -1), (GT, *WHERE, "-1")),
    "crowd of another kind": (files.set_json(GT, *SEGMENT, "iscrowd", 2), (GT, *WHERE, "2")),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_malformed(case, tmp_path, what):
    mutation, messages = MUTATIONS[what]
    folder = files.spoiled(case, tmp_path, mutation)
    check_refused(lambda: evaluate(folder / "pred", folder / "gt"), *messages)


def test_area_that_cannot_be(case, tmp_path):
    """The official script stops at an IoU above 1."""
    perfect = files.spoiled(case, tmp_path, lambda folder: None)
    content = json.loads((case / GT).read_text())
    content["annotations"] = [
        each | {"segments_info": [s | {"iscrowd": 0} for s in each["segments_info"] if s["area"]]}
        for each in content["annotations"]
    ]
    for image, annotation in zip(content["images"], content["annotations"], strict=True):
        ids = panoptic_cases.read_ids(case / "gt/panoptic_video" / annotation["file_name"])
        listed = [s["id"] for s in annotation["segments_info"]]
        panoptic_cases.write_ids(
            perfect / "pred/pan_pred" / f"{image['id']}.png", np.where(np.isin(ids, listed), ids, 0)
        )
    (perfect / PRED).write_text(json.dumps(content))
    (perfect / GT).write_text(json.dumps(content))
    assert evaluate(perfect / "pred", perfect / "gt")["expected"]["VPQ_k"]["0"]["all"] > 80
    content["annotations"][1]["segments_info"][0]["area"] = 1
    (perfect / GT).write_text(json.dumps(content))
    check_refused(lambda: evaluate(perfect / "pred", perfect / "gt"), GT, "0000_0000_town", "area of 1 ")
