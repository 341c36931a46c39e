"""What stands in the files of the benchmarks, as their official tools read it."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tarvis_jax.masks import rle
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options, youtube_vis
from tarvis_jax.results.tracks import Track, VideoResult, encode_semantic
from tests.results.formats import cases

SIZE = (6, 8)


def columns(start, stop):
    mask = np.zeros(SIZE, bool)
    mask[:, start:stop] = True
    return mask


def track(track_id, start, stop, logits=None, **fields):
    result = Track(track_id, [rle.encode(columns(start, stop)), None], **fields)
    if logits is not None:
        scores = np.exp(logits) / np.exp(logits).sum()
        result.class_logits, result.class_id = list(map(float, logits)), 1 + int(np.argmax(scores[1:]))
        result.score = float(scores[result.class_id])
    return result


def video(tracks, semantic=None, id="clip"):
    return cases.video_of(id, VideoResult(str(id), "", SIZE, 2, tracks, semantic), ("a", "b"))


def write(name, tmp_path, videos, options=Options()):  # noqa: B008
    return formats.module(name).write(tmp_path / "out", videos, options)


def test_youtube_vis_ranks_classes_and_removes_overlap_within_a_class(tmp_path):
    given = video([track(1, 0, 4, [0.0, 5.0, 1.0]), track(2, 2, 6, [0.0, 6.0, 5.0])], id=7)
    ranked = youtube_vis.ranked_instances(given.load(), 3)
    assert [(row, class_id) for row, class_id, _ in ranked] == [(0, 1), (1, 1), (1, 2)]
    assert ranked[0][2] == pytest.approx(np.exp(5) / (1 + np.exp(5) + np.exp(1)))
    path, _ = write("ytvis", tmp_path, [given], Options(max_predictions=3))
    predictions = json.loads(path.read_text())
    assert [p["category_id"] for p in predictions] == [1, 1, 2] and {p["video_id"] for p in predictions} == {7}
    found = [p["segmentations"] for p in predictions]
    assert found == [[rle.encode(columns(*each)), None] for each in ((0, 4), (4, 6), (2, 6))]
    assert youtube_vis.ranked_instances(video([]).load(), 3) == []


def test_youtube_vis_takes_tracks_with_one_class(tmp_path):
    tracks = [track(1, 0, 4, class_id=2, score=0.5), track(2, 0, 4, class_id=2, score=0.75)]
    path, _ = write("ytvis", tmp_path, [video(tracks, id=3)])
    best, covered = json.loads(path.read_text())
    assert (best["score"], best["segmentations"][0]) == (0.75, rle.encode(columns(0, 4)))
    assert (covered["score"], covered["segmentations"]) == (0.5, [None, None])  # nothing is left of it
    for wrong in ([track(1, 0, 4)], [tracks[0], track(2, 0, 4, [0.0, 1.0])]):
        with pytest.raises(ValueError, match="expected class logits, or a class, in all tracks"):
            write("ytvis", tmp_path, [video(wrong, id=3)])


def test_youtube_vis_videos_are_those_of_the_benchmark(tmp_path):
    names = ["x/00000.jpg", "x/00001.jpg"]
    listed = [{"id": i, "height": 6, "width": 8, "file_names": names} for i in (3, 5)]
    gt = tmp_path / "valid.json"
    gt.write_text(json.dumps({"videos": listed}))
    options = Options(annotations=gt)
    given = [video([track(1, 0, 4, class_id=2)], id=3), video([], id=5)]
    path, _ = write("ytvis", tmp_path, given, options)
    assert [v.frame_names for v in youtube_vis.read(path, options)] == [("00000", "00001")] * 2
    with pytest.raises(ValueError, match=r"1 of 2 videos of .*valid.json have no result: \[5\]"):
        write("ytvis", tmp_path, given[:1], options)
    with pytest.raises(ValueError, match=r"video 4: 2 frames, .*valid.json has no such video"):
        write("ytvis", tmp_path, [video([], id=4)], options)
    with pytest.raises(ValueError, match=r"video 'x': expected the number that the benchmark's JSON gives it"):
        write("ytvis", tmp_path, [video([], id="x")], options)


def test_kitti_step_pngs(tmp_path):
    tracks = [
        track(300, 0, 4, [0.0, 9.0, 0.0, 0.0]),  # class 0, a thing
        track(2, 2, 6, [0.0, 3.0, 0.0, 0.0]),  # the same with a lower score: below
        track(3, 6, 8, [0.0, 0.0, 9.0, 0.0]),  # class 1 is stuff
    ]
    given = video(tracks, [encode_semantic(np.full(SIZE, 2))] * 2)
    (out,) = write("kitti_step", tmp_path, [given], Options(thing_classes=(0,)))
    image = cv2.cvtColor(cv2.imread(str(out / "clip" / "a.png")), cv2.COLOR_BGR2RGB)
    assert image[0].tolist() == [[0, 1, 44]] * 4 + [[0, 0, 2]] * 2 + [[2, 0, 0]] * 2
    assert (cv2.imread(str(out / "clip" / "b.png"))[..., ::-1] == (2, 0, 0)).all()
    # An id beyond 999 numbers the tracks anew, in the order of their ids.
    tracks[0] = dataclasses.replace(tracks[0], id=1000)
    write("kitti_step", tmp_path, [given], Options(thing_classes=(0,)))
    image = cv2.imread(str(out / "clip" / "a.png"))[..., ::-1]
    assert image[0].tolist() == [[0, 0, 2]] * 4 + [[0, 0, 1]] * 2 + [[2, 0, 0]] * 2
    many = [track(i, i % 8, i % 8 + 1, class_id=1) for i in range(1, 1001)]
    with pytest.raises(ValueError, match=r"1000 tracks in its panoptic maps, the format has ids 1\.\.999"):
        write("kitti_step", tmp_path, [video(many, given.load().semantic)], Options(thing_classes=(0,)))
    with pytest.raises(ValueError, match="video 'clip': has no semantic maps"):
        write("kitti_step", tmp_path, [video([])])


def test_segments(tmp_path):
    """Ids stay the same in a video; a thing class without a track, and void, are no segments."""
    classes = np.array([[0, 0, 1, 1, 2, 2, 255, 255]] * 6)
    tracks = [track(9, 2, 3, class_id=2), track(400, 4, 5, class_id=3)]
    tracks[0].segmentations[1] = tracks[0].segmentations[0]
    given = video(tracks, [encode_semantic(classes)] * 2)
    (out,) = write("vipseg", tmp_path, [given], Options(thing_classes=(1, 2)))
    (pred,) = json.loads((out / "pred.json").read_text())["annotations"]
    assert pred["video_id"] == "clip" and [a["file_name"] for a in pred["annotations"]] == ["a.png", "b.png"]
    stuff, first, second = 1, 9 * 256 + 2, 400 * 256 + 3
    info = [[(s["id"], s["category_id"], s["area"]) for s in a["segments_info"]] for a in pred["annotations"]]
    assert info == [[(stuff, 0, 12), (first, 1, 6), (second, 2, 6)], [(stuff, 0, 12), (first, 1, 6)]]
    colors = np.asarray(Image.open(out / "pan_pred" / "clip" / "a.png")).astype(int)
    assert (colors @ (1, 256, 65536))[0].tolist() == [stuff, stuff, first, 0, second, 0, 0, 0]


def test_vspw_has_the_semantic_classes(tmp_path):
    classes = np.array([[0, 1, 2, 3, 4, 123, 123, 255]] * 6)
    given = video([track(9, 0, 8, class_id=2)], [encode_semantic(classes)] * 2)
    (out,) = write("vspw", tmp_path, [given], Options(thing_classes=(1,)))
    image = Image.open(out / "clip" / "a.png")
    assert image.mode == "L" and np.asarray(image)[0].tolist() == classes[0].tolist()


def test_davis_pngs(tmp_path):
    out, _ = write("davis2017", tmp_path, [video([track(1, 0, 2), track(5, 4, 6)])])
    image = Image.open(out / "clip" / "a.png")
    assert image.mode == "P" and np.asarray(image)[3].tolist() == [1, 1, 0, 0, 5, 5, 0, 0]
    assert np.asarray(image.convert("RGB"))[0, 4].tolist() == [128, 0, 128]
    assert not np.asarray(Image.open(out / "clip" / "b.png")).any()


def test_youtube_vos_has_the_annotated_frames(tmp_path):
    meta = tmp_path / "meta.json"
    objects = {"1": {"category": "cat", "frames": ["b"]}, "2": {"category": "cat", "frames": ["b"]}}
    meta.write_text(json.dumps({"videos": {"clip": {"objects": objects}}}))
    options = Options(annotations=meta)
    out, _ = write("youtube_vos", tmp_path, [video([track(1, 0, 2)])], options)
    assert [path.relative_to(out).as_posix() for path in out.rglob("*.png")] == ["Annotations/clip/b.png"]
    with pytest.raises(ValueError, match=r"video 'clip': 1 annotated frames have no result: \['b'\]"):
        given = dataclasses.replace(video([]), frame_names=("a", "c"))
        write("youtube_vos", tmp_path, [given], options)
    with pytest.raises(ValueError, match=r"meta.json have no result: \['clip'\]"):
        write("youtube_vos", tmp_path, [], options)
    with pytest.raises(ValueError, match="video 'other': .*meta.json does not list it"):
        write("youtube_vos", tmp_path, [video([], id="other")], options)


def test_burst_repeats_the_benchmark_and_leaves_empty_masks_out(tmp_path):
    sequence = {"id": 4, "dataset": "HACS", "seq_name": "s", "height": 6, "width": 8, "fps": 30}
    sequence |= {"annotated_image_paths": ["b.jpg"], "track_category_ids": {"1": 7, "2": 9}, "neg_category_ids": [3]}
    content = {"split": "test", "categories": [{"id": 7}], "sequences": [sequence | {"segmentations": [{}]}]}
    path = tmp_path / "first_frame_annotations.json"
    path.write_text(json.dumps(content))
    options = Options(annotations=path)
    tracks = [track(1, 0, 2, score=0.5), track(2, 4, 6)]
    tracks[0].segmentations[1], tracks[1].segmentations[1] = rle.encode(columns(1, 3)), rle.encode(columns(0, 0))
    given = video(tracks, id="HACS/s")
    (out,) = write("burst", tmp_path, [given], options)
    masks = {"1": {"rle": rle.encode(columns(1, 3))["counts"], "is_gt": False, "score": 0.5}}
    assert json.loads(out.read_text()) == content | {"sequences": [sequence | {"segmentations": [masks]}]}
    messages = {
        "HACS/t": (video([], id="HACS/t"), "does not list it"),
        "tracks": (video([track(3, 0, 2)], id="HACS/s"), r"tracks \[3\] are none of those that"),
        "frames": (dataclasses.replace(given, frame_names=("a", "c")), r"annotated frames have no result: \['b'\]"),
        "size": (cases.objects("HACS/s"), r"frames of \(24, 40\) \(height, width\), .* has \(6, 8\)"),
    }
    for wrong, message in messages.values():
        with pytest.raises(ValueError, match=message):
            write("burst", tmp_path, [wrong], options)
    with pytest.raises(ValueError, match=r"1 of 1 sequences of .* have no result: \['HACS/s'\]"):
        write("burst", tmp_path, [], options)
    with pytest.raises(ValueError, match="BURST: expected the benchmark's first_frame_annotations.json"):
        write("burst", tmp_path, [given])
