"""The drawn videos, and the four formats they are written in, read back with independent readers."""

import dataclasses
import hashlib
import json
import pathlib
import time

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
from PIL import Image

from input_pipeline import readers as datasets
from input_pipeline.config import DataConfig, SyntheticConfig, dataset_config
from input_pipeline.synthetic import Preparation, main, write_synthetic_workspace
from input_pipeline.synthetic_scenes import THINGS, draw_video

SIZE = (48, 80)
ARGUMENTS = dict(num_train=2, num_val=2, num_frames=5, height=SIZE[0], width=SIZE[1], seed=3)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return write_synthetic_workspace(tmp_path_factory.mktemp("synthetic") / "data", **ARGUMENTS)


def digest(root: pathlib.Path) -> dict[str, str]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def drawn(dataset: int, seed: int):
    return draw_video((dataset, seed), 5, *SIZE)


def decode(counts: str) -> np.ndarray:
    return coco_mask.decode({"size": list(SIZE), "counts": counts.encode()}).astype(bool)


def test_video_shapes_and_ids():
    video = draw_video(0, 7, 64, 96)
    assert video.frames.shape == (7, 64, 96, 3) and video.frames.dtype == np.uint8
    assert video.id_map.shape == video.stuff_map.shape == (7, 64, 96)
    assert set(np.unique(video.id_map)) <= set(range(len(video.classes) + 1))
    assert set(np.unique(video.stuff_map)) <= {0, 1, 2}
    assert all(1 <= c <= len(THINGS) for c in video.classes)


def test_videos_vary_and_every_object_shows():
    videos = [draw_video((9, i), 8, 64, 96) for i in range(40)]
    assert {len(v.classes) for v in videos} == {1, 2, 3, 4, 5}
    assert {c for v in videos for c in v.classes} == {1, 2, 3, 4}
    assert all(v.areas[:, 1:].max(axis=0).min() >= v.min_visible_area for v in videos)
    assert all(v.areas[0, 1:].max() >= v.min_visible_area for v in videos)
    first = [np.argmax(v.areas[:, 1:] > 0, axis=0) for v in videos]
    assert all((np.diff(f) >= 0).all() for f in first), "ids follow the order of first appearance"
    assert sum((f > 0).sum() for f in first) >= 5, "some objects appear later"
    assert sum((v.areas[-1, 1:] == 0).sum() for v in videos) >= 3, "some leave"


def test_objects_look_like_their_masks():
    """Pixels inside and outside a mask's border differ more than neighboring pixels elsewhere."""
    ratios = []
    for seed in range(10):
        video = draw_video((1, seed), 3, 64, 96)
        step = np.abs(np.diff(video.frames.astype(int), axis=2)).sum(axis=-1)
        border = np.diff(video.id_map.astype(int), axis=2) != 0
        ratios.append(step[border].mean() / step[~border].mean())
    assert np.mean(ratios) > 2


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="16x16 or more, found 3 of 8x96"):
        draw_video(0, 3, 8, 96)


def test_same_arguments_same_files(workspace, tmp_path):
    names = [f"--{name.replace('_', '-')}={value}" for name, value in ARGUMENTS.items()]
    main([str(tmp_path / "again"), *names])
    assert digest(tmp_path / "again") == digest(workspace)
    other = write_synthetic_workspace(tmp_path / "other", **{**ARGUMENTS, "seed": 4})
    a, b = digest(workspace), digest(other)
    held_out = [name for name in a if "inference" in name]
    assert held_out and all(a[name] == b[name] for name in held_out)
    training = "dataset_annotations/training/youtube_vis_2021.json"
    assert a[training] != b[training]


def test_complete_folder_is_kept_and_another_refused(workspace, tmp_path):
    before = digest(workspace)
    assert write_synthetic_workspace(workspace, **ARGUMENTS) == workspace and digest(workspace) == before
    with pytest.raises(ValueError, match="expected an empty folder or the data of"):
        write_synthetic_workspace(workspace, **{**ARGUMENTS, "num_val": 3})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="no complete synthetic data"):
        write_synthetic_workspace(tmp_path, **ARGUMENTS)


def test_preparation_beside_something_else(workspace, tmp_path):
    """The same files by another process, or nothing where somebody does not wait for them."""
    data = DataConfig()
    small = SyntheticConfig(**ARGUMENTS)
    with Preparation(data, small, tmp_path / "a") as preparation:
        found = preparation.finish()
    assert found == dataclasses.replace(data, workspace=str(tmp_path / "a" / "data"))
    assert digest(tmp_path / "a" / "data") == digest(workspace)
    with Preparation(data, small, tmp_path / "a") as preparation:  # they are there: no process
        assert preparation.finish() == found
    with pytest.raises(ValueError, match="expected an empty folder or the data of"):
        Preparation(data, dataclasses.replace(small, num_train=3), tmp_path / "a")

    (tmp_path / "b").mkdir()
    with (
        pytest.raises(KeyboardInterrupt),
        Preparation(data, dataclasses.replace(small, num_train=10**5), tmp_path / "b"),
    ):
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("b/data.part/**/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(tmp_path.glob("b/data.part/**/*.jpg"))
        raise KeyboardInterrupt
    assert list((tmp_path / "b").iterdir()) == []

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file/data: the videos could not be written .*Not a directory"):
        with Preparation(data, small, tmp_path / "file") as preparation:
            preparation.finish()


def test_held_out_videos_are_not_training_videos(tmp_path):
    with pytest.raises(ValueError, match=r"share seeds: 3\.\.4 and 4\.\.5"):
        write_synthetic_workspace(tmp_path / "x", **ARGUMENTS, val_seed=4)


@pytest.mark.parametrize("split, seed", [("train", 3), ("val", 10**6)])
def test_youtube_vis_files(workspace, split, seed):
    file, folder = {
        "train": ("training/youtube_vis_2021.json", "training"),
        "val": ("inference/youtube_vis/valid_2021.json", "inference"),
    }[split]
    content = json.loads((workspace / "dataset_annotations" / file).read_text())
    assert [c["name"] for c in content["categories"]] == list(THINGS)
    for index, entry in enumerate(content["videos"]):
        video = drawn(0, seed + index)
        tracks = [a for a in content["annotations"] if a["video_id"] == entry["id"]]
        assert [a["category_id"] for a in tracks] == list(video.classes)
        for t, name in enumerate(entry["file_names"]):
            image = cv2.imread(str(workspace / "dataset_images" / folder / "youtube_vis_2021" / name))[..., ::-1]
            assert np.abs(image.astype(int) - video.frames[t]).mean() < 8, "JPEG"
            for instance, track in enumerate(tracks, start=1):
                mask = video.id_map[t] == instance
                if not mask.any():
                    assert track["segmentations"][t] is track["bboxes"][t] is track["areas"][t] is None
                    continue
                np.testing.assert_array_equal(decode(track["segmentations"][t]["counts"]), mask)
                assert track["areas"][t] == mask.sum()
                ys, xs = np.nonzero(mask)
                box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
                assert track["bboxes"][t] == box


def test_kitti_step_training_json(workspace):
    content = json.loads((workspace / "dataset_annotations/training/kitti_step.json").read_text())
    for index, sequence in enumerate(content["sequences"]):
        video = drawn(1, 3 + index)
        assert sequence["categories"] == {str(i): c + 2 for i, c in enumerate(video.classes, start=1)}
        for t, name in enumerate(sequence["image_paths"]):
            image = cv2.imread(str(workspace / "dataset_images/training/kitti_step" / name))[..., ::-1]
            np.testing.assert_array_equal(image, video.frames[t])
            covered = np.zeros(SIZE, int)
            for label, counts in sequence["semantic_segmentations"][t].items():
                mask = decode(counts)
                covered += mask
                if int(label) < 3:
                    np.testing.assert_array_equal(mask, (video.stuff_map[t] == int(label)) & (video.id_map[t] == 0))
            assert (covered == 1).all(), "every pixel has one class"
            for instance, counts in sequence["segmentations"][t].items():
                np.testing.assert_array_equal(decode(counts), video.id_map[t] == int(instance))


def test_kitti_step_held_out_maps(workspace):
    video = drawn(1, 10**6)
    for t in range(5):
        path = workspace / f"dataset_annotations/inference/kitti_step_val/0000/{t:06d}.png"
        red, green, blue = np.moveaxis(np.array(Image.open(path)), -1, 0)
        np.testing.assert_array_equal(blue, video.id_map[t])
        assert not green.any()
        np.testing.assert_array_equal(red[blue == 0], video.stuff_map[t][blue == 0])
        for instance, label in enumerate(video.classes, start=1):
            assert (red[blue == instance] == label + 2).all()


@pytest.mark.parametrize("split, seed", [("train", 3), ("val", 10**6)])
def test_davis_folder_holds_the_objects_of_the_first_frame(workspace, split, seed):
    root = workspace / "davis"
    names = (root / f"ImageSets/2017/{split}.txt").read_text().split()
    for index, name in enumerate(names):
        video = drawn(2, seed + index)
        given = [i for i in range(1, len(video.classes) + 1) if video.areas[0, i] >= video.min_visible_area]
        for t in range(5):
            image = Image.open(root / f"Annotations/480p/{name}/{t:05d}.png")
            assert image.mode == "P" and image.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
            ids = np.array(image)
            for new, old in enumerate(given, start=1):
                np.testing.assert_array_equal(ids == new, video.id_map[t] == old)
            assert ids.max() <= len(given)
            assert (root / f"JPEGImages/480p/{name}/{t:05d}.jpg").is_file()


def test_burst_prompts_lie_in_their_objects(workspace):
    folder = workspace / "dataset_annotations/inference/burst"
    truth = json.loads((folder / "all_classes_val.json").read_text())["sequences"]
    prompts = json.loads((folder / "first_frame_annotations_val.json").read_text())["sequences"]
    for index, (sequence, given) in enumerate(zip(truth, prompts, strict=True)):
        video = drawn(3, 10**6 + index)
        seen = set()
        for t in range(5):
            for track, entry in given["segmentations"][t].items():
                assert track not in seen, "one prompt per track"
                seen.add(track)
                mask = decode(entry["rle"])
                assert mask[entry["point"]["y"], entry["point"]["x"]] and mask.sum() >= video.min_visible_area
                assert entry["rle"] == sequence["segmentations"][t][track]["rle"]
            assert set(sequence["segmentations"][t]) <= seen, "no track before its prompt"
            for track, entry in sequence["segmentations"][t].items():
                np.testing.assert_array_equal(decode(entry["rle"]), video.id_map[t] == int(track))
        assert seen == set(sequence["track_category_ids"])


@pytest.mark.parametrize(
    "name, overrides",
    [
        ("YOUTUBE_VIS", {"num_classes": 4}),
        ("KITTI_STEP", {"num_classes": 7, "thing_classes": (3, 4, 5, 6)}),
        ("DAVIS", {}),
        (
            "DAVIS",
            {"reader": "davis_official", "train_images": "davis", "eval_images": "davis", "train_annotations": "train"},
        ),
        ("BURST", {"min_mask_area": 1}),
    ],
)
def test_the_readers_read_it(workspace, name, overrides):
    config = dataset_config(name, **overrides)
    for videos in (
        datasets.training_videos(config, str(workspace)),
        datasets.ground_truth_videos(config, "val", str(workspace)),
    ):
        assert len(videos) == 2
        for video in videos:
            assert (video.num_frames, video.height, video.width) == (5, *SIZE)
            assert video.load_frame(4).shape == (*SIZE, 3)
            ids = video.panoptic_map(0)[1] if name == "KITTI_STEP" else video.id_map(0)
            assert ids.max() >= 1
