"""VIPSeg: the official numbers, made-up cases against the measures written out, and malformed files."""

import json

import numpy as np
import pytest

from tarvis_jax.evaluation.benchmarks.vipseg import WINDOWS, evaluate
from tests.evaluation import panoptic_cases, panoptic_oracles
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.mutations import DELETE, check_refused

SIZE = (20, 30)
GT, PRED = "gt/panoptic_gt_VIPSeg_val.json", "pred/pred.json"
TRUE_PNG, PRED_PNG = "gt/panomasksRGB/1_x/00000000.png", "pred/pan_pred/1_x/00000000.png"


def test_official_numbers(shared_dir):
    files.check_official(evaluate, shared_dir / "metrics/vipseg")


def read(folder, side: str, video: str) -> tuple[np.ndarray, list]:
    """Ids [N, H, W] of a video, and its records by frame."""
    name, maps = (GT, "panomasksRGB") if side == "gt" else (PRED, "pan_pred")
    videos = {each["video_id"]: each for each in json.loads((folder / name).read_text())["annotations"]}
    ids = [panoptic_cases.read_ids(path) for path in sorted((folder / side / maps / video).glob("*.png"))]
    return np.stack(ids), [each["segments_info"] for each in videos[video]["annotations"]]


def stq_maps(ids: np.ndarray, lists: list) -> list[np.ndarray]:
    """Classes and numbers as the official script makes them: what a frame does not list is void."""
    order = list(dict.fromkeys(record["id"] for frame in lists for record in frame))
    classes, numbers = np.full(ids.shape, 255), np.full(ids.shape, 255)
    for frame, records in enumerate(lists):
        for record in records:
            classes[frame][ids[frame] == record["id"]] = record["category_id"]
            numbers[frame][ids[frame] == record["id"]] = order.index(record["id"])
    return [classes, numbers]


@pytest.mark.parametrize("seed", range(3))
def test_made_up_case(tmp_path, seed):
    panoptic_cases.write_vipseg(tmp_path, np.random.default_rng(seed), num_videos=3, num_frames=9, size=SIZE)
    names = ["0_x", "1_x", "2_x"]
    sides = [(read(tmp_path, "gt", name), read(tmp_path, "pred", name)) for name in names]
    is_thing = {each["id"]: each["isthing"] == 1 for each in json.loads((tmp_path / GT).read_text())["categories"]}
    found = evaluate(tmp_path / "pred", tmp_path / "gt")

    videos = [(true_ids, ids, true_lists, lists) for (true_ids, true_lists), (ids, lists) in sides]
    tables = {str(window): panoptic_oracles.vpq_table(videos, window, is_thing) for window in WINDOWS}
    files.check_equal(found["vpq_per_window_frames"], tables)
    for windows, name in ((WINDOWS, "official_script (windows 1,2,4,6,8)"), (WINDOWS[:4], "paper (windows 1,2,4,6)")):
        mean = {key: np.mean([tables[str(w)][key] for w in windows]) for key in ("all", "thing", "stuff")}
        files.check_equal(found["expected"][f"VPQ_mean_{name}"], mean)

    things = [label for label, thing in is_thing.items() if thing]
    videos = [stq_maps(*truth) + stq_maps(*guess) for truth, guess in sides]
    per_video = [panoptic_oracles.stq([video], 124, things) for video in videos]
    files.check_equal(found["stq_per_sequence"], dict(zip(names, per_video, strict=True)))
    total = panoptic_oracles.stq(videos, 124, things)
    files.check_equal(
        {key: found["expected"][key] for key in ("STQ", "AQ", "SQ")}, {k: total[k] for k in ("STQ", "AQ", "SQ")}
    )


def test_short_videos(case):
    """No video has eight frames: that window has no number, nor have means with it."""
    found = evaluate(case / "pred", case / "gt")["expected"]
    assert np.isnan(found["VPQ_window"]["8"]["all"]) and found["VPQ_window"]["1"]["all"] >= 0
    assert np.isnan(found["VPQ_mean_paper (windows 1,2,4,6)"]["all"]) and found["SQ"] > 0


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vipseg")
    panoptic_cases.write_vipseg(folder, np.random.default_rng(0), num_videos=2, num_frames=2, size=SIZE)
    return folder


def add_segment(content) -> None:
    content["annotations"][0]["annotations"][0]["segments_info"].append({"id": 77_777, "category_id": 1})


def unlisted(content) -> None:
    del content["annotations"][0]["annotations"][0]["segments_info"][0]


def repeat_segment(content) -> None:
    segments = content["annotations"][0]["annotations"][0]["segments_info"]
    segments.append(segments[0])


def drop_frame(content) -> None:
    content["annotations"][0]["annotations"].pop()


FRAME = ("annotations", 0, "annotations", 0)  # results list the last video first
SEGMENT = (*FRAME, "segments_info", 0)
WHERE = (PRED, "video 1_x, frame 0 (00000000.png)")
MUTATIONS = {
    **{f"true PNG {what}": (make(TRUE_PNG), ("1_x/00000000.png",)) for what, make in files.RGB_MUTATIONS.items()},
    **{f"PNG {what}": (make(PRED_PNG), (PRED_PNG,)) for what, make in files.RGB_MUTATIONS.items()},
    **{f"truth {what}": (make(GT), (GT,)) for what, make in files.JSON_MUTATIONS.items()},
    **{f"results {what}": (make(PRED), (PRED,)) for what, make in files.JSON_MUTATIONS.items()},
    "no results of a video": (files.set_json(PRED, "annotations", 0, DELETE), (PRED, "1_x")),
    "results of another dataset": (files.set_json(PRED, "annotations", 0, "video_id", "other"), (PRED, "1_x")),
    "video twice": (files.set_json(PRED, "annotations", 0, "video_id", "0_x"), (PRED, "0_x")),
    "true video twice": (files.set_json(GT, "videos", 1, "video_id", "0_x"), (GT, "0_x")),
    "video id of another type": (files.set_json(PRED, "annotations", 0, "video_id", 5), (PRED, "annotations[0]")),
    "video outside": (files.change_json(GT, lambda gt: gt["videos"][0].update(video_id="../..")), (GT,)),
    "no PNGs of a video": (files.delete("pred/pan_pred/1_x"), (PRED_PNG,)),
    "frame too few": (files.change_json(PRED, drop_frame), (PRED, "1_x", "expected 1 frames, found 0")),
    "true frame too few": (files.change_json(GT, drop_frame), (GT, "0_x", "expected 2 frames, found 1")),
    "no videos": (files.set_json(GT, "videos", []), (GT, "'videos'")),
    "no images": (files.set_json(GT, "videos", 0, "images", []), (GT, "0_x")),
    "PNG without JSON": (files.change_json(PRED, unlisted), (PRED_PNG, *WHERE, "no class")),
    "JSON without PNG": (
        files.change_json(PRED, add_segment),
        (PRED_PNG, *WHERE, "[77777] have a class and no pixels"),
    ),
    "id twice": (files.change_json(PRED, repeat_segment), (*WHERE, "twice")),
    "unknown category": (files.set_json(PRED, *SEGMENT, "category_id", 124), (*WHERE, "124")),
    "category too high": (files.set_json(GT, "categories", 0, "id", 124), (GT, "124")),
    "true category is text": (files.set_json(GT, *SEGMENT, "category_id", "1"), (GT, "video 0_x, frame 0")),
    "infinite area": (files.set_json(GT, *SEGMENT, "area", float("inf")), (GT, "video 0_x, frame 0", "inf")),
    "frame of another type": (files.set_json(PRED, *FRAME, []), WHERE),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_malformed(case, tmp_path, what):
    mutation, messages = MUTATIONS[what]
    folder = files.spoiled(case, tmp_path, mutation)
    check_refused(lambda: evaluate(folder / "pred", folder / "gt"), *messages)
