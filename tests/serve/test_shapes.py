"""CVAT's shapes against CVAT's own package."""

import numpy as np
import pytest

from tarvis_jax.serve import shapes

cvat_masks = pytest.importorskip("cvat_sdk.masks", reason="needs cvat-sdk (tests/requirements.txt)")


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_those_of_cvat(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 30, 2)
    mask = rng.random((height, width)) < (0.1, 0.9)[seed % 2]
    mask[rng.integers(height), rng.integers(width)] = True
    points = shapes.from_mask(shapes.MASK, mask)
    assert points == cvat_masks.encode_mask(mask)
    box = [0, 0, int(width), int(height)]  # a box with room around the object, and numbers as JSON may have them
    for given in (points, [float(p) for p in points], cvat_masks.encode_mask(mask, bbox=box)):
        np.testing.assert_array_equal(shapes.to_mask(shapes.MASK, given, mask.shape, "shape"), mask)
        np.testing.assert_array_equal(
            cvat_masks.decode_mask(given, image_width=int(width), image_height=int(height)), mask
        )


def test_polygons():
    """An outline is that of the largest part; the pixels of the outline are where they were."""
    mask = np.zeros((40, 50), bool)
    mask[5:25, 10:30] = mask[30:33, 2:4] = True
    points = shapes.from_mask(shapes.POLYGON, mask)
    assert len(points) == 8 and all(type(value) is float for value in points)
    back = shapes.to_mask(shapes.POLYGON, points, mask.shape, "shape")
    assert back[6:24, 11:29].all() and not back[:5].any() and not back[25:].any() and not back[:, 30:].any()


@pytest.mark.parametrize(
    "kind, points, message",
    [
        ("rectangle", [1, 2, 3, 4], "expected a shape of type mask or polygon, found 'rectangle'"),
        ("mask", None, "expected a list of at most 2005 numbers, found NoneType"),
        ("mask", [1] * 3000, "expected a list of at most 2005 numbers, found 3000 numbers"),
        ("mask", [1, 2, 3, 4], "expected runs and a box"),
        ("mask", [0, 1, "2", 0, 0, 0, 0], "expected whole numbers"),
        ("mask", [0.5, 0.5, 0, 0, 0, 0], "expected whole numbers"),
        ("mask", [True, 0, 0, 0, 0], "expected whole numbers"),
        ("mask", [float("nan"), 1, 0, 0, 0, 0], "expected whole numbers"),
        ("mask", [10**400, 1, 0, 0, 0, 0], "expected whole numbers"),
        ("mask", [0, 4, 0, 0, 50, 0], "expected runs and a box"),
        ("mask", [0, 4, 3, 0, 2, 0], "expected runs and a box"),
        ("mask", [0, 5, 0, 0, 1, 1], "the runs of the mask add up to 5, its box has 4 pixels"),
        ("mask", [-4, 8, 0, 0, 1, 1], "the runs of the mask add up to 4, its box has 4 pixels"),
        ("polygon", [1, 1, 5, 5], "at least 6"),
        ("polygon", [1, 1, 5, 5, float("inf"), 3], "finite numbers"),
        ("polygon", [1e8, 1, 5, 5e8, 2, 3], "the outline of the polygon is"),
        ("polygon", [[1, 2], [3, 4], [5, 6]], "a polygon needs an even number of coordinates"),
        ("polygon", ["1", 2, 3, 4, 5, 6], "finite numbers"),
        ("polygon", [0] * 20_002, "expected a list of at most 20000 numbers"),
    ],
)
def test_wrong_shapes(kind, points, message):
    with pytest.raises(ValueError, match=message):
        shapes.to_mask(kind, points, (40, 50), "shapes[0]")
