"""Everything that is in the tree is read: training and inference parts, from the workspace and from the downloads.

The original's own loaders accept the same tree (tests/tools/original_loaders.py).
"""

import dataclasses

import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.batches import train_batches
from input_pipeline.config import dataset_config
from input_pipeline.targets import unpack_masks
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tests.rehearsal import recipes

TRAINING = {  # videos (or images that show a thing) and the numbers of their objects
    "COCO": {9: 5, 25: 1, 30: 30, 34: 1},
    "ADE20K": {"ADE_train_00000001": 3, "ADE_train_00000002": 2, "ADE_train_00000004": 12},
    "CITYSCAPES": {"aachen_000000_000019": 3, "zurich_000121_000019": 30},
    "MAPILLARY": {"0035fkbjWljhaftpVM37-g": 3, "00qclUcInksIYnm19b1Xfw": 6, "01aUCdtGMfpDdFkYXQa4Rw": 2},
    "YOUTUBE_VIS": {1: 3, 2: 2, 3: 2, 4: 3, 5: 0},
    "OVIS": {1: 30, 2: 3, 3: 2},
    "KITTI_STEP": {"0000": 3, "0001": 2, "0003": 1, "0020": 30},
    "CITYSCAPES_VPS": {"0001": 3, "0002": 2},
    "VIPSEG": {"0_wHveSGjXyDY": 3, "1_4xbPWFGvMTY": 1, "1001_3iEIq5HBY1s": 2, "2_-aGWJuMbI5c": 30, "3_empty": 0},
    "DAVIS": {"bear": 1, "bike-packing": 5, "shooting": 3, "short": 2},
    "BURST": {
        "YFCC100M/v_f69ebe5b731d3e87c1a3992ee39c3b7e": 5,
        "Charades/v_f69ebe5b731d3e87c1a3992ee39c3b7e": 30,
        "ArgoVerse/side_left_1": 2,
        "LaSOT/bird-1": 1,
    },
}
INFERENCE = {  # (videos, frames, given objects) of each split
    ("YOUTUBE_VIS", "val"): (2, 18, 0),
    ("OVIS", "val"): (2, 12, 0),
    ("KITTI_STEP", "val"): (9, 25, 0),
    ("CITYSCAPES_VPS", "val"): (2, 12, 0),
    ("VIPSEG", "val"): (2, 11, 0),
    ("VIPSEG", "test"): (2, 11, 0),
    ("DAVIS", "val"): (2, 20, 4),
    ("DAVIS", "testdev"): (1, 5, 2),
    ("BURST", "val"): (3, 49, 6),
    ("BURST", "test"): (3, 49, 6),
}


DOWNLOADED_IMAGES = {  # images and annotations
    "COCO": [("coco/train2017", "coco/annotations/panoptic_train2017.json", {})],
    "ADE20K": [
        ("ADEChallengeData2016/images/training", "ADEChallengeData2016/ade20k_panoptic_train.json", {}),
        (
            "ADEChallengeData2016/images/training",
            "ADEChallengeData2016/annotations_instance/training",
            {"reader": "ade20k_official"},
        ),
    ],
    "CITYSCAPES": [
        ("cityscapes/leftImg8bit/train", "cityscapes/gtFine/cityscapes_panoptic_train.json", {}),
        ("cityscapes/leftImg8bit/train", "cityscapes/gtFine/train", {}),
    ],
    "MAPILLARY": [("mapillary/training/images", "mapillary/training/panoptic/panoptic_2018.json", {})],
}


def official_configs(name, official):
    """The dataset's download in place of the workspace, in each form that has a reader."""
    if name in DOWNLOADED_IMAGES:
        return [
            dataset_config(name, train_images=str(official / images), train_annotations=str(official / file), **more)
            for images, file, more in DOWNLOADED_IMAGES[name]
        ]
    folder = {"YOUTUBE_VIS": "youtube_vis_2021", "VIPSEG": "VIPSeg", "DAVIS": "DAVIS"}.get(name, name.lower())
    return [dataset_config(name, root=str(official / folder))]


@pytest.mark.parametrize("name", TRAINING)
def test_training_videos(name, workspace):
    videos = readers.training_videos(dataset_config(name), workspace)
    assert {video.id: len(video.instances) for video in videos} == TRAINING[name]
    for video in videos:
        assert video.load_frame(0).shape == (video.height, video.width, 3)


@pytest.mark.parametrize("name", TRAINING)
def test_official_downloads_hold_the_same(name, tree):
    """Pixel by pixel: the objects of a class, and the classes; what an object is called may differ."""
    workspace, official = tree
    ours = readers.training_videos(dataset_config(name), str(workspace))
    for config in official_configs(name, official):
        theirs = {video.id: video for video in readers.training_videos(config, str(workspace))}
        assert len(theirs) >= len(ours)
        for video in ours:
            other = theirs[video.id]
            assert [path.name for path in video.frame_paths] == [path.name for path in other.frame_paths]
            t = video.num_frames - 1
            if name in DOWNLOADED_IMAGES:
                check_images(name, video, other)
                continue
            assert objects(video, t) == objects(other, t), video.where
            if config.task == "panoptic":
                assert np.array_equal(video.semantic_map(t), other.semantic_map(t)), video.where


def check_images(name, video, other):
    """Cityscapes' panoptic maps leave out what is not evaluated, and have no license plates; the rest is the same."""
    (classes, ids), (their_classes, their_ids) = video.panoptic_map(0), other.panoptic_map(0)
    same = classes == their_classes
    if name == "CITYSCAPES":
        same |= (classes == 255) | (their_classes == 255)
    assert same.all(), other.where
    known = (classes != 255) & (their_classes != 255)
    pairs = np.unique(ids[known].astype(np.int64) << 32 | their_ids[known])
    assert len(pairs) == len(np.unique(pairs >> 32)) == len(np.unique(pairs & 0xFFFFFFFF)), other.where


def objects(video, t):
    """(class, mask) of all objects in a frame."""
    return {(video.instances[i], video.instance_mask(t, i).tobytes()) for i in video.visible_ids(t)} - {
        (label, np.zeros((video.height, video.width), bool).tobytes()) for label in video.instances.values()
    }


@pytest.mark.parametrize(("name", "split"), INFERENCE)
def test_inference_videos(name, split, tree):
    workspace, official = tree
    released = readers.evaluation_videos(dataset_config(name), split, str(workspace))
    official_split = "test-dev" if split == "testdev" else split
    (config,) = official_configs(name, official)
    downloaded = readers.evaluation_videos(config, official_split, str(workspace))
    for videos in (released, downloaded):
        given = sum(len(video.first_frames()) for video in videos) if dataset_config(name).task == "exemplar" else 0
        assert (len(videos), sum(video.num_frames for video in videos), given) == INFERENCE[name, split]
        for video in videos:
            assert video.load_frame(video.num_frames - 1).shape == (video.height, video.width, 3)


@pytest.mark.parametrize(
    ("name", "split"), [pair for pair in INFERENCE if pair[1] == "val" and pair[0] not in ("YOUTUBE_VIS", "OVIS")]
)
def test_ground_truth_of_the_downloads(name, split, tree):
    """What the public servers keep to themselves (YouTube-VIS, OVIS) and test splits have none."""
    workspace, official = tree
    (config,) = official_configs(name, official)
    for video in readers.ground_truth_videos(config, split, str(workspace)):
        assert video.annotated_frames
        t = video.annotated_frames[0]
        if dataset_config(name).task == "panoptic":
            classes, ids = video.panoptic_map(t)
            assert len(np.unique(classes)) > 1 and ids.max() > 0
        else:
            assert any(video.visible_ids(frame) for frame in video.annotated_frames)


def distinct_datasets():
    """(recipe, dataset) once for each dataset that differs in more than weights."""
    seen = {}
    for recipe in sorted(recipes.NAMES, key=lambda name: "only" in name):
        for dataset in from_mapping(Config, recipes.config_of(recipe, "")).data.datasets:
            seen.setdefault(dataclasses.replace(dataset, weight=1.0, task_weights=()), (recipe, dataset.name))
    return sorted(seen.values())


@pytest.mark.parametrize(("recipe", "name"), distinct_datasets())
def test_batches(recipe, name, workspace):
    """Clips of the config's own length and sizes: each array is what the training step expects."""
    config = recipes.config_of(recipe, workspace)
    recipes.choose(config, name)
    config.data.chunk_steps = 1
    config = from_mapping(Config, config)
    (dataset,) = config.data.datasets
    stream = train_batches(config.data)
    for _ in range(6):
        info, batch = next(stream)
        assert info.dataset == name and info.task in dataset.task_shares
        check_batch(batch, info.task, dataset, config.data.clip_length)
    stream.close()


def check_batch(batch, task, dataset, clip_length):
    images, valid, classes = batch["images"][0], batch["valid_instances"][0], batch["classes"][0]
    frames, height, width, _ = images.shape
    assert (frames, images.dtype) == (clip_length, np.uint8) and not (height % 32 or width % 32)
    masks = unpack_masks(batch, len(valid))[0]
    assert masks.shape == (len(valid), frames, height, width)
    assert valid.any() and (masks.any(axis=(1, 2, 3)) == valid).all()
    assert images.std() > 1
    if task == "exemplar":
        t = int(batch["reference_frame"][0])
        for mask, (y, x) in zip(masks[valid], batch["points_yx"][0][valid], strict=True):
            assert mask[t, int(y * height), int(x * width)]
        assert not classes.any()
    else:
        assert ((classes >= 1) & (classes <= dataset.num_classes)).tolist() == valid.tolist()
    if task == "panoptic":
        found = set(np.unique(batch["class_map"]).tolist())
        assert len(found) > 1 and found <= {*range(dataset.num_classes), 255}
