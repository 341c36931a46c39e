import json

import numpy as np
import pytest

from input_pipeline import readers as datasets
from input_pipeline.config import dataset_config
from tests.input_pipeline import official_files
from tests.input_pipeline.official_files import FRAMES, HEIGHT, WIDTH

NAMES = ("YOUTUBE_VIS", "KITTI_STEP", "DAVIS", "BURST")


@pytest.mark.parametrize("name", NAMES)
def test_training_records_hold_what_was_written(name, workspace, make_dataset):
    config = make_dataset(name)
    videos = datasets.training_videos(config, str(workspace))
    assert len(videos) == (3 if name == "YOUTUBE_VIS" else 2)
    for video in videos:
        assert (video.height, video.width, video.num_frames) == (HEIGHT, WIDTH, FRAMES)
        assert all(path.is_absolute() for path in video.frame_paths)
        classes = {"YOUTUBE_VIS": [1, 2], "KITTI_STEP": [14, 12]}.get(name, [0, 0])
        assert list(video.instances.values()) == classes
        first, second = video.instances
        assert video.visible_ids(0) == (first,) and video.visible_ids(3) == (first, second)
        assert video.first_frames() == {first: 0, second: 1}
        for t in range(FRAMES):
            expected = official_files.objects(t)
            np.testing.assert_array_equal(video.instance_mask(t, first), expected[1])
            np.testing.assert_array_equal(video.instance_mask(t, second), expected.get(2, np.zeros((HEIGHT, WIDTH))))
        assert video.num_frames == FRAMES and video.instance_mask(0, first).shape == (HEIGHT, WIDTH)
        image = video.load_frame(2)
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        inside = image[official_files.objects(2)[1] > 0].mean(0)
        assert inside[0] > 180 and inside[2] < 90  # red first: RGB


def test_kitti_step_class_maps(workspace, make_dataset):
    config = make_dataset("KITTI_STEP")
    for video in (
        datasets.training_videos(config, str(workspace))[0],
        *datasets.evaluation_videos(config, "val", str(workspace)),
    ):
        for t in range(FRAMES):
            np.testing.assert_array_equal(video.semantic_map(t), official_files.class_map(t))
            classes, instances = video.panoptic_map(t)
            np.testing.assert_array_equal(classes, official_files.class_map(t))
            ids = set(np.unique(instances[classes != 255]).tolist())
            assert ids <= ({0, 300, 2} if video.panoptic_maps else {0, 1, 2}) and len(ids) == (2 if t == 0 else 3)


def test_evaluation_videos(workspace, make_dataset):
    (video,) = datasets.evaluation_videos(make_dataset("YOUTUBE_VIS"), "val", str(workspace))
    assert video.id == 1 and video.instances == {}
    (video,) = datasets.evaluation_videos(make_dataset("DAVIS"), "val", str(workspace))
    assert video.id == "bear" and video.instances == {1: 0, 2: 0} and video.annotated_frames == tuple(range(FRAMES))
    np.testing.assert_array_equal(video.id_map(3)[:-2], sum(i * m for i, m in official_files.objects(3).items())[:-2])
    videos = datasets.evaluation_videos(make_dataset("BURST"), "val", str(workspace))
    assert [video.id for video in videos] == ["YFCC100M/clip", "Charades/clip"]
    assert set(videos[0].instances) == {1, 2, 7}  # small masks are dropped in training only
    assert videos[0].first_frames() == {1: 0, 7: 0, 2: 1} and not any(videos[0].segmentations[2:])
    truth = datasets.ground_truth_videos(make_dataset("BURST"), "val", str(workspace))
    assert all(len(masks) == 3 for masks in truth[0].segmentations[1:])
    y, x = videos[0].points[0][1]
    assert official_files.objects(0)[1][y, x]


def test_vipseg(workspace, make_dataset):
    video = datasets.training_videos(make_dataset("VIPSEG"), str(workspace))[1]
    assert video.id == "2_b" and video.instances == {6101: 61, 6402: 64}
    assert video.visible_ids(0) == (6101,) and video.visible_ids(1) == (6101, 6402)
    for t in range(FRAMES):
        raw = official_files.vipseg_map(t)
        for instance in video.instances:
            np.testing.assert_array_equal(video.instance_mask(t, instance), raw == instance)
        expected = np.select([raw == 0, raw == 6101, raw == 6402], [255, 60, 63], raw.astype(int) - 1)
        np.testing.assert_array_equal(video.semantic_map(t), expected)
        np.testing.assert_array_equal(video.id_map(t), np.where(raw >= 125, raw, 0))


def test_vipseg_errors(own_workspace, make_dataset):
    folder = own_workspace / "dataset_annotations" / "training" / "vipseg"
    content = json.loads((folder / "video_info.json").read_text())
    content["sequences"][0]["instance_ids"][0] = 12501
    (folder / "video_info.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"sequences\[0\].instance_ids: 12501 .* its class 125 in 1..124"):
        datasets.training_videos(make_dataset("VIPSEG"), str(own_workspace))
    (folder / "panoptic_masks" / "1_a" / "00000002.png").unlink()
    with pytest.raises(ValueError, match="1 of 12 files do not exist: .*00000002.png"):
        datasets.training_videos(make_dataset("VIPSEG"), str(own_workspace))


def test_ovis_is_the_same_format(workspace):
    config = dataset_config(
        "OVIS",
        train_images="dataset_images/training/youtube_vis_2021",
        train_annotations="dataset_annotations/training/youtube_vis_2021.json",
    )
    assert {video.dataset for video in datasets.training_videos(config, str(workspace))} == {"OVIS"}


def test_a_workspace_is_needed(make_dataset, monkeypatch):
    monkeypatch.setenv("TARVIS_WORKSPACE_DIR", "/tmp")  # commands put it into the config; readers do not look at it
    with pytest.raises(ValueError, match="workspace: not set.*TARVIS_WORKSPACE_DIR"):
        datasets.training_videos(make_dataset("DAVIS"))
    with pytest.raises(ValueError, match="/no/such/place .* is not an existing folder"):
        datasets.training_videos(make_dataset("DAVIS"), "/no/such/place")


def test_wrong_path_names_dataset_key_and_path(workspace, make_dataset):
    with pytest.raises(
        ValueError, match=r"dataset DAVIS, train_annotations: expected a file at .*nowhere.json, but it does not"
    ):
        datasets.training_videos(make_dataset("DAVIS", train_annotations="nowhere.json"), str(workspace))
    with pytest.raises(ValueError, match="DAVIS, train_images: path '../davis' leaves its root"):
        datasets.training_videos(make_dataset("DAVIS", train_images="../davis"), str(workspace))


def edit(workspace, name, change):
    path = workspace / "dataset_annotations" / "training" / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def _set(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


def _delete(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


BAD_FILES = {
    "missing key": ("YOUTUBE_VIS", _delete("videos", 1, "height"), r"videos\[1\]: key 'height' is missing"),
    "missing section": ("YOUTUBE_VIS", _delete("annotations"), "key 'annotations' is missing"),
    "another type": ("YOUTUBE_VIS", _set("videos", 0, "width", value="64"), "'width' should be of type int, found str"),
    "class out of range": (
        "YOUTUBE_VIS",
        _set("annotations", 2, "category_id", value=41),
        r"annotations\[2\]: category_id 41 is none of the categories \[1, 2, 3\]",
    ),
    "unknown video": ("YOUTUBE_VIS", _set("annotations", 0, "video_id", value=99), "video_id 99 is the id of no video"),
    "duplicate track": ("YOUTUBE_VIS", _set("annotations", 1, "id", value=11), "id 11 occurs twice"),
    "duplicate video": ("YOUTUBE_VIS", _set("videos", 1, "id", value=1), r"videos\[1\]: id 1 occurs twice"),
    "duplicate sequence": ("DAVIS", _set("sequences", 1, "id", value="0000"), "video '0000': two videos have this id"),
    "frames and masks disagree": (
        "YOUTUBE_VIS",
        _set("annotations", 0, "segmentations", value=[None]),
        "1 segmentations for the 6 frames",
    ),
    "RLE of another size": (
        "YOUTUBE_VIS",
        _set("annotations", 0, "segmentations", 0, "size", value=[64, 48]),
        r"annotations\[0\].segmentations\[0\]: RLE has size \[64, 48\], but the image",
    ),
    "path leaves root": (
        "YOUTUBE_VIS",
        _set("videos", 0, "file_names", 0, value="../../secret.jpg"),
        r"videos\[0\].file_names: path '../../secret.jpg' leaves its root",
    ),
    "absolute path": ("DAVIS", _set("sequences", 0, "image_paths", 0, value="/etc/passwd"), "leaves its root"),
    "missing frame": (
        "DAVIS",
        _set("sequences", 0, "image_paths", 0, value="0000/none.jpg"),
        r"sequences\[0\].image_paths: 1 of 6 files do not exist: .*none.jpg",
    ),
    "no frames": (
        "DAVIS",
        lambda c: c["sequences"][0].update(image_paths=[], segmentations=[], categories={}),
        "video '0000': the video has no frames",
    ),
    "no video": ("DAVIS", _set("sequences", value=[]), "has no video"),
    "short counts": (
        "DAVIS",
        _set("sequences", 1, "segmentations", 2, "1", value=official_files.compressed(np.ones((9, 9), np.uint8))),
        r"sequences\[1\].segmentations\[2\]\['1'\]: the runs of the RLE add up to 81 pixels",
    ),
    "instance without class": ("DAVIS", _delete("sequences", 0, "categories", "2"), r"instance ids \[2\] are in segm"),
    "id that is no number": (
        "DAVIS",
        _set("sequences", 0, "categories", "x", value=1),
        "expected an integer id, found 'x'",
    ),
    "panoptic class out of range": (
        "KITTI_STEP",
        _set("sequences", 0, "categories", "1", value=19),
        "class 19 is not in 0..18",
    ),
    "semantic class out of range": (
        "KITTI_STEP",
        _set(
            "sequences",
            0,
            "semantic_segmentations",
            0,
            "77",
            value=official_files.compressed(official_files.rectangle(0, 0, 3, 3)),
        ),
        r"semantic_segmentations\[0\]: classes \[77\] are not in 0..18",
    ),
    "no semantic masks": (
        "KITTI_STEP",
        _delete("sequences", 1, "semantic_segmentations"),
        "'semantic_segmentations' is missing",
    ),
    "track without class": (
        "BURST",
        _delete("sequences", 0, "track_category_ids", "2"),
        "track '2' is not in track_category_ids",
    ),
    "no mask": (
        "BURST",
        _delete("sequences", 0, "segmentations", 0, "1", "rle"),
        r"segmentations\[0\]\['1'\]: key 'rle' is missing",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_annotations_give_one_clear_error(case, own_workspace, make_dataset):
    name, change, message = BAD_FILES[case]
    config = make_dataset(name)
    edit(own_workspace, config.train_annotations.rsplit("/", 1)[1], change)
    with pytest.raises(ValueError, match=message) as caught:
        datasets.training_videos(config, str(own_workspace))
    assert ".json" in str(caught.value)


def test_corrupt_json(own_workspace, make_dataset):
    path = own_workspace / "dataset_annotations" / "training" / "burst.json"
    path.write_text(path.read_text()[:-50])
    with pytest.raises(ValueError, match="burst.json: not valid JSON"):
        datasets.training_videos(make_dataset("BURST"), str(own_workspace))


def test_corrupt_mask_png(own_workspace, make_dataset):
    path = own_workspace / "dataset_annotations" / "inference" / "davis" / "Annotations" / "bear" / "00002.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="00002.png: cannot be decoded"):
        datasets.evaluation_videos(make_dataset("DAVIS"), "val", str(own_workspace))
    official_files.palette_png(path, np.zeros((5, 5)))
    with pytest.raises(ValueError, match=r"00002.png: mask has size \[5, 5\]"):
        datasets.evaluation_videos(make_dataset("DAVIS"), "val", str(own_workspace))


def test_unknown_names(make_dataset, workspace):
    with pytest.raises(ValueError, match="dataset: expected one of .*BURST, found 'KITTY'"):
        dataset_config("KITTY")
    with pytest.raises(ValueError, match="dataset 'COCO' has no reader; those that have one are .*'DAVIS'"):
        dataset_config("COCO")
    unknown = make_dataset("DAVIS", reader="zip")
    for read in (datasets.training_videos, lambda *args: datasets.evaluation_videos(args[0], "val", args[1])):
        with pytest.raises(ValueError, match="DAVIS: reader should be a module of .*'burst', .*found 'zip'"):
            read(unknown, str(workspace))
    with pytest.raises(ValueError, match="unknown fields"):
        dataset_config("DAVIS", color=3)


def test_davis240(shared_dir):
    folder = shared_dir / "samples" / "davis240"
    config = dataset_config("DAVIS", reader="davis_official", eval_images=str(folder))
    videos = datasets.evaluation_videos(config, "val")
    assert len(videos) == 10
    by_name = {video.id: video for video in videos}
    assert by_name["cows"].num_frames == 104 and by_name["libby"].num_frames == 49
    for video in videos:
        assert len(video.instances) >= 1 and video.visible_ids(0)
        assert len(video.annotated_frames) == video.num_frames
    assert videos[0].load_frame(3).shape == (videos[0].height, videos[0].width, 3)


def test_official_fixtures_of_the_metrics(shared_dir):
    from input_pipeline.readers import burst, youtube_vis

    file = shared_dir / "metrics" / "ytvis" / "annotations.json"
    videos = youtube_vis.read(file, file.parent, dataset_config("YOUTUBE_VIS"), needs_annotations=True, check=False)
    areas = {track["id"]: track["areas"] for track in json.loads(file.read_text())["annotations"]}
    for video in videos:
        for instance in video.instances:
            measured = [int(video.instance_mask(t, instance).sum()) for t in range(video.num_frames)]
            assert measured == [area or 0 for area in areas[instance]]
    assert any(video.crowd for video in videos)

    file = shared_dir / "metrics" / "burst" / "gt" / "first_frame_annotations.json"
    for video in burst.read(file, file.parent, dataset_config("BURST"), check=False):
        for t, found in enumerate(video.points):
            for instance, (y, x) in found.items():
                assert video.instance_mask(t, instance)[int(y), int(x)]
