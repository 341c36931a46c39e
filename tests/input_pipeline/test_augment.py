import cv2
import numpy as np
import pytest

from input_pipeline import augment
from input_pipeline.augment import Clip
from input_pipeline.id_layers import IdLayers
from tarvis_jax.frame_size import resized_size


def clip_of_coordinates(height=40, width=56, frames=2):
    """Images hold their own coordinates; masks and class maps are functions of them."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([y * 2, x * 2, (y + x) % 7], -1).astype(np.uint8)
    masks = np.stack([(x > 10) & (x < 30) & (y > 8), y > 25])
    semantic = np.where(x < 20, 3, np.where(y < 10, 255, 1)).astype(np.uint8)
    layers = IdLayers.of_masks(np.stack([masks] * frames, 1))
    return Clip(np.stack([image] * frames), layers, np.stack([semantic] * frames))


def expected_from_images(clip):
    y, x = clip.images[..., 0] // 2, clip.images[..., 1] // 2
    masks = np.stack([(x > 10) & (x < 30) & (y > 8), y > 25])
    return masks, np.where(x < 20, 3, np.where(y < 10, 255, 1))


@pytest.mark.parametrize("change", [augment.flip, lambda c: augment.crop(c, 5, 7, 20, 30)])
def test_flip_and_crop_move_images_masks_and_classes_alike(change):
    result = change(clip_of_coordinates())
    masks, semantic = expected_from_images(result)
    np.testing.assert_array_equal(result.masks.to_bool(), masks)
    np.testing.assert_array_equal(result.semantic, semantic)
    assert result.images[0, 0, 0, 1] != 0  # something did move


@pytest.mark.parametrize("size", [(80, 112), (25, 35), (40, 56)])
def test_resize_keeps_images_and_masks_aligned(size):
    result = augment.resize(clip_of_coordinates(), size)
    found = result.masks.to_bool()
    assert result.size == size and found.shape == (2, 2, *size) and result.semantic.shape == (2, *size)
    masks, semantic = expected_from_images(result)
    # Interpolation moves an edge by less than a pixel of the smaller grid.
    assert (found != masks).mean() < 0.08
    assert (result.semantic != semantic).mean() < 0.08
    assert set(np.unique(result.semantic)) == {1, 3, 255}


def test_containing_crop_keeps_a_quarter_of_the_objects_and_preserving_crop_all():
    rng = np.random.default_rng(0)
    found = 0
    for trial in range(200):
        masks = np.zeros((2, 3, 40, 60), bool)
        top, left = rng.integers(0, 30), rng.integers(0, 45)
        masks[0, :, top : top + 8, left : left + 12] = True
        masks[1, trial % 3, rng.integers(0, 40), rng.integers(0, 60)] = True
        size = (30, 45)
        corner, is_enough = augment.containing_crop(masks, size, rng)
        union = masks.any((0, 1))
        window = union[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
        assert window.shape == size
        assert is_enough == (window.sum() >= int(union.sum() * 0.25))
        corner = augment.preserving_crop(masks[:, 0], size, rng)
        if corner is not None:
            found += 1
            window = masks[:, 0, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
            assert window.shape[1:] == size
            assert window.sum() == masks[:, 0].sum()
    assert found > 50


def test_crops_that_cannot_be():
    rng = np.random.default_rng(0)
    full = np.ones((1, 20, 30), bool)
    assert augment.preserving_crop(full, (15, 22), rng) is None
    assert augment.preserving_crop(np.zeros_like(full), (15, 22), rng) is None
    assert augment.containing_crop(np.zeros((1, 1, 20, 30), bool), (15, 22), rng) == (None, False)
    corner, is_enough = augment.containing_crop(np.ones((1, 1, 20, 30), bool), (5, 5), rng)  # 1/24 of the object
    assert not is_enough and 0 <= corner[0] <= 15 and 0 <= corner[1] <= 25
    edges = np.zeros((1, 1, 20, 40), bool)
    edges[..., :6, :2] = edges[..., 14:, -10:] = True
    for _ in range(20):  # the window that keeps the most of those tried
        tried = np.random.default_rng(rng.integers(10**6))
        corner, is_enough = augment.containing_crop(edges, (10, 10), tried, min_coverage=0.99, tries=200)
        assert not is_enough and edges[0, 0, corner[0] : corner[0] + 10, corner[1] : corner[1] + 10].sum() >= 50


def test_colors_change_alike_in_all_frames_and_stay_in_bounds():
    image = np.random.default_rng(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    images = np.stack([image, image, image])
    bounds = {"hue_saturation": 12, "contrast": (0.95, 1.05), "brightness": 25}
    changed = augment.jitter_colors(images, np.random.default_rng(1), **bounds)
    np.testing.assert_array_equal(changed[0], changed[2])
    assert changed.dtype == np.uint8 and not np.array_equal(changed, images)
    none = augment.jitter_colors(images, np.random.default_rng(1), hue_saturation=0, contrast=(1.0, 1.0), brightness=0)
    np.testing.assert_array_equal(none, images)
    gray = np.full((1, 4, 4, 3), 100, np.uint8)
    shifts = [
        int(
            augment.jitter_colors(gray, np.random.default_rng(i), hue_saturation=0, contrast=(1.0, 1.0), brightness=25)[
                0, 0, 0, 0
            ]
        )
        for i in range(60)
    ]
    assert min(shifts) < 90 and max(shifts) > 110 and 75 <= min(shifts) and max(shifts) <= 125


@pytest.mark.parametrize(
    ("size", "min_dim", "max_dim", "expected"),
    [
        ((720, 1280), 448, 1024, (448, 796)),
        ((1280, 720), 512, 1024, (910, 512)),
        ((300, 1200), 512, 1024, (256, 1024)),
        ((480, 854), None, 1333, (480, 854)),
    ],
)
def test_resized_size(size, min_dim, max_dim, expected):
    assert resized_size(size, min_dim, max_dim) == expected


def test_fitted_size_only_shrinks():
    assert augment.fitted_size((100, 200), (128, 256)) == (100, 200)
    assert augment.fitted_size((100, 200), (128, 100)) == (50, 100)


@pytest.mark.parametrize(("alpha", "shift"), [(1.05, 25), (1.05, -25), (0.95, 25), (0.95, -25), (3.3, -7), (0.0, 9)])
def test_contrast_and_brightness_are_those_of_a_table(alpha, shift):
    class Draws:
        def integers(self, low, high, size=None):
            return np.zeros(2, int) if size else shift

        def uniform(self, low, high):
            return alpha

    values = np.arange(256)
    image = np.stack([values, values[::-1], np.roll(values, 77)], -1).astype(np.uint8)[None]
    contrasted = np.clip(127 + alpha * (values - 127), 0, 255).astype(int)
    expected = np.clip(contrasted + shift, 0, 255)[image]
    found = augment.jitter_colors(image[None], Draws(), hue_saturation=12, contrast=(0.0, 4.0), brightness=25)[0]
    difference = np.abs(found - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize(("hue", "saturation"), [(-12, 7), (-3, -12), (12, 5), (5, -4), (0, 9)])
def test_hue_and_saturation_are_those_of_a_table(hue, saturation):
    """The shifts in HSV written out with tables; grays and saturated colors included."""

    class Draws:
        def integers(self, low, high, size=None):
            return np.array([hue, saturation]) if size else 0

        def uniform(self, low, high):
            return 1.0

    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3)).astype(np.uint8)
    image[:20] = image[:20, :, :1]
    image[20:30] = rng.choice([0, 255], (10, 80, 3))
    h, s, v = np.moveaxis(cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(int), -1, 0)
    shifted = np.stack([(h + int(hue / 255 * 180)) % 180, np.clip(s + saturation, 0, 255), v], -1).astype(np.uint8)
    expected = cv2.cvtColor(shifted, cv2.COLOR_HSV2RGB).astype(int)
    found = augment.jitter_colors(image[None], Draws(), hue_saturation=12, contrast=(1.0, 1.0), brightness=0)[0]
    assert np.abs(found - expected).max() <= 1
