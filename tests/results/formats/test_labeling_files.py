"""The training data readers read what the writers for labeling tools write: tracks, ids, classes and masks."""

import json
import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.own_videos import own_dataset
from tarvis_jax.masks import rle
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options, cvat_video
from tarvis_jax.results.tracks import Track
from tests.results.formats import cases

OPTIONS = Options(class_names=("ball", "big box"), image_suffix=".png")
FRAMES = {  # where the frames lie, for each format
    "mots": "{video}/images",
    "coco_video": "JPEGImages/{video}",
    "datumaro": "images/default/{video}",
    "cvat_video": "{video}/images",
}


def put_frames(root, format, video):
    folder = root / FRAMES[format].format(video=video.id)
    folder.mkdir(parents=True)
    for frame, name in enumerate(video.frame_names):
        name = f"frame_{frame:06d}" if format == "cvat_video" else name
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((*cases.SIZE, 3), np.uint8))


def overlapping(video):
    """Two tracks that share pixels, which go away and come back."""
    shown = np.zeros((2, cases.NUM_FRAMES, *cases.SIZE), bool)
    shown[0, 1:3, 2:9, 3:20] = shown[0, 5:, :5] = True
    shown[1, :4, 5:12, 10:30] = True
    shown[1, 0, 7:9, 12:15] = False  # a hole
    tracks = [cases.track(4, shown[0], 2, 0.5), cases.track(6, shown[1], 1, 0.25)]
    result = cases.VideoResult(video, "", cases.SIZE, cases.NUM_FRAMES, tracks)
    return cases.video_of(video, result)


@pytest.mark.parametrize("format", FRAMES)
def test_training_reads_the_files(format, tmp_path, capsys):
    root = tmp_path / "out"
    overlaps = () if format == "mots" else (overlapping("crossing"),)  # these cannot hold overlaps
    videos = [cases.instances("street"), cases.instances("yard", ids=(2, 9, 40), seed=3), *overlaps]
    formats.module(format).write(root, videos, OPTIONS)
    for video in videos:
        put_frames(root, format, video)
    config = own_dataset(root, held_out=0)
    assert config.reader == format and config.class_names == OPTIONS.class_names
    records = {record.id: record for record in readers.evaluation_videos(config, "val")}
    assert sorted(records) == sorted(video.id for video in videos)
    for video in videos:
        record, result = records[video.id], video.load()
        number = {
            track.id: 1000 * track.class_id + track.id if format == "mots" else track.id for track in result.tracks
        }
        assert record.instances == {number[track.id]: track.class_id for track in result.tracks}
        for track in result.tracks:
            for frame, encoded in enumerate(track.segmentations):
                found = record.segmentations[frame].get(number[track.id])
                assert (found and found["counts"]) == (encoded and encoded["counts"])


@pytest.mark.parametrize("format", FRAMES)
def test_around(format, tmp_path, capsys):
    """Labels that training has read go back into the tool's format as they were: tracks, ids, names and masks."""
    first, again = tmp_path / "first", tmp_path / "again"
    overlaps = () if format == "mots" else (overlapping("crossing"),)
    videos = {video.id: video for video in (cases.instances("street", ids=(2, 9, 40), seed=3), *overlaps)}
    formats.module(format).write(first, videos.values(), OPTIONS)
    for video in videos.values():
        put_frames(first, format, video)
    config = own_dataset(first, held_out=0)
    read = [cases.video_of(each.id, result_of(each)) for each in readers.evaluation_videos(config, "val")]
    formats.module(format).write(again, read, Options(class_names=config.class_names, image_suffix=".png"))
    found = {video.id: video for video in formats.module(format).read(again, OPTIONS)}
    assert found.keys() == videos.keys()
    for name, video in videos.items():
        cases.same(video, found[name], without=("scores",))


def result_of(record):
    """The labels of a record as a result."""
    tracks = [
        Track(i, [frame.get(i) for frame in record.segmentations], None, label) for i, label in record.instances.items()
    ]
    return cases.VideoResult(record.id, "", (record.height, record.width), record.num_frames, tracks)


@pytest.mark.parametrize("format", ["coco_video", "datumaro", "cvat_video"])
def test_text_ids(format, tmp_path):
    """Training numbers tracks with names; the files keep the names."""
    root = tmp_path / "out"
    video = cases.instances("street", ids=("<ball> & 'co'", "7b", 'box "2"'))
    formats.module(format).write(root, [video], OPTIONS)
    put_frames(root, format, video)
    (record,) = readers.evaluation_videos(own_dataset(root, held_out=0), "val")
    assert record.instances == {1: 1, 2: 2, 3: 1}
    (back,) = formats.module(format).read(root, OPTIONS)
    cases.same(video, back, without=("scores",) if format == "cvat_video" else ())


def test_targets_without_classes(tmp_path):
    """Targets given by example are of the one class "object"."""
    for format in FRAMES:
        video = cases.objects("street")
        formats.module(format).write(tmp_path / format, [video], Options(image_suffix=".png"))
        put_frames(tmp_path / format, format, video)
        config = own_dataset(tmp_path / format, held_out=0)
        (record,) = readers.evaluation_videos(config, "val")
        assert config.class_names == ("object",) and sorted(record.instances.values()) == [1, 1, 1]


def test_classes_need_names(tmp_path):
    for format in (*FRAMES, "mots_txt"):
        with pytest.raises(ValueError, match="video 'street', track 2: class 2 is none of 1 class_names"):
            formats.module(format).write(tmp_path / format, [cases.instances("street")], Options(class_names=("ball",)))


def test_mots_values(tmp_path):
    """Two classes may use one number; then ids are the values."""
    video = cases.instances("street", ids=(1001, 2001, 1000), classes=(1, 2, 1))
    formats.module("mots").write(tmp_path / "out", [video], OPTIONS)
    (back,) = formats.module("mots").read(tmp_path / "out", OPTIONS)
    assert {track.id: track.class_id for track in back.load().tracks} == {1000: 1, 1001: 1, 2001: 2}
    pixels = cv2.imread(str(tmp_path / "out" / "street" / "instances" / "00000.png"), cv2.IMREAD_UNCHANGED)
    assert pixels.dtype == np.uint16 and set(np.unique(pixels)) <= {0, 1000, 1001, 2001}
    assert (tmp_path / "out" / "street" / "instances" / "labels.txt").read_text() == "ball\nbig box\n"


def test_mots_text(tmp_path):
    """As the benchmark's own tool reads it: frame, id, class, height, width and the counts of COCO."""
    video = cases.instances("street")
    formats.module("mots_txt").write(tmp_path / "out", [video], OPTIONS)
    lines = [line.split() for line in (tmp_path / "out" / "street.txt").read_text().splitlines()]
    tracks = {1000 * track.class_id + track.id: track for track in video.load().tracks}
    expected = {(f, v) for v, track in tracks.items() for f, each in enumerate(track.segmentations) if each}
    assert {(int(frame), int(value)) for frame, value, *_ in lines} == expected
    for frame, value, label, height, width, counts in lines:
        assert (int(height), int(width)) == cases.SIZE and int(label) == int(value) // 1000
        assert counts == tracks[int(value)].segmentations[int(frame)]["counts"]


def test_coco_fields(tmp_path):
    (path,) = formats.module("coco_video").write(tmp_path / "out", [overlapping("street")], OPTIONS)
    content = json.loads(path.read_text())
    assert content["videos"] == [{"id": 1, "name": "street"}]
    assert content["images"][1] == {
        "id": 2,
        "video_id": 1,
        "frame_id": 1,
        "file_name": "street/00001.png",
        "height": cases.SIZE[0],
        "width": cases.SIZE[1],
    }
    first = content["annotations"][0]
    assert (first["image_id"], first["instance_id"], first["category_id"]) == (2, 4, 2)
    assert (first["bbox"], first["area"], first["iscrowd"]) == ([3, 2, 17, 7], 119, 0)


def test_cvat_tracks(tmp_path):
    """Every visible frame is a keyframe, and outside="1" ends each stretch."""
    formats.module("cvat_video").write(tmp_path / "out", [overlapping("street")], OPTIONS)
    root = ET.parse(tmp_path / "out" / "street" / "annotations.xml").getroot()
    assert [label.text for label in root.iterfind("meta/task/labels/label/name")] == list(OPTIONS.class_names)
    first, second = root.iterfind("track")
    assert (first.get("id"), first.get("label")) == ("4", "big box")
    shapes = [(int(shape.get("frame")), shape.get("outside")) for shape in first]
    assert shapes == [(1, "0"), (2, "0"), (3, "1"), (5, "0")]
    assert [shape.get("outside") for shape in second] == ["0", "0", "0", "0", "1"]
    assert {shape.get("keyframe") for shape in [*first, *second]} == {"1"}


def test_cvat_runs():
    mask = np.zeros((5, 7), bool)
    mask[1, 2:4] = mask[2, 3:5] = True
    assert cvat_video.box_runs(mask) == ((2, 1, 3, 2), "0, 2, 2, 2")
    mask[1, 2] = False
    assert cvat_video.box_runs(mask) == ((3, 1, 2, 2), "0, 1, 1, 2")
    mask[1, 3] = False
    mask[1, 4] = True
    assert cvat_video.box_runs(mask) == ((3, 1, 2, 2), "1, 3")


def test_cvat_polygons(tmp_path):
    """Outlines have the largest part alone and are up to a pixel off."""
    root = tmp_path / "out"
    shown = np.zeros((1, cases.NUM_FRAMES, *cases.SIZE), bool)
    shown[0, :, 3:18, 5:25] = True
    whole = shown[0, 0].copy()
    shown[0, 0, 20:22, 30:33] = shown[0, 1, 20, 30] = True  # parts beside it
    shown[0, 2] = False
    shown[0, 2, 4, 4] = True  # a single pixel
    result = cases.VideoResult("a", "", cases.SIZE, cases.NUM_FRAMES, [cases.track(3, shown[0], 1)])
    options = Options(class_names=OPTIONS.class_names, polygons=True)
    video = cases.video_of("street", result)
    formats.module("cvat_video").write(root, [video], options)
    put_frames(root, "cvat_video", video)
    (record,) = readers.evaluation_videos(own_dataset(root, held_out=0), "val")
    found = [rle.decode(frame[3]) if frame else None for frame in record.segmentations]
    for frame in (0, 1, 3):
        assert not (found[frame] & ~whole).any() and (whole & ~found[frame])[4:17, 6:24].sum() == 0
    assert found[2].sum() == 1 and found[2][4, 4]
