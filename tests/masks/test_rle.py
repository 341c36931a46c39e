import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from tarvis_jax.masks import rle
from tests.input_pipeline import official_files


def masks():
    rng = np.random.default_rng(0)
    yield np.zeros((7, 5), bool)
    yield np.ones((7, 5), bool)
    for _ in range(30):
        height, width = rng.integers(1, 90, 2)
        yield rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])
    large = np.zeros((700, 900), bool)
    large[100:640, 30:800] = True
    yield large


@pytest.mark.parametrize("mask", masks())
def test_every_form_of_a_mask_decodes_to_it(mask):
    height, width = mask.shape
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    plain = official_files.runs(mask.astype(np.uint8))
    for form in (text, plain, {"size": [height, width], "counts": text}, {"size": [height, width], "counts": plain}):
        encoded = rle.to_rle(form, height, width, "here")
        np.testing.assert_array_equal(rle.decode(encoded), mask)
        assert rle.area(encoded) == mask.sum()
    np.testing.assert_array_equal(rle.run_lengths(text, "here"), plain)
    np.testing.assert_array_equal(rle.decode(rle.encode(mask)), mask)


READERS = (rle._few_run_lengths, rle._many_run_lengths)  # of short and of long texts


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("mask", masks())
def test_short_and_long_texts_are_read_alike(mask, read):
    text = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    np.testing.assert_array_equal(read(text, "here"), official_files.runs(mask.astype(np.uint8)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"1T", "cut off"),  # "T" says that another character follows
        (b"1/1", "characters that no RLE has"),
        (b"1p1", "characters that no RLE has"),
        (b"TTTTTT1", "longer than 30 bits"),
    ],
)
def test_corrupt_texts(text, message, read):
    with pytest.raises(ValueError, match=f"here: corrupt RLE .*{message}"):
        read(text, "here")


@pytest.mark.parametrize("read", READERS)
def test_a_run_of_30_bits(read):
    np.testing.assert_array_equal(read(b"o" * 5 + b"?", "here"), [2**29 - 1])
    np.testing.assert_array_equal(read(b"PPPPP@", "here"), [-(2**29)])


def boundaries(mask):
    columns = np.concatenate(([False], mask.T.reshape(-1), [False]))
    return np.flatnonzero(columns[1:] != columns[:-1])


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (64, 90), (700, 900)])
def test_masks_encoded_together_are_those_of_pycocotools(size):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.normal(size=(9, 9, 4)), size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, 4)
    many = [smooth[..., i] > 0.3 for i in range(4)] + [
        rng.random(size) < share for share in (0.0, 0.01, 0.5, 0.99, 1.0)
    ]
    found = [boundaries(mask) for mask in many]
    together = rle.encode_boundaries(np.concatenate(found), np.array([len(each) for each in found]), size)
    assert together == [rle.encode(mask) for mask in many]
    assert rle.encode_boundaries(np.zeros(0, np.int64), np.zeros(0, np.int64), size) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_encoded_as_their_masks(dtype):
    rng = np.random.default_rng(0)
    labels = cv2.resize(rng.integers(0, 5, (6, 7)).astype(dtype), (90, 64), interpolation=cv2.INTER_NEAREST)
    labels[rng.random(labels.shape) < 0.1] = 200
    assert rle.encode_labels(labels) == {int(i): rle.encode(labels == i) for i in np.unique(labels)}
    assert rle.encode_labels(np.full((3, 4), 7, dtype)) == {7: rle.encode(np.ones((3, 4), bool))}


def test_polygons():
    encoded = rle.to_rle([[2, 3, 12, 3, 12, 9, 2, 9], [20, 0, 25, 0, 25, 4, 20, 4]], 16, 32, "here")
    expected = np.zeros((16, 32), bool)
    expected[3:9, 2:12] = True
    expected[0:4, 20:25] = True
    np.testing.assert_array_equal(rle.decode(encoded), expected)


def test_union():
    rng = np.random.default_rng(3)
    masks = rng.random((3, 16, 32)) < 0.2
    np.testing.assert_array_equal(rle.decode(rle.union([rle.encode(mask) for mask in masks])), masks.any(0))
    assert rle.union([rle.encode(masks[0])]) == rle.encode(masks[0])


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [5, 7], "counts": "o5"}, r"size \[5, 7\], but the image is \[height, width\] = \[7, 5\]"),
        (official_files.compressed(official_files.rectangle(1, 1, 9, 9)), "7 x 5 = 35"),
        ([30, 6], "add up to 36 pixels"),
        ([40, -5], "a run of the RLE is -5, expected at least 0"),
        ([10**30, 35 - 10**30], "a run of the RLE is 10+, the image has 35 pixels"),
        ("", "corrupt RLE"),
        ("~~~", "corrupt RLE"),
        ({"size": [7, 5]}, "without key 'counts'"),
        ([[1, 2, 3]], "polygon"),
        ([[1, 2, 3, 4, 5, float("nan")]], "expected finite numbers of pixels .* found nan"),
        ([[1, 2, 3, 4, 5, "6"]], "expected finite numbers of pixels .* found '6'"),
        ([[0, 0, 800, 0, 0, 800]], "outline of the polygon is 2400 pixels long, expected at most 1140"),
        (17, "expected an RLE or polygons"),
    ],
)
def test_a_mask_of_another_size_or_form_is_an_error(segmentation, message):
    with pytest.raises(ValueError, match=message) as caught:
        rle.to_rle(segmentation, 7, 5, "file.json, frame 3")
    assert str(caught.value).startswith("file.json, frame 3")
