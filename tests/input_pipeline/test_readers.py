import json
import math

import cv2
import numpy as np
import pytest

from input_pipeline import readers as datasets
from input_pipeline import workspace as workspace_files
from input_pipeline.config import dataset_config
from input_pipeline.readers import burst
from tarvis_jax.datasets import DATASETS, Dataset, DatasetSpec
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
        *datasets.ground_truth_videos(config, "val", str(workspace)),
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
    "frame that is no name": (
        "BURST",
        _set("sequences", 0, "annotated_image_paths", 1, value=["a"]),
        r"annotated_image_paths\[1\]: expected a value of type str, found list",
    ),
    "masks of a frame that are no object": (
        "BURST",
        _set("sequences", 1, "segmentations", 2, value=None),
        r"sequences\[1\].segmentations\[2\]: expected a value of type dict, found NoneType",
    ),
    "mask that is no object": (
        "BURST",
        _set("sequences", 0, "segmentations", 0, "1", value="abc"),
        r"segmentations\[0\]\[0\]: expected a value of type dict, found str",
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


@pytest.mark.parametrize("text", ["[" * 100_000, '{"sequences": ' + "1" * 5000 + "}", "\udcff"])
def test_json_that_python_refuses(text, own_workspace, make_dataset):
    path = own_workspace / "dataset_annotations" / "training" / "burst.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
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


def test_unknown_names(make_dataset, workspace, monkeypatch):
    with pytest.raises(ValueError, match="dataset: expected one of .*BURST, found 'KITTY'"):
        dataset_config("KITTY")
    monkeypatch.setitem(DATASETS, "ZOO", Dataset(DatasetSpec("instance", 2)))
    with pytest.raises(ValueError, match="dataset 'ZOO' has no reader; those that have one are .*'DAVIS'"):
        dataset_config("ZOO")
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


def test_both_spellings_of_the_released_tree(own_workspace, make_dataset):
    """The earlier readme says dataset_annotation, kitti_step_train.json and cityscapes_vps_train.json."""
    folder = own_workspace / "dataset_annotations" / "training"
    (folder / "kitti_step.json").rename(folder / "kitti_step_train.json")
    assert len(datasets.training_videos(make_dataset("KITTI_STEP"), str(own_workspace))) == 2
    (own_workspace / "dataset_annotations").rename(own_workspace / "dataset_annotation")
    for name in NAMES:
        assert datasets.training_videos(make_dataset(name), str(own_workspace))
        assert datasets.evaluation_videos(make_dataset(name), "val", str(own_workspace))
    (own_workspace / "dataset_annotation").rename(own_workspace / "elsewhere")
    with pytest.raises(
        ValueError, match=r"at .*/dataset_annotations/training/kitti_step.json, .* \(nor .*_train.json\)"
    ):
        datasets.training_videos(make_dataset("KITTI_STEP"), str(own_workspace))


def test_burst_takes_frames_between_annotated_ones():
    frames = [f"{t:03d}" for t in range(65)]
    chosen = burst.sampled_frames(frames, frozenset(frames[::30]), 30, 10)
    assert chosen[:13] == [frames[t] for t in (0, 3, 5, 8, 11, 14, 16, 19, 22, 25, 27, 30, 33)]
    assert burst.sampled_frames(frames[:7], frozenset(frames[:7:6]), 6, 10) == [frames[t] for t in (0, 1, 2, 4, 5, 6)]
    assert burst.sampled_frames(frames[:3], frozenset(frames[:3]), 1, 10) == frames[:3]
    assert burst.sampled_frames(frames[:9], frozenset(("000", "002", "007")), 2, 10) == [
        frames[t] for t in (0, 2, 4, 6, 7, 8)
    ]


def test_interleaved_frames_of_burst_are_given_but_not_scored(own_workspace, make_dataset):
    for kind in ("first_frame_annotations", "all_classes"):
        path = own_workspace / "dataset_annotations" / "inference" / "burst" / f"{kind}_val.json"
        content = json.loads(path.read_text())
        for sequence in content["sequences"]:
            sequence["fps"] = 3
            sequence["annotated_image_paths"] = sequence["annotated_image_paths"][::3]
            sequence["segmentations"] = sequence["segmentations"][::3]
        path.write_text(json.dumps(content))
    for read in (datasets.evaluation_videos, datasets.ground_truth_videos):
        video = read(make_dataset("BURST"), "val", str(own_workspace))[0]
        assert video.frame_names == ("00000", "00002", "00003", "00005") and video.annotated_frames == (0, 2)
    video = datasets.ground_truth_videos(make_dataset("BURST", interleaved_frames=0), "val", str(own_workspace))[0]
    assert video.num_frames == 2


def test_kitti_step_takes_the_nine_validation_sequences(own_workspace, make_dataset):
    folder = own_workspace / "dataset_images" / "inference" / "kitti_step_val"
    names = ("0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018", "0020")
    for name in names:
        official_files.write_frames(folder / name, suffix=".png")
    videos = datasets.evaluation_videos(make_dataset("KITTI_STEP"), "val", str(own_workspace))
    assert [video.id for video in videos] == ["0002", *names[:-1]]


def test_vipseg_test_split_has_its_own_folder(own_workspace, make_dataset):
    official_files.write_frames(own_workspace / "dataset_images" / "inference" / "vipseg_test" / "9_x")
    video = {"video_id": "9_x", "images": [{"file_name": f"{t:05d}.png"} for t in range(FRAMES)]}
    path = own_workspace / "dataset_annotations" / "inference" / "vipseg" / "test.json"
    official_files.write_json(path, {"videos": [video]})
    (found,) = datasets.evaluation_videos(make_dataset("VIPSEG"), "test", str(own_workspace))
    assert found.frame_paths[0].parent.parent.name == "vipseg_test"


def test_vipseg_ignores_what_its_lists_do_not_name(own_workspace, make_dataset):
    """A thing's class without number (61, person), stuff that is not listed, and an instance that is not listed."""
    folder = own_workspace / "dataset_annotations" / "training" / "vipseg"
    content = json.loads((folder / "video_info.json").read_text())
    sequence = content["sequences"][0]
    sequence["instance_ids"] = [6101]
    sequence["stuff_classes"] = [0]
    sequence["frame_instance_occupancy"] = [[6101]] * FRAMES
    (folder / "video_info.json").write_text(json.dumps(content))
    values = official_files.vipseg_map(3)
    values[-4:, 10:] = 61
    cv2.imwrite(str(folder / "panoptic_masks" / "1_a" / "00000003.png"), values)
    video = datasets.training_videos(make_dataset("VIPSEG"), str(own_workspace))[0]
    expected = np.select([values == 1, values == 6101], [0, 60], 255)
    np.testing.assert_array_equal(video.semantic_map(3), expected)
    np.testing.assert_array_equal(video.id_map(3), np.where(values == 6101, 6101, 0))


RUNS = {
    "runs": [0, *range(1, 20)],
    "no_zero": list(range(1, 20)),
    "largest": [2**31 - 1] * 20,
}
NO_RUNS = {
    "short": [1, 2],
    "mixed": [1] * 20 + [0.5],
    "negative": [-1] * 20,
    "zeros": [0] * 20,
    "names": ["a"] * 20,
    "long": [2**31] * 20,
    "longer": [2**70] * 20,
    "nested": [list(range(20))],
}


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": "), (",\n ", " :\t")])
def test_long_lists_of_runs_are_read_as_arrays(spaces, tmp_path):
    """And everything else of the file stays as it is."""
    path = tmp_path / "file.json"
    path.write_text(json.dumps(NO_RUNS | RUNS | {"more": [RUNS, math.inf]}, separators=spaces), encoding="utf-8-sig")
    found = workspace_files.load_json(path, with_runs=True)
    assert {key: found[key] for key in NO_RUNS} == NO_RUNS and found["more"][1] == math.inf
    for each in (found, found["more"][0]):
        assert all(each[key].dtype == np.int32 and each[key].tolist() == runs for key, runs in RUNS.items())


@pytest.mark.parametrize("text", [f"a: {RUNS['runs']}", "NaN", math.nan])
def test_texts_like_runs_and_nan_stay_as_they_are(text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps({"first": text, **RUNS}))
    found = workspace_files.load_json(path, with_runs=True)
    assert found["first"] == text or math.isnan(text)
    assert {key: list(found[key]) for key in RUNS} == RUNS


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("[0, 1,", "[00, 1,"),
        (", 19]", ", 019]"),
        (", 19]", ", 19,]"),
        (", 7,", ", ,"),
        (", 7,", " 7,"),
        (", 19]", ", 19"),
        ("]}", "]1}"),
        ("[0,", "\x01[0,"),
    ],
)
def test_damaged_lists_of_runs_are_told_by_their_place(good, bad, tmp_path):
    path = tmp_path / "file.json"
    text = json.dumps({"runs": [*range(20)]})
    assert text.count(good) == 1
    path.write_text(text.replace(good, bad))
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(path.read_text())
    with pytest.raises(ValueError) as caught:
        workspace_files.load_json(path, with_runs=True)
    assert str(caught.value) == f"{path}: not valid JSON ({expected.value})"


def test_wrong_year_of_youtube_vis_is_told(own_workspace, make_dataset, caplog):
    names = ("class1", "class2", "other")
    with caplog.at_level("WARNING"):
        datasets.training_videos(make_dataset("YOUTUBE_VIS", class_names=names), str(own_workspace))
    assert "class 3 is 'class3' in the file and 'other' in the config" in caplog.text


@pytest.mark.parametrize(
    ("name", "file", "drop"),
    [
        ("YOUTUBE_VIS", "youtube_vis/valid_2021.json", lambda content: content.pop("categories")),
        (
            "BURST",
            "burst/first_frame_annotations_val.json",
            lambda content: [each.pop("track_category_ids") for each in content["sequences"]],
        ),
    ],
)
def test_what_evaluation_does_not_need_may_be_absent(name, file, drop, own_workspace, make_dataset):
    """The reference does not look at it."""
    before = datasets.evaluation_videos(make_dataset(name), "val", str(own_workspace))
    path = own_workspace / "dataset_annotations" / "inference" / file
    content = json.loads(path.read_text())
    drop(content)
    path.write_text(json.dumps(content))
    after = datasets.evaluation_videos(make_dataset(name), "val", str(own_workspace))
    assert [(video.id, video.instances, video.segmentations) for video in after] == [
        (video.id, video.instances, video.segmentations) for video in before
    ]
