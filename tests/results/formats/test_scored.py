"""The evaluators accept the files: ground truth written as results has the best score, and a rewritten file its own."""

import dataclasses
import json

import numpy as np
import pytest

from tarvis_jax.datasets import DATASETS
from tarvis_jax.evaluation.benchmarks import benchmark
from tarvis_jax.masks import rle
from tarvis_jax.results import formats, png_files
from tarvis_jax.results.formats import Options
from tests.results.formats import cases

CATEGORIES = [{"id": i, "name": str(i), "isthing": int(i == 4)} for i in range(5)]
OPTIONS = Options(thing_classes=(4,))


def test_track_ap(tmp_path):
    """A JSON of truth, made apart from the writer, with two objects of one class that do not overlap."""
    videos = [cases.instances(7, ids=(1, 2, 3)), cases.instances(12, ids=(1, 2, 3), seed=1)]
    listed, annotations = [], []
    for video in videos:
        names = [f"v/{name}.jpg" for name in video.frame_names]
        listed.append({"id": video.id, "height": cases.SIZE[0], "width": cases.SIZE[1], "file_names": names})
        for track in video.load().tracks:
            areas = [None if mask is None else rle.area(mask) for mask in track.segmentations]
            entry = {"id": len(annotations) + 1, "video_id": video.id, "category_id": track.class_id, "iscrowd": 0}
            entry |= {"segmentations": track.segmentations, "areas": areas, "bboxes": [None] * len(areas)}
            annotations.append(entry | {"occlusion": [area and "no_occlusion" for area in areas]})
    gt = tmp_path / "annotations.json"
    categories = [{"id": i, "name": str(i)} for i in (1, 2)]
    gt.write_text(json.dumps({"videos": listed, "annotations": annotations, "categories": categories}))
    for name in ("ytvis", "ovis"):
        results, _ = formats.module(name).write(tmp_path / name, videos, Options(annotations=gt))
        scores = benchmark(name).evaluate(results, gt)["expected"]
        assert scores["AP"] == scores["AP75"] == 1 and scores["AR10"] == 1


def test_track_hota(tmp_path):
    video = cases.objects("LaSOT/cat-1")
    sequence = {"id": 1, "dataset": "LaSOT", "seq_name": "cat-1", "height": cases.SIZE[0], "width": cases.SIZE[1]}
    sequence |= {"fps": 30, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    names = [f"{name}.jpg" for name in video.frame_names]
    sequence |= {"all_image_paths": names, "annotated_image_paths": names[::2]}
    sequence["track_category_ids"] = {"1": 805, "2": 81, "7": 81}
    tracks = video.load().tracks
    frames = [
        {str(t.id): {"rle": t.segmentations[f]["counts"]} for t in tracks if t.segmentations[f]} for f in (0, 2, 4)
    ]
    content = {"sequences": [sequence | {"segmentations": frames}], "split": "val"}
    content["categories"] = [{"id": i, "name": str(i)} for i in (81, 805)]
    gt = tmp_path / "all_classes.json"
    gt.write_text(json.dumps(content))
    (results,) = formats.module("burst").write(tmp_path / "out", [video], Options(annotations=gt))
    written = json.loads(results.read_text())
    assert [len(frame) for frame in written["sequences"][0]["segmentations"]] == [len(frame) for frame in frames]
    assert written["split"] == "val" and written["sequences"][0]["annotated_image_paths"] == names[::2]
    scores = benchmark("burst").evaluate(results, gt)["expected"]
    assert {scores[key]["all"] for key in ("HOTA", "DetA", "AssA", "AP")} == {100.0}


@pytest.mark.parametrize(("name", "key"), [("davis2017", "J&F-Mean"), ("kitti_step", "STQ")])
def test_png_per_frame(name, key, tmp_path):
    """The truth of these is in the form of the results."""
    if name == "davis2017":  # the highest id is in the first frame, the last track is not
        videos = [cases.objects(video, ids=(1, 3, 2), seed=i) for i, video in enumerate("ab")]
    else:
        videos = [cases.panoptic(video, thing=11, num_classes=12, seed=i) for i, video in enumerate("ab")]
    out, *_ = formats.module(name).write(tmp_path / "out", videos, Options(thing_classes=(11,)))
    assert benchmark(name).evaluate(out, out)["expected"][key] == 1


def test_cityscapes_vps(tmp_path):
    """Frames of all_images, of which every second is annotated, and in another order of the videos."""
    videos, images = [], []
    for i, video in enumerate(("0010", "0005")):
        whole = cases.panoptic(video, seed=i)
        result = whole.load()
        tracks = [dataclasses.replace(t, segmentations=np.repeat(t.segmentations, 2).tolist()) for t in result.tracks]
        semantic = [frame for frame in result.semantic for _ in range(2)]
        names = tuple(f"aachen_{int(video):06d}_{t:06d}_leftImg8bit" for t in range(2 * cases.NUM_FRAMES))
        result = dataclasses.replace(result, num_frames=len(names), tracks=tracks, semantic=semantic)
        videos.append(cases.video_of(video, result, names))
        for t, name in enumerate(names[::2]):
            image = {"id": f"{video}_{t:04d}_{name[:20]}", "height": cases.SIZE[0], "width": cases.SIZE[1]}
            images.append(image | {"file_name": f"{video}_{t:04d}_{name[:20]}_newImg8bit.png"})
    images.sort(key=lambda image: image["id"])
    gt = tmp_path / "gt"
    (gt / "panoptic_video").mkdir(parents=True)
    path = gt / "panoptic_gt_val_city_vps.json"
    path.write_text(json.dumps({"images": images}))
    (out,) = formats.module("cityscapes_vps").write(
        tmp_path / "out", videos, dataclasses.replace(OPTIONS, annotations=path)
    )
    pred = json.loads((out / "pred.json").read_text())
    assert [each["image_id"] for each in pred["annotations"]] == [image["id"] for image in images]
    path.write_text(json.dumps({"images": images, "categories": CATEGORIES, "annotations": pred["annotations"]}))
    for image in images:
        name = image["file_name"].replace("_newImg8bit", "_final_mask")
        (gt / "panoptic_video" / name).write_bytes((out / "pan_pred" / f"{image['id']}.png").read_bytes())
    assert benchmark("cityscapes_vps").evaluate(out, gt)["expected"]["VPQ_mean"]["all"] == 100
    with pytest.raises(ValueError, match=r"6 of 12 frames of .*panoptic_gt_val_city_vps.json have no result: \['0005_"):
        formats.module("cityscapes_vps").write(
            tmp_path / "other", videos[:1], dataclasses.replace(OPTIONS, annotations=path)
        )


def test_vipseg_and_vspw(tmp_path):
    videos = [cases.panoptic(video, seed=i, void=False) for i, video in enumerate(("1_a", "2_b"))]
    (out,) = formats.module("vipseg").write(tmp_path / "out", videos, OPTIONS)
    pred = json.loads((out / "pred.json").read_text())["annotations"]
    size = {"height": cases.SIZE[0], "width": cases.SIZE[1]}
    listed = [
        {
            "video_id": each["video_id"],
            "images": [{"id": a["image_id"], "file_name": a["file_name"], **size} for a in each["annotations"]],
        }
        for each in pred
    ]
    gt = tmp_path / "gt"
    gt.mkdir()
    content = {"videos": listed, "annotations": pred, "categories": CATEGORIES}
    (gt / "panoptic_gt_VIPSeg_val.json").write_text(json.dumps(content))
    (gt / "panomasksRGB").symlink_to(out / "pan_pred")
    scores = benchmark("vipseg").evaluate(out, gt)["expected"]
    assert scores["VPQ_mean_paper (windows 1,2,4,6)"]["all"] == 100 and scores["STQ"] == 1

    options = dataclasses.replace(OPTIONS, annotations=gt / "panoptic_gt_VIPSeg_val.json")
    assert formats.module("vipseg").write(out, videos, options) == [out]
    with pytest.raises(ValueError, match=r"1 of 2 videos of .* have no result: \['2_b'\]"):
        formats.module("vipseg").write(tmp_path / "other", videos[:1], options)

    (classes,) = formats.module("vspw").write(tmp_path / "classes", videos, OPTIONS)
    truth = tmp_path / "vspw"
    for video in videos:
        folder = truth / "data" / video.id / "mask"
        folder.mkdir(parents=True)
        for frame, name in enumerate(video.frame_names):
            values = video.load().semantic_map(frame) + 1  # VSPW's own masks count from 1
            png_files.save_png(folder / f"{name}.png", values.astype(np.uint8))
    (truth / "val.txt").write_text("1_a\n2_b\n")
    assert benchmark("vspw").evaluate(classes, truth)["expected"]["mIoU"] == 1


@pytest.mark.parametrize(("name", "dataset"), [("davis2017", "DAVIS"), ("kitti_step", "KITTI_STEP")])
def test_rewritten_files_have_the_official_score(name, dataset, tmp_path, shared_dir):
    case, module, scorer = shared_dir / "metrics" / name, formats.module(name), benchmark(name)
    options = Options(thing_classes=DATASETS[dataset].spec.thing_classes)
    out, *_ = module.write(tmp_path / "out", module.read(case / scorer.CASE["results"], options), options)
    expected = json.loads((case / "expected.json").read_text())["expected"]
    found = scorer.evaluate(out, case / scorer.CASE["gt"])["expected"]
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "dataset", "annotations"),
    [
        ("burst", "BURST", "results.json"),
        ("cityscapes_vps", "CITYSCAPES_VPS", "gt/panpotic_gt_val_city_vps.json"),
        ("vipseg", "VIPSEG", "gt/panoptic_gt_VIPSeg_val.json"),
    ],
)
def test_files_of_other_software_are_kept(name, dataset, annotations, tmp_path, shared_dir):
    """But for empty masks, and ids of segments: one with two classes becomes two tracks."""
    case, module = shared_dir / "metrics" / name, formats.module(name)
    options = Options(thing_classes=DATASETS[dataset].spec.thing_classes, annotations=case / annotations)
    given = list(module.read(case / benchmark(name).CASE["results"], options))
    module.write(tmp_path / "out", given, options)
    back = {video.id: video for video in module.read(tmp_path / "out", options)}
    assert len(back) == len(given) > 1
    for video in given:
        present = {each.id for each in video.load().tracks if any(mask is not None for mask in each.segmentations)}
        expected, found = cases.content(video), cases.content(back[video.id])
        for key in ("classes", "scores", "masks"):
            expected[key] = {i: each for i, each in expected[key].items() if i in present}
        expected["scores"] = pytest.approx(expected["scores"])
        assert found == expected
