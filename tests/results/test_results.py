import json

import cv2
import numpy as np
import pytest
from PIL import Image

from tarvis_jax.masks import rle
from tarvis_jax.masks.palette import palette
from tarvis_jax.results.davis import write_davis_pngs
from tarvis_jax.results.panoptic import thing_tracks, write_panoptic_pngs
from tarvis_jax.results.tracks import (
    Track,
    VideoResult,
    encode_semantic,
    read_tracks,
    write_tracks,
)
from tarvis_jax.results.youtube_vis import ranked_instances, write_youtube_vis

SIZE = (6, 8)


def _mask(start, stop):
    mask = np.zeros(SIZE, bool)
    mask[:, start:stop] = True
    return mask


def _track(track_id, start, stop, logits=None):
    track = Track(track_id, [rle.encode(_mask(start, stop)), None])
    if logits is not None:
        scores = np.exp(logits) / np.exp(logits).sum()
        track.class_logits, track.class_id = list(map(float, logits)), 1 + int(np.argmax(scores[1:]))
        track.score = float(scores[track.class_id])
    return track


def _result(tracks, semantic=None):
    return VideoResult("clip", "KITTI_STEP", SIZE, 2, tracks, semantic)


def test_rle_round_trip():
    mask = np.random.default_rng(0).random((7, 5)) > 0.5
    encoded = rle.encode(mask)
    assert encoded["size"] == [7, 5] and isinstance(encoded["counts"], str)
    np.testing.assert_array_equal(rle.decode(encoded), mask)


def test_tracks_file_round_trip(tmp_path):
    class_map = np.arange(48).reshape(SIZE) % 3
    semantic = [encode_semantic(class_map), encode_semantic(np.zeros(SIZE, int))]
    result = _result([_track(4, 0, 3, [0.0, 2.0, 1.0]), _track(9, 2, 5)], semantic)
    write_tracks(tmp_path / "out" / "tracks.json", result)
    back = read_tracks(tmp_path / "out" / "tracks.json")
    assert back == result
    np.testing.assert_array_equal(back.semantic_map(0), class_map)
    (tmp_path / "other.json").write_text('{"video": 1}')
    with pytest.raises(ValueError, match=r"other\.json: not a tracks file"):
        read_tracks(tmp_path / "other.json")
    with pytest.raises(ValueError, match="no semantic maps"):
        _result([]).semantic_map(0)


def test_youtube_vis_ranks_classes_and_removes_overlap_within_a_class(tmp_path):
    result = _result([_track(1, 0, 4, [0.0, 5.0, 1.0]), _track(2, 2, 6, [0.0, 6.0, 5.0])])
    ranked = ranked_instances(result, 3)
    assert [(row, class_id) for row, class_id, _ in ranked] == [(0, 1), (1, 1), (1, 2)]
    assert ranked[0][2] == pytest.approx(np.exp(5) / (1 + np.exp(5) + np.exp(1)))
    write_youtube_vis(tmp_path / "results.json", {7: result}, 3)
    predictions = json.loads((tmp_path / "results.json").read_text())
    assert [p["category_id"] for p in predictions] == [1, 1, 2] and {p["video_id"] for p in predictions} == {7}
    masks = [rle.decode(p["segmentations"][0]) for p in predictions]
    for mask, expected in zip(masks, (_mask(0, 4), _mask(4, 6), _mask(2, 6)), strict=True):
        np.testing.assert_array_equal(mask, expected)
    assert all(p["segmentations"][1] is None for p in predictions)
    assert ranked_instances(_result([]), 3) == []


def test_panoptic_pngs(tmp_path):
    semantic = [encode_semantic(np.full(SIZE, 2))] * 2
    tracks = [
        _track(300, 0, 4, [0.0, 9.0, 0.0, 0.0]),  # class 0, a thing
        _track(2, 2, 6, [0.0, 3.0, 0.0, 0.0]),  # the same with a lower score: below
        _track(3, 6, 8, [0.0, 0.0, 9.0, 0.0]),  # class 1 is stuff
        _track(4, 6, 8, [9.0, 8.9, 0.0, 0.0]),  # background
    ]
    result = _result(tracks, semantic)
    assert [t.id for t in thing_tracks(result, (0,), 0.5)] == [2, 300]
    write_panoptic_pngs(tmp_path, result, (0,), frame_names=["a", "b"])
    image = cv2.cvtColor(cv2.imread(str(tmp_path / "a.png")), cv2.COLOR_BGR2RGB)
    assert image[0].tolist() == [[0, 1, 44]] * 4 + [[0, 0, 2]] * 2 + [[2, 0, 0]] * 2
    assert (cv2.imread(str(tmp_path / "b.png"))[..., ::-1] == (2, 0, 0)).all()


def test_davis_pngs(tmp_path):
    write_davis_pngs(tmp_path, _result([_track(1, 0, 2), _track(5, 4, 6)]))
    image = Image.open(tmp_path / "00000.png")
    assert image.mode == "P" and np.asarray(image)[3].tolist() == [1, 1, 0, 0, 5, 5, 0, 0]
    assert np.asarray(image.convert("RGB"))[0, 4].tolist() == [128, 0, 128]
    assert not np.asarray(Image.open(tmp_path / "00001.png")).any()
    assert palette()[[0, 1, 2, 3, 8, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [224, 224, 192],
    ]
    with pytest.raises(ValueError, match="object id 256"):
        write_davis_pngs(tmp_path, _result([_track(256, 0, 2)]))
