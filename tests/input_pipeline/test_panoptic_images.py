"""Readers of images with panoptic maps: the released tree, the official downloads, and what is wrong with files."""

import json
import pathlib
import shutil

import cv2
import numpy as np
import pytest

from input_pipeline import images, readers
from input_pipeline.config import dataset_config
from tests.input_pipeline import panoptic_files

SAMPLES = pathlib.Path(__file__).resolve().parents[2].parent / "shared/samples"
# The class of `panoptic_files.layout` (0, 1 stuff; 2 things) in each dataset.
CLASSES = {"COCO": (80, 132, 79), "ADE20K": (0, 2, 149), "CITYSCAPES": (7, 23, 26), "MAPILLARY": (2, 27, 55)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return panoptic_files.workspace(tmp_path_factory.mktemp("images"))


def check_maps(video, labels, tolerance=0):
    """The maps of a record are those of `panoptic_files.layout`."""
    classes, instances = video.panoptic_map(0)
    expected, numbers = panoptic_files.layout()
    np.testing.assert_array_equal(classes, np.append(labels, [255] * 253)[expected].astype(np.uint8))
    found = {tuple(np.unique(instances[numbers == n])) for n in (1, 2)}
    assert len(found) == 2 and all(len(ids) == 1 and ids[0] > 0 for ids in found)
    assert not instances[numbers == 0].any()


@pytest.mark.parametrize("name", CLASSES)
def test_released_tree(name, tree):
    videos = readers.training_videos(dataset_config(name), str(tree))
    assert len(videos) == 2  # the third image shows no thing
    for seed, video in enumerate(videos):
        assert video.num_frames == 1 and set(video.instances.values()) == {CLASSES[name][2] + 1}
        assert len(video.instances) == 2 and video.visible_ids(0) == tuple(sorted(video.instances))
        check_maps(video, CLASSES[name])
        _, numbers = panoptic_files.layout()
        for mask in video.frame_masks(0, video.visible_ids(0)):
            assert mask.sum() == 320 and numbers[mask].min() > 0
        difference = np.abs(video.load_frame(0).astype(int) - panoptic_files.picture(seed))
        assert difference.mean() < (1 if name == "CITYSCAPES" else 40)  # PNG, JPEG
    assert [video.id for video in videos[:1]] == [videos[0].id] and videos[-1].id == videos[1].id
    with pytest.raises(IndexError):
        videos[2]


OFFICIAL = {  # folder in `official` -> images, JSON and folder of the maps, training and evaluation
    "coco": (
        ("train2017", "val2017"),
        "annotations/panoptic_{}2017.json",
        ("train", "val"),
        "annotations/panoptic_{}2017",
    ),
    "ade20k": (
        ("ADEChallengeData2016/images/training", "ADEChallengeData2016/images/validation"),
        "ADEChallengeData2016/ade20k_panoptic_{}.json",
        ("train", "val"),
        "ADEChallengeData2016/ade20k_panoptic_{}",
    ),
    "cityscapes": (
        ("leftImg8bit/train", "leftImg8bit/val"),
        "gtFine/cityscapes_panoptic_{}.json",
        ("train", "val"),
        "gtFine/cityscapes_panoptic_{}",
    ),
    "mapillary": (
        ("training/images", "validation/images"),
        "{}/v1.2/panoptic/panoptic_2018.json",
        ("training", "validation"),
        "{}/v1.2/panoptic",
    ),
}


@pytest.mark.parametrize("name", CLASSES)
def test_official_downloads(name, tree, tmp_path):
    images_of, file, splits, maps = OFFICIAL[name.lower()]
    root = tmp_path / "official" / name.lower()
    for folder, split in zip(images_of, splits, strict=True):
        shutil.copytree(tree / "dataset_images/training" / name.lower(), root / folder)
        released = tree / f"dataset_annotations/training/{name.lower()}_panoptic"
        shutil.copytree(released / "pan_maps", root / maps.format(split))
        (root / file.format(split)).write_text((released / "segments.json").read_text())
    config = dataset_config(name)
    expected = readers.training_videos(config, str(tree))
    videos = readers.training_videos(config, str(tmp_path))
    assert [video.id for video in videos] == [video.id for video in expected]
    check_maps(videos[1], CLASSES[name])
    assert len(readers.evaluation_videos(config, "val", str(tmp_path))) == 3


def test_cityscapes_instance_maps(tmp_path):
    classes, numbers = panoptic_files.layout()
    values = np.select([classes == 0, classes == 1, numbers == 1, numbers == 2], [7, 23, 26, 26_001], 0)
    values[40:44, 60:64] = 9  # parking is not evaluated
    name = "aachen/aachen_000000_000019"
    root, tmp_path = tmp_path, tmp_path / "official/cityscapes"
    panoptic_files.write_image(tmp_path / f"gtFine/train/{name}_gtFine_instanceIds.png", values.astype(np.uint16))
    panoptic_files.write_image(tmp_path / f"leftImg8bit/train/{name}_leftImg8bit.png", panoptic_files.picture(0))
    (video,) = readers.training_videos(dataset_config("CITYSCAPES"), str(root))
    found, instances = video.panoptic_map(0)
    assert (found[40:44, 60:64] == 255).all()
    found[40:44, 60:64] = 23
    np.testing.assert_array_equal(found, np.select([values == 7, classes == 1, classes == 2], [7, 23, 26], 255))
    # Label 26 alone is a group of cars, and one instance.
    np.testing.assert_array_equal(np.unique(instances), [0, 26, 26_001])


def test_ade20k_of_the_challenge(tmp_path):
    classes, numbers = panoptic_files.layout()
    semantic = np.select([classes == 0, classes == 1, classes == 2], [1, 3, 150], 0).astype(np.uint8)
    semantic[44:, 60:] = 13  # a person without an instance is void
    instance = np.zeros((*panoptic_files.SIZE, 3), np.uint8)
    instance[numbers > 0, 0] = 100  # the last of the things
    instance[..., 1] = numbers
    root, tmp_path = tmp_path, tmp_path / "official/ade20k"
    for folder, image in (("annotations", semantic), ("annotations_instance", instance)):
        panoptic_files.write_image(tmp_path / folder / "training/ADE_train_00000001.png", image)
    panoptic_files.write_image(tmp_path / "images/training/ADE_train_00000001.jpg", panoptic_files.picture(0))
    (video,) = readers.training_videos(dataset_config("ADE20K"), str(root))
    found, instances = video.panoptic_map(0)
    assert (found[44:, 60:] == 255).all()
    found[44:, 60:] = 2
    np.testing.assert_array_equal(found, np.select([classes == 0, classes == 1, classes == 2], [0, 2, 149], 255))
    np.testing.assert_array_equal(instances > 0, numbers > 0)
    assert len(np.unique(instances)) == 3


@pytest.mark.skipif(
    not (SAMPLES / "coco_panoptic").is_dir(), reason="the samples of real files are not beside the tree"
)
def test_real_files():
    root = SAMPLES / "coco_panoptic"
    config = dataset_config(
        "COCO", train_images=str(root / "val2017"), train_annotations=str(root / "annotations/panoptic_val2017.json")
    )
    content = json.loads((root / "annotations/panoptic_val2017.json").read_text())
    videos = readers.training_videos(config)
    assert [video.id for video in videos] == [image["id"] for image in content["images"]]
    for video, annotation in zip(videos, content["annotations"], strict=True):
        classes, instances = video.panoptic_map(0)
        for segment in annotation["segments_info"]:
            label = config.category_ids.index(segment["category_id"])
            if segment["category_id"] <= 90:
                assert video.instances[segment["id"]] == label + 1
                np.testing.assert_array_equal(classes[instances == segment["id"]], label)
                assert (instances == segment["id"]).sum() == segment["area"]
        stuff = [s for s in annotation["segments_info"] if s["category_id"] > 90]
        assert ((classes >= 80) & (classes < 255)).sum() == sum(segment["area"] for segment in stuff)


def _edited(tree, tmp_path, edit) -> pathlib.Path:
    file = tree / "dataset_annotations/training/coco_panoptic/segments.json"
    content = json.loads(file.read_text())
    edit(content)
    copy = tmp_path / "segments.json"
    copy.write_text(json.dumps(content))
    (tmp_path / "pan_maps").symlink_to(file.parent / "pan_maps")
    return copy


@pytest.mark.parametrize(
    "message, edit",
    [
        (r"annotations\[0\].segments_info\[1\]: category_id 12 is not one of", lambda c: _segment(c, category_id=12)),
        (r"segments_info\[1\]: id should be in 1..16777215, found 16777216", lambda c: _segment(c, id=2**24)),
        (r"segments_info\[1\]: id should be in 1..16777215, found 'x'", lambda c: _segment(c, id="x")),
        (r"annotations\[0\]: two segments have one id, found \[70007\]", lambda c: _segment(c, id=70_007)),
        (
            r"segments_info\[1\]: expected id and category_id",
            lambda c: c["annotations"][0]["segments_info"][1].pop("id"),
        ),
        (r"annotations\[1\]: image_id 9 occurs twice", lambda c: c["annotations"][1].update(image_id=9)),
        (r"images\[1\]: id 9 occurs twice", lambda c: c["images"][1].update(id=9)),
        (r"annotations\[0\]: image_id 5 is not in 'images'", lambda c: c["annotations"][0].update(image_id=5)),
        (r"images\[0\]: path '../x.jpg' leaves its root", lambda c: c["images"][0].update(file_name="../x.jpg")),
        (r"annotations: 1 of 2 files do not exist: .*x.png", lambda c: c["annotations"][0].update(file_name="x.png")),
        (r"images: 1 of 2 files do not exist: .*x.jpg", lambda c: c["images"][0].update(file_name="x.jpg")),
        (
            r"categories\[0\]: id 90 has isthing 0, but class 79 \(toothbrush\) of COCO is a thing",
            lambda c: c.update(categories=[{"id": 90, "isthing": 0}]),
        ),
    ],
)
def test_malformed_annotations(tree, tmp_path, message, edit):
    config = dataset_config("COCO", train_annotations=str(_edited(tree, tmp_path, edit)))
    with pytest.raises(ValueError, match=message):
        readers.training_videos(config, str(tree))


def test_of_a_class_of_our_name_the_table_decides(tree, tmp_path):
    """The reference has a table of its own, too, and does not look at the file's."""
    path = _edited(tree, tmp_path, lambda c: c.update(categories=[{"id": 90, "name": "toothbrush", "isthing": 0}]))
    found = readers.training_videos(dataset_config("COCO", train_annotations=str(path)), str(tree))
    expected = readers.training_videos(dataset_config("COCO"), str(tree))
    assert [video.instances for video in found] == [video.instances for video in expected]


def _segment(content, **values):
    content["annotations"][0]["segments_info"][1].update(values)


def test_malformed_maps(tmp_path):
    path, other = tmp_path / "map.png", tmp_path / "other.png"
    read = images.SegmentMap(np.array([5], np.int32), np.array([3], np.uint8), np.zeros(256, bool))
    cv2.imwrite(str(path), np.zeros((4, 6, 3), np.uint8))
    cv2.imwrite(str(other), np.full((4, 6), 60_000, np.uint16))
    with pytest.raises(ValueError, match=r"map.png: image has size \[4, 6\], the annotations say .* \[6, 4\]"):
        read(path, 6, 4)
    nothing = np.zeros(256, bool)
    with pytest.raises(ValueError, match="map.png: expected one channel of 8 or 16 bits, found 3 channels of 8 bits"):
        images.read_cityscapes_map(path, 4, 6, kept=nothing, things=nothing)
    assert (images.read_cityscapes_map(other, 4, 6, kept=nothing, things=nothing)[0] == 255).all()
    cv2.imwrite(str(path), np.full((4, 6, 3), 101, np.uint8))
    cv2.imwrite(str(other), np.zeros((4, 6), np.uint8))
    with pytest.raises(ValueError, match="map.png: red 101 is of no thing 1..100"):
        images.read_ade20k_map(path, 4, 6, class_map=other, thing_classes=range(100), num_classes=150)
    with pytest.raises(ValueError, match=r"other.png: image has size \[5, 6\]"):
        cv2.imwrite(str(other), np.zeros((5, 6), np.uint8))
        images.read_ade20k_map(path, 4, 6, class_map=other, thing_classes=range(101), num_classes=150)
