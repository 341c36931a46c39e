import numpy as np

from tarvis_jax.inference.stitch import (
    ExemplarStitcher,
    InstanceStitcher,
    SemanticStitcher,
    drop_duplicates,
    mask_iou,
    select_tracks,
)


def _track(column, frames, level=1.0):
    """A stripe at `column` of a 4x8 map, positive in all frames."""
    logits = np.full((frames, 4, 8), -level, np.float32)
    logits[:, :, column : column + 2] = level
    return logits


def _class(*values):
    return np.asarray([values], np.float32)


def test_select_tracks():
    logits = np.log(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.1, 0.9, 0.0001], [0.9, 0.05, 0.05]], np.float32))
    assert select_tracks(logits, 10, 0.0).tolist() == [0, 1, 2, 3]
    assert select_tracks(logits, 2, 0.0).tolist() == [2, 1]
    assert select_tracks(logits, 10, 0.6).tolist() == [1, 2]


def test_drop_duplicates_keeps_the_better_of_two():
    masks = np.stack([_track(0, 2), _track(4, 2), _track(0, 2), _track(1, 2)])  # 2 repeats 0; 3 overlaps 0 by a third
    logits = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 3.0], [0.0, 0.5, 0.0]], np.float32)
    assert drop_duplicates(masks, logits, 1.0).tolist() == [0, 1, 2, 3]
    assert drop_duplicates(masks, logits, 0.5).tolist() == [1, 2, 3]
    assert drop_duplicates(masks, logits, 0.3).tolist() == [1, 2]
    assert drop_duplicates(masks[:0], logits[:0], 0.5).tolist() == []


def test_mask_iou_against_loops():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 2, 4, 4)) > 0.5, rng.random((2, 2, 4, 4)) > 0.5
    expected = [[((x & y).sum() + 1) / ((x | y).sum() + 1) for y in b] for x in a]
    np.testing.assert_allclose(mask_iou(a, b), expected, rtol=1e-6)
    assert mask_iou(np.zeros((1, 2, 2), bool), np.zeros((1, 2, 2), bool)) == 1


def test_tracks_keep_their_ids_when_queries_change_places():
    stitcher = InstanceStitcher()
    left, right = _track(0, 4), _track(5, 4)
    assert stitcher.add(0, np.stack([left, right]), np.concatenate([_class(0, 1), _class(0, 3)])) == [1, 2]
    assert stitcher.add(2, np.stack([right, left]), np.concatenate([_class(0, 5), _class(2, 1)])) == [2, 1]
    class_logits = stitcher.class_logits()
    np.testing.assert_array_equal(class_logits[1], [1, 1])
    np.testing.assert_array_equal(class_logits[2], [0, 4])


def test_overlap_is_averaged():
    stitcher = InstanceStitcher()
    stitcher.add(0, _track(0, 4, 1.0)[None], _class(0, 1))
    stitcher.add(2, _track(0, 4, 3.0)[None], _class(0, 1))
    assert [stitcher.pop(frame)[1].max() for frame in range(6)] == [1, 1, 2, 2, 3, 3]


def test_new_track_shows_after_the_overlap():
    stitcher = InstanceStitcher()
    stitcher.add(0, _track(0, 4)[None], _class(0, 1))
    assert stitcher.add(2, np.stack([_track(5, 4), _track(0, 4)]), np.zeros((2, 2))) == [2, 1]
    assert [sorted(stitcher.pop(frame)[0]) for frame in range(6)] == [[1], [1], [1], [1], [1, 2], [1, 2]]


def test_iou_below_the_threshold_makes_a_new_track():
    stitcher = InstanceStitcher(association_iou=0.5)
    stitcher.add(0, _track(0, 4)[None], _class(0, 1))
    assert stitcher.add(2, _track(1, 4)[None], _class(0, 1)) == [2]  # stripes share one of three columns


def test_clip_without_tracks_ends_them():
    stitcher = InstanceStitcher()
    stitcher.add(0, _track(0, 4)[None], _class(0, 1))
    assert stitcher.add(2, np.zeros((0, 4, 4, 8), np.float32), np.zeros((0, 2), np.float32)) == []
    assert stitcher.pop(0)[0] == [1]
    for frame in (1, 2, 3):
        stitcher.pop(frame)
    assert stitcher.add(4, _track(0, 4)[None], _class(0, 1)) == [2]
    assert [stitcher.pop(frame)[0] for frame in range(4, 8)] == [[], [], [2], [2]]


def test_overlap_of_more_than_half_a_clip():
    """Clips of 4 that share 3: a frame is averaged over four clips; a track survives a clip that missed it."""
    stitcher = InstanceStitcher()
    seen = []
    for first in range(5):
        tracks = np.zeros((0, 4, 4, 8), np.float32) if first == 2 else _track(0, 4, first + 1.0)[None]
        ids = stitcher.add(first, tracks, np.zeros((len(tracks), 2), np.float32))
        assert ids == ([] if first == 2 else [1])
        seen.append(stitcher.pop(first))
    assert [ids for ids, _ in seen] == [[1]] * 5
    np.testing.assert_allclose([logits.max() for _, logits in seen], [1, 1.5, 1.5, (1 + 2 + 4) / 3, (2 + 4 + 5) / 3])


def test_tracks_that_end_are_given_away_and_their_ids_are_not_used_again():
    stitcher = InstanceStitcher()
    stitcher.add(0, np.stack([_track(0, 4), _track(5, 4)]), np.array([[0.0, 1.0], [0.0, 2.0]]))
    assert stitcher.take_ended() == {}
    stitcher.pop(0), stitcher.pop(1)
    assert stitcher.add(2, np.stack([_track(5, 4), _track(2, 4)]), np.array([[0.0, 4.0], [0.0, 9.0]])) == [2, 3]
    assert stitcher.take_ended() == {}  # track 1 is still in frames 2 and 3
    stitcher.pop(2), stitcher.pop(3)
    ended = stitcher.take_ended()
    assert {track: logits.tolist() for track, logits in ended.items()} == {1: [0, 1]}
    assert sorted(stitcher.class_logits()) == [2, 3]
    assert stitcher.add(4, _track(0, 4)[None], _class(0, 1)) == [4]


def test_a_clip_that_replaces_the_one_before_keeps_its_ids():
    """As at the start of a camera: a clip of two frames, then one of three from the same frame on."""
    stitcher = InstanceStitcher()
    stitcher.add(0, np.stack([_track(0, 2, 9.0), _track(5, 2, 9.0)]), np.zeros((2, 2)))
    stitcher.start_over()
    assert stitcher.add(0, np.stack([_track(5, 3), _track(2, 3)]), np.ones((2, 2))) == [2, 3]
    assert stitcher.take_ended() == {} and sorted(stitcher.class_logits()) == [2, 3]
    layers = [stitcher.pop(frame) for frame in range(3)]
    assert [ids for ids, _ in layers] == [[2, 3]] * 3 and all(logits.max() == 1 for _, logits in layers)


def test_semantic_clips_of_a_frame():
    stitcher = SemanticStitcher()
    stitcher.add(0, 4, "first")
    stitcher.add(2, 4, "second")
    assert stitcher.peek(3) == [("first", 3), ("second", 1)]
    assert [stitcher.pop(frame) for frame in (1, 2, 5)] == [
        [("first", 1)],
        [("first", 2), ("second", 0)],
        [("second", 3)],
    ]


def test_exemplar_mean_is_over_the_clips_that_have_the_object():
    stitcher = ExemplarStitcher()
    stitcher.add(0, [7, 9], np.stack([_track(0, 4, 1.0), _track(5, 4, 1.0)]))
    stitcher.add(2, [9], _track(5, 4, 3.0)[None])
    layers = [stitcher.pop(frame) for frame in range(6)]
    assert [ids for ids, _ in layers] == [[7, 9]] * 4 + [[9]] * 2
    assert [logits[-1].max() for _, logits in layers] == [1, 1, 2, 2, 3, 3]
    assert stitcher.pop(6)[0] == []


def test_an_exemplar_that_is_forgotten():
    stitcher = ExemplarStitcher()
    stitcher.add(0, [7, 9], np.stack([_track(0, 4, 1.0), _track(5, 4, 2.0)]))
    assert stitcher.pop(0)[0] == [7, 9]
    stitcher.forget(7)
    assert [stitcher.pop(frame)[0] for frame in range(1, 4)] == [[9]] * 3
