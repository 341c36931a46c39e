import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tarvis_jax.masks import intervals, rle


def encoded(rng, mask):
    """A mask in one of the forms that annotation files have."""
    compressed = rle.encode(mask)
    runs = rle.run_lengths(compressed["counts"], "mask")
    forms = [compressed, {"size": list(mask.shape), "counts": runs.tolist()}]
    return [*forms, {"size": list(mask.shape), "counts": runs}, compressed["counts"]][rng.integers(4)]


@pytest.mark.parametrize("seed", range(20))
def test_areas_boxes_and_intersections(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    masks = [
        [rng.random((height, width)) < rng.choice([0, 0.01, 0.5, 0.99, 1]) for _ in range(rng.integers(0, 6))]
        for _ in range(2)
    ]
    one, other = (intervals.from_segmentations([encoded(rng, m) for m in each], height, width, str) for each in masks)
    assert one.areas().tolist() == [mask.sum() for mask in masks[0]]
    shared = np.array([[(a & b).sum() for b in masks[1]] for a in masks[0]]).reshape(len(one), len(other))
    np.testing.assert_array_equal(intervals.intersections(one, other), shared)
    if masks[0]:
        np.testing.assert_array_equal(one.boxes(height), coco_mask.toBbox([rle.encode(mask) for mask in masks[0]]))
        index = rng.integers(0, len(one), 4)
        np.testing.assert_array_equal(intervals.intersections(one.take(index), other), shared[index])


def test_tracks():
    """Two tracks of three frames; one is not in the second frame, a third track has no mask at all."""
    rng = np.random.default_rng(0)
    video = rng.random((2, 3, 9, 7)) < 0.5
    video[1, 1] = False
    places = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 2)]
    masks = intervals.from_segmentations([rle.encode(video[place]) for place in places], 9, 7, str)
    tracks, frames = np.array(places).T
    joined = masks.joined(frames, tracks, 3, 9 * 7)
    assert joined.areas().tolist() == [video[0].sum(), video[1].sum(), 0]
    shared, either = (video[0] & video[1]).sum(), (video[0] | video[1]).sum()
    expected = np.array([[1, shared / either, 0], [shared / either, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(intervals.union_iou(joined, joined), expected)


def test_what_is_malformed_is_refused_as_one_by_one():
    """Random damage: either `rle.to_rle` takes a mask and the pixels are the same, or both refuse it alike."""
    rng = np.random.default_rng(0)
    good = rle.encode(rng.random((12, 10)) < 0.5)["counts"]
    outcomes = set()
    for _ in range(400):
        text = list(good)
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(0, len(text))
            text[place : place + rng.integers(0, 2)] = [chr(rng.integers(40, 115))] * rng.integers(0, 3)
        segmentation = {"size": [12, 10], "counts": "".join(text)}
        try:
            expected = rle.decode(rle.to_rle(segmentation, 12, 10, "mask 1"))
        except ValueError as error:
            with pytest.raises(ValueError) as caught:
                intervals.from_segmentations([good, segmentation, good], 12, 10, lambda i: f"mask {i}")
            assert str(caught.value) == str(error)
            outcomes.add("refused")
        else:
            found = intervals.from_segmentations([good, segmentation, good], 12, 10, str)
            assert found.areas()[1] == expected.sum()
            outcomes.add("taken")
    assert "refused" in outcomes
    with pytest.raises(ValueError, match="mask 0: RLE has size"):
        intervals.from_segmentations([{"size": [10, 12], "counts": good}], 12, 10, lambda i: f"mask {i}")
