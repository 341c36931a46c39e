"""Folders of one's own videos: every format is recognized and gives the same videos; splits, sizes and layouts."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.own_videos import choose_held_out, clips_in, own_dataset
from input_pipeline.records import VideoRecord
from tests.input_pipeline import own_files
from tests.input_pipeline.own_files import CLASSES, NUM_FRAMES, OBJECTS, READERS, VIDEOS, WRITERS, ids_of


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


def masks_by_class(video: VideoRecord) -> dict[int, np.ndarray]:
    """Class -> bool [T, H, W] of all its objects."""
    result = {}
    for instance, label in video.instances.items():
        masks = np.stack([video.instance_mask(t, instance) for t in range(video.num_frames)])
        result[label] = result.get(label, False) | masks
    return result


@pytest.mark.parametrize("format", WRITERS)
def test_every_format_gives_the_same_videos(format, root, capsys):
    WRITERS[format](root)
    config = own_dataset(root)
    printed = capsys.readouterr().out
    assert config.reader == READERS.get(format, format) and f": {config.reader}, frames at" in printed
    assert "4 videos, 20 annotated frames of 24x40 pixels, 9 objects" in printed
    assert "2 classes: ball (5 objects), box (4 objects)" in printed
    assert (config.task, config.class_names, config.max_instances) == ("instance", CLASSES, 3)
    assert (config.min_dims, config.max_dim) == ((24,), 48)

    training, held_out = readers.training_videos(config), readers.evaluation_videos(config, "val")
    assert len(training) == 3 and [str(video.id) for video in held_out] == list(config.held_out)
    videos = sorted((*training, *held_out), key=lambda video: str(video.frame_paths[0]))
    for name, video in zip(VIDEOS, videos, strict=True):
        assert format == "youtube_vis" or video.id == name
        ids = ids_of(name)
        expected = {
            k + 1: np.isin(ids, [i for i, each in OBJECTS.items() if each == class_name])
            for k, class_name in enumerate(CLASSES)
        }
        found = masks_by_class(video)
        assert set(found) == set(expected)
        for label, masks in expected.items():
            np.testing.assert_array_equal(found[label], masks)
        assert len(video.instances) == len(np.unique(ids)) - 1
        for t in range(NUM_FRAMES):
            assert abs(int(video.load_frame(t).mean()) - 40 * t) <= 2


def test_objects_without_classes_are_followed(root, capsys):
    own_files.id_masks(root)
    (root / "classes.json").unlink()
    config = own_dataset(root)
    assert (config.task, config.exemplar, config.num_classes, config.max_instances) == ("exemplar", "mask", 0, 3)
    assert "objects that are given by their masks" in capsys.readouterr().out
    assert all(set(v.instances.values()) == {0} for v in readers.training_videos(config))


@pytest.mark.parametrize("format", ["youtube_vis", "coco_video", "mots", "cvat_video", "datumaro"])
def test_classes_can_be_left_aside(format, root):
    WRITERS[format](root)
    config = own_dataset(root, task="exemplar")
    assert config.class_names == ()
    assert all(set(v.instances.values()) == {0} for v in readers.training_videos(config))


def test_values_as_classes(root):
    own_files.id_masks(root, ("beach",))
    (root / "classes.json").unlink()
    (root / "classes.txt").write_text("ball\n\nbox\n")
    (video,) = readers.training_videos(own_dataset(root))
    assert video.instances == {1: 1, 2: 2}


def test_one_video_is_trained_on_and_evaluated(root, capsys):
    own_files.write_frames(root / "images")
    own_files.write_masks(root / "masks", "beach")
    config = own_dataset(root)
    assert config.held_out == () and "validation: the videos of the training" in capsys.readouterr().out
    assert [v.id for v in readers.evaluation_videos(config, "val")] == ["mine"]


def test_a_folder_for_each_video(root):
    for video in VIDEOS:
        own_files.write_frames(root / video)
        own_files.write_masks(root / video / "masks", video)
    assert len(readers.training_videos(own_dataset(root))) == 3


def test_splits_of_their_own(root, capsys):
    for split, videos in (("train", VIDEOS[:2]), ("val", VIDEOS[2:])):
        (root / split).mkdir()
        own_files.coco_video(root / split, videos)
    config = own_dataset(root)
    assert "validation: the 2 videos of" in capsys.readouterr().out and config.held_out == ()
    assert [v.id for v in readers.training_videos(config)] == ["beach", "lawn"]
    assert [v.id for v in readers.evaluation_videos(config, "val")] == ["street", "yard"]


def test_split_files(root):
    own_files.youtube_vis(root)
    shutil.copy(root / "train.json", root / "instances_val.json")
    config = own_dataset(root)
    assert config.train_annotations.endswith("train.json") and config.eval_annotations.endswith("instances_val.json")


def test_frames_without_masks(root):
    """Training takes the annotated frames alone; evaluation runs over all of them."""
    own_files.id_masks(root, ("beach",))
    for t in (1, 3):
        (root / "masks" / "beach" / f"{t:05d}.png").unlink()
    config = own_dataset(root)
    (trained,), (evaluated,) = readers.training_videos(config), readers.evaluation_videos(config, "val")
    assert trained.num_frames == 3 and trained.frame_names == ("00000", "00002", "00004")
    assert evaluated.num_frames == 5 and evaluated.annotated_frames == (0, 2, 4)


def test_frames_of_a_video_file_are_written_once(root, capsys):
    own_files.video_files(root, ("beach",))
    own_dataset(root)
    frames = root.with_name("mine_frames")
    assert f"writing the frames of 1 videos to {frames}" in capsys.readouterr().out
    assert len(list((frames / "beach").glob("*.jpg"))) == NUM_FRAMES
    own_dataset(root)
    assert "writing" not in capsys.readouterr().out
    own_files.video_files(root / "other", ("lawn",))
    shutil.copy(root / "other" / "videos" / "lawn.avi", root / "videos" / "beach.avi")
    with pytest.raises(ValueError, match="beach: expected the frames of .*beach.avi as it is; remove the folder"):
        own_dataset(root)


def test_held_out_videos_follow_from_their_names():
    names = [f"video {i}" for i in range(50)]
    found = choose_held_out(names, 0.2)
    assert len(found) == 10 and found == choose_held_out(names[::-1], 0.2)
    assert choose_held_out(names[:2], 0.01) != () and choose_held_out(["a"], 0.5) == () == choose_held_out(names, 0.0)
    assert len(choose_held_out(names[:3], 0.99)) == 2


def test_held_out_videos_by_name(root, capsys):
    own_files.cvat_video(root)
    config = own_dataset(root, held_out=("yard", "lawn"))
    assert "validation: 2 of the 4 videos, which training leaves out: lawn, yard" in capsys.readouterr().out
    assert [video.id for video in readers.evaluation_videos(config, "val")] == ["lawn", "yard"]
    assert [video.id for video in readers.training_videos(config)] == ["beach", "street"]
    for names in (("gone",), VIDEOS):
        with pytest.raises(ValueError, match=r"held_out: expected some of the videos \['beach', .*found " + names[0]):
            own_dataset(root, held_out=names)
    own_files.cvat_video(root / "split" / "train", VIDEOS[:2])
    own_files.cvat_video(root / "split" / "val", VIDEOS[2:])
    with pytest.raises(ValueError, match="held_out=yard: .*split says itself what is held out"):
        own_dataset(root / "split", held_out=("yard",))


@pytest.mark.parametrize("format", ["coco_video", "datumaro"])
def test_a_later_file_takes_the_place_of_an_earlier_one(format, root):
    """A corrected export beside the first: its videos count, and so does its class that is new."""
    WRITERS[format](root)
    first = next(root.rglob("*.json"))
    first = first.rename(first.with_name("01.json"))
    content = json.loads(first.read_text().replace("box", "crate"))
    if format == "coco_video":
        (video,) = [each for each in content["videos"] if each["name"] == "lawn"]
        content["videos"] = [video]
        content["images"] = [each for each in content["images"] if each["video_id"] == video["id"]]
        shown = {each["id"] for each in content["images"]}
        content["annotations"] = [each for each in content["annotations"] if each["image_id"] in shown]
    else:
        content["items"] = [each for each in content["items"] if each["id"].startswith("lawn/")]
    first.with_name("02.json").write_text(json.dumps(content))
    config = own_dataset(root, held_out=0)
    assert config.class_names == ("ball", "box", "crate")
    videos = {video.id: video for video in readers.training_videos(config)}
    assert sorted(videos) == sorted(VIDEOS)
    assert set(videos["lawn"].instances.values()) == {1, 3} and set(videos["yard"].instances.values()) == {1, 2}


def test_names_of_classes_that_are_meant_to_be_one(root):
    own_files.cvat_video(root)
    file = root / "yard" / "annotations.xml"
    file.write_text(file.read_text().replace(">box<", "> Box<").replace('"box"', '"Box"'))
    with pytest.raises(ValueError, match="expected different names of classes, found 'box' and 'Box', which differ in"):
        own_dataset(root)


def test_held_out_videos_must_be_there(root):
    own_files.id_masks(root)
    config = dataclasses.replace(own_dataset(root), held_out=("gone",))
    with pytest.raises(ValueError, match=r"held_out: expected some of its 4 videos, found \['gone'\]"):
        readers.training_videos(config)


def test_videos_without_objects_are_not_held_out(root):
    """A model that follows given objects cannot be evaluated on them."""
    own_files.id_masks(root)
    (root / "classes.json").unlink()
    held_out = own_dataset(root).held_out
    for video in held_out:
        for path in (root / "masks" / video).iterdir():
            cv2.imwrite(str(path), np.zeros((own_files.HEIGHT, own_files.WIDTH), np.uint8))
    assert not set(own_dataset(root).held_out) & set(held_out)
    with pytest.raises(ValueError, match=f"video '{held_out[0]}': it is evaluated, but has no object"):
        own_dataset(root, held_out=0)


def test_splits_in_two_formats(root):
    own_files.id_masks(root / "train")
    (root / "val").mkdir()
    own_files.coco_video(root / "val")
    with pytest.raises(ValueError, match="expected both splits in one format, found id_masks and coco_video"):
        own_dataset(root)


def test_images_without_tracks_are_videos_of_one_frame(root):
    own_files.coco_of_cvat(root, ("beach",))
    file = root / "beach" / "annotations" / "instances_default.json"
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["attributes"] = {}
    file.write_text(json.dumps(content))
    videos = readers.training_videos(own_dataset(root, held_out=0))
    assert [(video.num_frames, len(video.instances)) for video in videos] == [(1, 1)] + [(1, 2)] * (NUM_FRAMES - 1)


def test_binary_masks_and_void(root):
    """255 is void beside other values; a video with no other value has binary masks."""
    own_files.write_frames(root / "frames" / "binary")
    own_files.write_frames(root / "frames" / "void")
    for video, values in (("binary", (255,)), ("void", (255, 1))):
        (root / "masks" / video).mkdir(parents=True)
        for t in range(NUM_FRAMES):
            ids = np.zeros((own_files.HEIGHT, own_files.WIDTH), np.uint8)
            for row, value in enumerate(values):
                ids[row, : t + 1] = value
            cv2.imwrite(str(root / "masks" / video / f"{t:05d}.png"), ids)
    binary, void = readers.training_videos(own_dataset(root, held_out=0))
    assert binary.instances == void.instances == {1: 0}
    assert [int(binary.instance_mask(t, 1).sum()) for t in (0, 4)] == [1, 5]
    assert void.instance_mask(2, 1)[1, :3].all() and void.instance_mask(2, 1).sum() == 3


def test_clips_to_segment(root):
    own_files.write_frames(root / "clip10")
    own_files.write_frames(root / "clip9" / "images")
    own_files.video_files(root / "other", ("beach",))
    shutil.copy(root / "other" / "videos" / "beach.avi", root / "clip11.avi")
    shutil.rmtree(root / "other")
    clips = clips_in(root, "LAB")
    assert [clip.id for clip in clips] == ["clip9", "clip10", "clip11"] and {clip.dataset for clip in clips} == {"LAB"}
    assert all(clip.num_frames == NUM_FRAMES and not clip.instances for clip in clips)
    shutil.copy(root / "clip11.avi", root / "clip9.avi")
    with pytest.raises(ValueError, match="expected one video of each name, found two: clip9"):
        clips_in(root, "LAB")
    shutil.rmtree(root)
    with pytest.raises(ValueError, match="found no such folder"):
        clips_in(root, "LAB")
    root.mkdir()
    with pytest.raises(ValueError, match="expected folders of frames or video files"):
        clips_in(root, "LAB")


def test_what_cannot_be_recognized(root):
    with pytest.raises(ValueError, match="mine: no annotations found; expected a folder masks or"):
        own_dataset(root)
    with pytest.raises(ValueError, match="absent: expected a folder with videos"):
        own_dataset(root / "absent")
    own_files.id_masks(root)
    with pytest.raises(ValueError, match="format: expected auto or one of id_masks, .*found 'video'"):
        own_dataset(root, format="video")
    shutil.rmtree(root / "frames")
    with pytest.raises(ValueError, match="mine: no frames found; expected a folder frames or"):
        own_dataset(root)
    own_files.coco_video(root)
    shutil.copy(root / "annotations.json", root / "more.json")
    own_files.datumaro(root)
    shutil.copy(root / "annotations" / "default.json", root)
    with pytest.raises(ValueError, match="expected one kind of files and folders, found coco_video, datumaro"):
        own_dataset(root)
