"""Every dataset straight from its official download, and where downloads are looked for."""

import json
import shutil

import numpy as np
import pytest

from input_pipeline import batches, readers
from input_pipeline.config import DataConfig, dataset_config
from tests.input_pipeline import official_downloads, official_files
from tests.input_pipeline.official_downloads import WRITERS, expected_mask
from tests.input_pipeline.official_files import FRAMES

THREE_CLASSES = {"YOUTUBE_VIS": {"num_classes": 3}, "OVIS": {"num_classes": 3}}
# Instance ids of the two objects of `official_files`, and their classes.
OBJECTS = {
    "KITTI_STEP": {13 * 65536 + 300: 14, 11 * 65536 + 2: 12},
    "CITYSCAPES_VPS": {1: 14, 2: 12},
    "VIPSEG": {3: 61, 4: 64},
    "DAVIS": {1: 0, 2: 0},
    "BURST": {1: 0, 2: 0},
    "YOUTUBE_VIS": {11: 1, 12: 2},
    "OVIS": {11: 1, 12: 2},
}


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
    """All downloads side by side; tests must not change them."""
    root = tmp_path_factory.mktemp("downloads")
    for name, write in WRITERS.items():
        write(root / name)
    return root


def official(downloads, name, **overrides):
    return dataset_config(name, root=str(downloads / name), **THREE_CLASSES.get(name, {}), **overrides)


@pytest.mark.parametrize("name", WRITERS)
def test_training_records_hold_what_was_written(name, downloads):
    videos = readers.training_videos(official(downloads, name))
    video = videos[0]
    first, second = OBJECTS[name]
    assert {i: video.instances[i] for i in OBJECTS[name]} == OBJECTS[name]
    for t in range(FRAMES):
        visible = video.visible_ids(t)
        assert first in visible and (second in visible) == (t >= 1)
        # The void of the masks' borders and the band of VIPSeg cover a part of some objects.
        known = np.ones((official_files.HEIGHT, official_files.WIDTH), bool)
        if video.panoptic_maps:
            known = official_files.class_map(t) != 255
        if name == "VIPSEG":
            known &= official_downloads.vipseg_values(t) != 61
        for label, instance in ((1, first), (2, second)):
            found = video.instance_mask(t, instance)
            np.testing.assert_array_equal(found & known, expected_mask(t, label) & known)
        if video.panoptic_maps:
            expected = official_files.class_map(t)
            if name == "VIPSEG":
                values = official_downloads.vipseg_values(t).astype(int)
                void = np.isin(values, (0, 9, 61))  # a window (8) and a person (60) have no number
                expected = np.select([void, values >= 125], [255, values // 100 - 1], values - 1)
            np.testing.assert_array_equal(video.semantic_map(t), expected)


@pytest.mark.parametrize("name", WRITERS)
def test_evaluation_records(name, downloads):
    config = official(downloads, name)
    (video, *_) = readers.evaluation_videos(config, "val")
    assert video.num_frames == FRAMES
    if name in ("YOUTUBE_VIS", "OVIS"):
        with pytest.raises(ValueError, match="key 'annotations' is missing, expected a list of object tracks"):
            readers.ground_truth_videos(config, "val")
        return
    (truth, *_) = readers.ground_truth_videos(config, "val")
    assert truth.frame_paths == video.frame_paths and truth.id == video.id
    assert truth.annotated_frames == tuple(range(FRAMES))
    labels, ids = (truth.semantic_map(2), truth.id_map(2)) if truth.panoptic_maps else (None, truth.id_map(2))
    inside = expected_mask(2, 1) & (official_files.class_map(2) != 255)
    assert len(np.unique(ids[inside])) == 1 and ids[inside].all()
    if name == "VIPSEG":
        assert set(labels[-6:, 10:].ravel().tolist()) == {60}  # the official metric knows no missing numbers


def test_splits_have_other_names_in_downloads(downloads):
    (video,) = readers.evaluation_videos(official(downloads, "DAVIS"), "testdev")
    assert video.id == "car" and video.annotated_frames == (0,)
    with pytest.raises(ValueError, match="found the mask of one of its . frames alone"):
        readers.ground_truth_videos(official(downloads, "DAVIS"), "test-dev")
    assert len(readers.evaluation_videos(official(downloads, "BURST"), "test")) == 2


def test_cityscapes_vps_takes_every_fifth_frame(downloads, tmp_path):
    (video,) = readers.evaluation_videos(official(downloads, "CITYSCAPES_VPS"), "val")
    assert video.id == "3" and [path.name[17:23] for path in video.frame_paths] == [
        f"{95 + t:06d}" for t in range(5, 31, 5)
    ]
    dense = official(downloads, "CITYSCAPES_VPS", eval_frame_step=1)
    assert readers.evaluation_videos(dense, "val")[0].num_frames == 30
    with pytest.raises(ValueError, match=r"no annotation of the frames .* \(24 of 30; every fifth frame is annotated"):
        readers.ground_truth_videos(dense, "val")
    # Only the annotated frames, which have longer names in their own folder.
    official_downloads.cityscapes_vps(tmp_path, all_frames=False)
    few = dataset_config("CITYSCAPES_VPS", root=str(tmp_path))
    (truth,) = readers.ground_truth_videos(few, "val")
    assert truth.frame_names[0] == "0003_0005_frankfurt_000000_000100_newImg8bit"
    (tmp_path / "val/img" / truth.frame_paths[2].name).unlink()
    with pytest.raises(ValueError, match="1 of 6 files do not exist: .*frankfurt_000000_000110"):
        readers.evaluation_videos(few, "val")


def test_vipseg_without_its_own_maps_takes_a_thing_without_number_for_one_object(tmp_path):
    official_downloads.vipseg(tmp_path, numbered=False)
    (video,) = readers.training_videos(dataset_config("VIPSEG", root=str(tmp_path)))
    assert video.semantic_map(0)[-1, 20] == 60 and video.id_map(0)[-1, 20] == 2


def test_errors_of_panoptic_files(downloads, tmp_path):
    root = tmp_path / "KITTI_STEP"
    shutil.copytree(downloads / "KITTI_STEP", root)
    path = root / "panoptic_maps/train/0001/000002.png"
    bad = official_files.step_map(2)
    bad[0, 20, 0] = 19
    official_downloads._write(path, bad)
    with pytest.raises(ValueError, match=r"0001/000002.png: classes \[19\] are not in 0..18"):
        readers.training_videos(dataset_config("KITTI_STEP", root=str(root)))
    root = tmp_path / "CITYSCAPES_VPS"
    shutil.copytree(downloads / "CITYSCAPES_VPS", root)
    file = root / "panoptic_gt_train_city_vps.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["segments_info"][0]["category_id"] = 19
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotations\[1\]: segment \d+ of category_id 19: .* category in 0..18"):
        readers.training_videos(dataset_config("CITYSCAPES_VPS", root=str(root)))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda frame: frame["segments_info"].append(frame["segments_info"][0]), "segment 257 occurs twice"),
        (lambda frame: frame["segments_info"][0].update(id=2**24), "segment 16777216 .* an id in 1..16777215"),
        (lambda frame: frame.update(file_name="../../../frankfurt_000000_000100.png"), "leaves its root"),
        (lambda frame: frame.update(file_name="nowhere.png"), "expected a name with <city>"),
    ],
)
def test_hostile_segments(change, message, downloads, tmp_path):
    shutil.copytree(downloads / "CITYSCAPES_VPS", tmp_path / "vps")
    file = tmp_path / "vps/panoptic_gt_val_city_vps.json"
    content = json.loads(file.read_text())
    change(content["annotations"][0])
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        readers.ground_truth_videos(dataset_config("CITYSCAPES_VPS", root=str(tmp_path / "vps")), "val")
    assert str(file) in str(error.value)


def test_a_download_in_the_workspace_is_found(downloads, tmp_path):
    """A link of the name that the released workspace uses; what is released comes first, split by split."""
    (tmp_path / "official").mkdir()
    (tmp_path / "official/BURST").symlink_to(downloads / "BURST")
    config = dataset_config("BURST")
    assert len(readers.training_videos(config, str(tmp_path))) == 2
    released = official_files.burst(tmp_path / "dataset_images/training/burst")
    released["sequences"].pop()
    official_files.write_json(tmp_path / "dataset_annotations/training/burst.json", released)
    assert len(readers.training_videos(config, str(tmp_path))) == 1
    assert len(readers.evaluation_videos(config, "val", str(tmp_path))) == 2


def test_an_unknown_layout_is_told_with_what_was_looked_for(downloads, tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"OVIS, training: .* none of the official layouts") as error:
        readers.training_videos(dataset_config("OVIS", root=str(tmp_path)))
    assert f"\n  {tmp_path / 'annotations_train.json'}" in str(error.value)
    own = dataset_config("OVIS", root=str(tmp_path)).__class__("OWN", "youtube_vis", "instance", 2, root=str(tmp_path))
    with pytest.raises(ValueError, match="dataset OWN, root: official layouts are known of .*'BURST'"):
        readers.training_videos(own)
    with pytest.raises(ValueError, match="dataset OVIS, root: expected a folder at /no/such, but it does not exist"):
        readers.training_videos(dataset_config("OVIS", root="/no/such"))


def test_all_absent_datasets_are_told_at_once(tmp_path, downloads):
    (tmp_path / "official").mkdir()
    (tmp_path / "official/davis").symlink_to(downloads / "DAVIS")
    configs = [dataset_config(name) for name in ("OVIS", "DAVIS", "VIPSEG")]
    with pytest.raises(ValueError, match="2 of 3 datasets have no training files") as error:
        readers.require_training_files(configs, str(tmp_path))
    text = str(error.value)
    assert "to train on DAVIS alone" in text and "configs/" not in text and str(tmp_path / "official/ovis") in text
    assert str(tmp_path / "dataset_annotations/training/vipseg") in text
    unused = (dataset_config("OVIS", weight=0.0), dataset_config("DAVIS"))
    found = batches.read_videos(DataConfig(datasets=unused, workspace=str(tmp_path)))
    assert [len(videos) for videos in found] == [0, 1]
    with pytest.raises(ValueError, match="2 of 3 datasets have no training files"):
        batches.read_videos(DataConfig(datasets=tuple(configs), workspace=str(tmp_path)))
