"""What all formats share: files are read back as they were written, whole or not at all, and hold what fits them."""

import dataclasses
import json
import pathlib
import weakref
import zipfile

import numpy as np
import pytest

from tarvis_jax.masks import rle
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options, ResultVideo
from tests.results.formats import cases

NAMES = ("ball", "box")
VPS = Options(thing_classes=(4,))
LABELS = Options(class_names=NAMES)


def cityscapes_names(video):
    return tuple(f"aachen_{int(video):06d}_{frame:06d}_leftImg8bit" for frame in range(cases.NUM_FRAMES))


def annotations(tmp_path, name, videos):
    """The benchmark's own JSON for these videos."""
    content = {}
    if name == "burst":
        listed = [
            {
                "id": i,
                "dataset": video.id.split("/")[0],
                "seq_name": video.id.split("/")[1],
                "height": cases.SIZE[0],
                "width": cases.SIZE[1],
                "fps": 30,
                "annotated_image_paths": [f"{each}.jpg" for each in video.frame_names],
                "track_category_ids": {"1": 805, "2": 81, "7": 81},
                "segmentations": [{} for _ in video.frame_names],
            }
            for i, video in enumerate(videos)
        ]
        content = {"sequences": listed, "categories": [{"id": 81}], "split": "val"}
    elif name == "cityscapes_vps":
        size = {"height": cases.SIZE[0], "width": cases.SIZE[1]}
        content["images"] = [
            {"id": f"{int(video.id):04d}_{frame:04d}_{each[:20]}", "file_name": f"{video.id}_{each}.png", **size}
            for video in videos
            for frame, each in enumerate(video.frame_names)
        ]
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def case(name, tmp_path) -> tuple[list[ResultVideo], Options, tuple[str, ...]]:
    """Videos for a format, options, and what it does not hold."""
    if name in ("davis2017", "mose", "youtube_vos"):
        return [cases.objects("cat"), cases.objects("dog", ids=(1, 254), seed=1)], Options(), ()
    if name in ("ytvis", "ovis"):
        videos = [cases.instances(7, ids=(1, 2, 3)), cases.instances(12, ids=(1, 2, 3), seed=1)]
        return videos, Options(max_predictions=3), ()
    if name == "burst":
        videos = [cases.objects("LaSOT/cat-1"), cases.objects("BDD/b1", seed=1)]
        return videos, Options(annotations=annotations(tmp_path, name, videos)), ()
    if name == "kitti_step":
        return [cases.panoptic("0002"), cases.panoptic("0010", ids=(1, 999), seed=1)], VPS, ()
    if name == "cityscapes_vps":
        videos = [
            dataclasses.replace(cases.panoptic(video, seed=i), frame_names=cityscapes_names(video))
            for i, video in enumerate(("0005", "0010"))
        ]
        return videos, dataclasses.replace(VPS, annotations=annotations(tmp_path, name, videos)), ()
    if name == "vipseg":
        return [cases.panoptic("0_aXq3"), cases.panoptic("101_b", ids=(1, 65535), seed=1)], VPS, ()
    if name == "vspw":
        videos = [cases.panoptic("a"), cases.panoptic("b", seed=1)]
        stripped = [dataclasses.replace(video.load(), tracks=[]) for video in videos]
        return [cases.video_of(v.id, result) for v, result in zip(videos, stripped, strict=True)], VPS, ()
    videos = [cases.instances("street"), cases.instances("yard", ids=(1, 2, 3), seed=1)]
    if name in ("coco_video", "datumaro"):
        return [videos[0], cases.instances("yard", ids=("ball & <b>", 4, 0), seed=1)], LABELS, ()
    if name == "cvat_video":
        return [videos[0], cases.instances("yard", ids=("ball & <b>", 4, 0), seed=1)], LABELS, ("scores",)
    return videos, LABELS, ("scores",)  # mots, mots_txt


@pytest.mark.parametrize("name", formats.FORMATS)
def test_round_trip(name, tmp_path):
    videos, options, lost = case(name, tmp_path)
    module = formats.module(name)
    written = module.write(tmp_path / "out", videos, options)
    assert all(path.exists() for path in written) and not list(tmp_path.glob("*.partial*"))
    back = {video.id: video for video in module.read(tmp_path / "out", options)}
    assert sorted(map(str, back)) == sorted(str(video.id) for video in videos)
    for video in videos:
        cases.same(video, back[video.id], without=lost)
        if name not in ("mots_txt", "cvat_video", "ytvis", "ovis", "cityscapes_vps"):
            assert back[video.id].frame_names == video.frame_names
    # What was read is written to the same bytes, and over the files that are there.
    first = [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]
    if name not in ("mots_txt", "cvat_video", "cityscapes_vps"):  # these hold no names of frames
        module.write(tmp_path / "out", [back[video.id] for video in videos], options)
        assert first == [path.read_bytes() for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]


ZIPPED = {
    "ytvis": ["results.json"],
    "davis2017": ["cat/00000.png", "cat/00001.png"],
    "mose": ["cat/00000.png", "cat/00001.png"],
    "youtube_vos": ["Annotations/cat/00000.png", "Annotations/cat/00001.png"],
    "mots_txt": ["street.txt", "yard.txt"],
}


@pytest.mark.parametrize("name", ZIPPED)
def test_zip(name, tmp_path):
    videos, options, _ = case(name, tmp_path)
    *_, path = formats.module(name).write(tmp_path / "out", videos, options)
    assert path == tmp_path / "out.zip"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert archive.testzip() is None and names[: len(ZIPPED[name])] == ZIPPED[name]
        for each in names:
            assert archive.read(each) == (tmp_path / "out" / each).read_bytes()
    first = path.read_bytes()
    formats.module(name).write(tmp_path / "out", videos, options)
    assert path.read_bytes() == first


@pytest.mark.parametrize("name", formats.FORMATS)
def test_nothing_stays_of_results_that_cannot_be_written(name, tmp_path):
    videos, options, _ = case(name, tmp_path)

    def load():
        raise OSError("gone")

    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(OSError, match="gone"):
        formats.module(name).write(folder / "out", [videos[0], dataclasses.replace(videos[1], load=load)], options)
    assert list(folder.iterdir()) == []
    with pytest.raises(ValueError, match=f"video {videos[0].id!r}: its result is there twice"):
        formats.module(name).write(folder / "out", [videos[0], videos[0]], options)
    assert list(folder.iterdir()) == []


def test_other_files_are_not_lost(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"out: the folder has 1 files that are none of these results, such as thesis"):
        formats.module("davis2017").write(tmp_path / "out", [cases.objects("cat")])
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.txt"]
    for wrong in (tmp_path / "out" / "thesis.txt", pathlib.Path(), tmp_path / ".."):
        with pytest.raises(ValueError, match="expected a folder for result files"):
            formats.module("davis2017").write(wrong, [cases.objects("cat")])


@pytest.mark.parametrize("name", formats.FORMATS)
def test_one_video_at_a_time(name, tmp_path):
    videos, options, _ = case(name, tmp_path)
    held = []

    def once(video):
        def load():
            assert all(result() is None for result in held)
            result = dataclasses.replace(video.load())
            held.append(weakref.ref(result))
            return result

        return dataclasses.replace(video, load=load)

    formats.module(name).write(tmp_path / "out", map(once, videos), options)
    assert len(held) == 2


@pytest.mark.parametrize("name", formats.FORMATS)
def test_names_stay_inside(name, tmp_path):
    videos, options, _ = case(name, tmp_path)
    folder = tmp_path / "new" / "deeper"
    for bad in ("../other", "/tmp/other", "a/../../b", "", "a//b", "a\\b"):
        for changes in ({"id": bad}, {"frame_names": (*videos[0].frame_names[:-1], bad)}):
            with pytest.raises(ValueError, match="expected a name"):
                formats.module(name).write(folder, [dataclasses.replace(videos[0], **changes)], options)
    assert not list((tmp_path / "new").iterdir())


def _score(result, score):
    tracks = [dataclasses.replace(result.tracks[0], score=score), *result.tracks[1:]]
    return dataclasses.replace(result, tracks=tracks)


CHECKS = {
    "score": (lambda r: _score(r, float("nan")), "expected a finite score, found nan"),
    "frame count": (lambda r: dataclasses.replace(r, num_frames=3), "6 masks for 3 frames"),
    "two ids": (lambda r: dataclasses.replace(r, tracks=r.tracks + r.tracks[:1]), "two tracks have the id 1"),
    "size": (lambda r: dataclasses.replace(r, size=(24, 41)), r"a mask of \[24, 40\], expected \[24, 41\]"),
}


@pytest.mark.parametrize("key", CHECKS)
def test_results_that_do_not_fit_together(key, tmp_path):
    change, message = CHECKS[key]
    video = cases.objects("cat")
    with pytest.raises(ValueError, match=rf"video 'cat'.*{message}"):
        formats.module("davis2017").write(tmp_path / "out", [cases.video_of("cat", change(video.load()))])
    with pytest.raises(ValueError, match="video 'cat': 6 frames in its result, 3 names"):
        formats.module("davis2017").write(tmp_path / "out", [dataclasses.replace(video, frame_names=("a", "b", "c"))])
    with pytest.raises(ValueError, match="two of its frames have one name"):
        formats.module("davis2017").write(tmp_path / "out", [dataclasses.replace(video, frame_names=("a",) * 6)])


IDS = {
    "davis2017": ((0, 255, "ball"), r"does not fit a palette PNG \(1\.\.254\)"),
    "youtube_vos": ((0, 255, "ball"), r"does not fit a palette PNG \(1\.\.254\)"),
    "mots": ((1000, 2000, -1, 70000, "ball"), "does not fit MOTS"),
    "mots_txt": ((1000, 2000, -1, 70000, "ball"), "does not fit MOTS"),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_that_do_not_fit(name, tmp_path):
    for bad in IDS[name][0]:
        if bad == 1000 and name.startswith("mots"):
            continue  # number 0 of class 1
        with pytest.raises(ValueError, match=rf"object id {bad!r}.*{IDS[name][1]}"):
            formats.module(name).write(tmp_path / "out", [cases.objects("cat", ids=(1, bad))])
    assert not (tmp_path / "out").exists()


def test_unknown_format():
    with pytest.raises(ValueError, match="format: expected one of ytvis, .*, found 'avi'"):
        formats.module("avi")


def test_higher_scores_cover(tmp_path):
    full = np.ones((cases.NUM_FRAMES, *cases.SIZE), bool)
    left = full.copy()
    left[:, :, 20:] = False
    result = cases.instances("cat").load()
    result.tracks = [cases.track(1, left, 1, 0.9), cases.track(2, full, 2, 0.4), cases.track(3, left, 1, 0.9)]
    for name in ("davis2017", "mots", "mots_txt"):
        module = formats.module(name)
        module.write(tmp_path / name, [cases.video_of("cat", result)], LABELS)
        (back,) = module.read(tmp_path / name, LABELS)
        found = {track.id: rle.decode(track.segmentations[0]) for track in back.load().tracks}
        np.testing.assert_array_equal(found[3], left[0])
        np.testing.assert_array_equal(found[2], ~left[0])
        assert 1 not in found
