"""Downloads: what the formats' own readers find in the files that the page hands out."""

import dataclasses

import cv2
import numpy as np
import pytest

from tarvis_jax.demo import downloads
from tarvis_jax.demo.uploads import Clip
from tarvis_jax.results.formats import Options
from tarvis_jax.results.tracks import read_tracks
from tarvis_jax.visualize.overlay import color
from tests.demo.read_back import back
from tests.results.formats import cases

av = pytest.importorskip("av", reason="needs av")

CLASSES = ("ball", "big box")
NAMES = tuple(f"{frame:06d}" for frame in range(cases.NUM_FRAMES))
OPTIONS = Options(score_threshold=0.2)


@pytest.fixture
def clip(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in NAMES:
        cv2.imwrite(str(folder / f"{name}.jpg"), np.full((*cases.SIZE, 3), 90, np.uint8))
    return Clip("<b>../my clip", folder, cases.NUM_FRAMES, cases.SIZE, 5.0)


@pytest.mark.parametrize("kind", ["masks", "mots", "coco", "datumaro", "cvat"])
def test_given_objects(kind, clip, tmp_path):
    result = cases.objects("x").load()
    path = downloads.write(kind, result, clip, (), OPTIONS, tmp_path)
    assert path.parent == tmp_path and path.stem == kind
    video = back(kind, path, OPTIONS)
    class_id = None if kind == "masks" else 1  # labeling tools want a class: "object"
    tracks = [dataclasses.replace(each, class_id=class_id) for each in result.tracks]
    cases.same(cases.video_of("clip", dataclasses.replace(result, tracks=tracks)), video)
    assert video.id == "clip"
    if kind != "cvat":  # the file does not name frames
        assert video.frame_names == NAMES


@pytest.mark.parametrize("kind", ["mots", "coco", "datumaro", "cvat"])
def test_tracks_with_classes(kind, clip, tmp_path):
    """Tracks up to the threshold are left out."""
    result = cases.instances("x").load()  # scores .9, .6, .3
    path = downloads.write(kind, result, clip, CLASSES, Options(score_threshold=0.5), tmp_path)
    strong = dataclasses.replace(result, tracks=result.tracks[:2])
    video = back(kind, path, Options(class_names=CLASSES))
    cases.same(cases.video_of("clip", strong), video, without=() if kind in ("coco", "datumaro") else ("scores",))


def test_panoptic_masks(clip, tmp_path):
    result = cases.panoptic("x").load()
    options = Options(thing_classes=(4,), score_threshold=0.5)
    path = downloads.write("masks", result, clip, tuple("abcde"), options, tmp_path)
    cases.same(cases.video_of("clip", result), back("masks", path, options))


def test_panoptic_labels_are_of_things(clip, tmp_path):
    result = cases.panoptic("x", void=False).load()
    stuff = cases.track(9, cases.masks(0, 1)[0], 1, 0.9)
    options = Options(thing_classes=(4,), score_threshold=0.5)
    both = dataclasses.replace(result, tracks=[*result.tracks, stuff])
    path = downloads.write("coco", both, clip, tuple("abcde"), options, tmp_path)
    found = back("coco", path, Options(class_names=tuple("abcde"))).load()
    assert sorted(track.id for track in found.tracks) == [3, 300]


def test_tracks_hold_everything(clip, tmp_path):
    result = cases.panoptic("x").load()
    path = downloads.write("tracks", result, clip, tuple("abcde"), Options(score_threshold=1.0), tmp_path)
    assert path == tmp_path / "tracks.json"
    assert read_tracks(path) == dataclasses.replace(result, video="clip")


def test_overlay(clip, tmp_path):
    """Enlarged, at the clip's own speed, with the color of a track where its mask is."""
    shown = np.zeros((cases.NUM_FRAMES, *cases.SIZE), bool)
    shown[:4, 4:20, 10:30] = True
    result = cases.VideoResult("x", "", cases.SIZE, cases.NUM_FRAMES, [cases.track(6, shown)])
    path = downloads.write("overlay", result, clip, (), OPTIONS, tmp_path)
    with av.open(str(path)) as video:
        assert video.streams.video[0].average_rate == 5
        images = [frame.to_ndarray(format="rgb24").astype(int) for frame in video.decode(video=0)]
    assert [image.shape for image in images] == [(240, 400, 3)] * cases.NUM_FRAMES
    blended = (np.array(color(6)) + 90) / 2
    assert np.abs(images[0][150, 200] - blended).max() < 12 and np.abs(images[0][220, 20] - 90).max() < 12
    assert np.abs(images[5][150, 200] - 90).max() < 12


def test_frames_so_far(clip, tmp_path):
    """A run that was stopped gives the frames that it has."""
    whole = cases.objects("x").load()
    tracks = [dataclasses.replace(each, segmentations=each.segmentations[:2]) for each in whole.tracks]
    result = dataclasses.replace(whole, num_frames=2, tracks=tracks)
    for kind in downloads.FORMATS:
        downloads.write(kind, result, clip, (), OPTIONS, tmp_path)
    assert back("masks", tmp_path / "masks.zip", OPTIONS).frame_names == NAMES[:2]
    with av.open(str(tmp_path / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 2


def test_cvat_outlines(clip, tmp_path):
    path = downloads.write("cvat_outlines", cases.objects("x").load(), clip, (), OPTIONS, tmp_path)
    text = path.read_text()
    assert "<polygon " in text and "<mask " not in text and "my clip" not in text


def test_what_a_format_cannot_hold(clip, tmp_path):
    result = cases.objects("x", ids=(1, 2, 255)).load()
    with pytest.raises(ValueError, match=r"object id 255 does not fit a palette PNG \(1..254\)"):
        downloads.write("masks", result, clip, (), OPTIONS, tmp_path)
    with pytest.raises(ValueError, match="expected one of overlay, .* found 'exe'"):
        downloads.write("exe", result, clip, (), OPTIONS, tmp_path)
    with pytest.raises(ValueError, match=r"expected results of 1..2 frames, found 6"):
        downloads.write("coco", result, dataclasses.replace(clip, num_frames=2), (), OPTIONS, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["frames"], "nothing is left behind"
