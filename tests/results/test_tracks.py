import numpy as np
import pytest

from tarvis_jax.masks import rle
from tarvis_jax.masks.palette import palette
from tarvis_jax.results.panoptic import numbered, thing_tracks
from tarvis_jax.results.tracks import (
    Track,
    VideoResult,
    encode_semantic,
    read_tracks,
    write_tracks,
)

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


def test_thing_tracks():
    tracks = [
        _track(300, 0, 4, [0.0, 9.0, 0.0, 0.0]),  # class 0, a thing
        _track(2, 2, 6, [0.0, 3.0, 0.0, 0.0]),  # the same with a lower score: below
        _track(3, 6, 8, [0.0, 0.0, 9.0, 0.0]),  # class 1 is stuff
        _track(4, 6, 8, [9.0, 8.9, 0.0, 0.0]),  # background
    ]
    assert [t.id for t in thing_tracks(_result(tracks), (0,), 0.5)] == [2, 300]
    tracks = numbered(tracks[:2], 255, "video")
    assert [t.id for t in tracks] == [2, 1] and numbered(tracks, 2, "video") == tracks
    with pytest.raises(ValueError, match=r"video: 2 tracks in its panoptic maps, the format has ids 1\.\.1"):
        numbered(tracks, 1, "video")
    with pytest.raises(ValueError, match="expected numbers as ids of the tracks, found 'ball'"):
        numbered([_track("ball", 0, 4)], 9, "video")


def test_palette():
    assert palette()[[0, 1, 2, 3, 8, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [128, 128, 0],
        [64, 0, 0],
        [224, 224, 192],
    ]
