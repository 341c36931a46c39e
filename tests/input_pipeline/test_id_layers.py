"""Id layers against masks of their own: decoding, areas, windows, resizing."""

import types

import cv2
import numpy as np
import pytest

from input_pipeline.id_layers import IdLayers, resize_classes
from tarvis_jax.masks import rle

T, H, W = 3, 60, 90


def make_masks(overlapping: bool, count: int = 6, seed: int = 0) -> np.ndarray:
    """Ellipses, each absent from some frame; bool [N, T, H, W]."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, T, H, W), bool)
    for mask in masks:
        for frame in rng.permutation(T)[:2]:
            canvas = np.zeros((H, W), np.uint8)
            center = int(rng.integers(0, W)), int(rng.integers(0, H))
            axes = int(rng.integers(3, 30)), int(rng.integers(3, 30))
            cv2.ellipse(canvas, center, axes, float(rng.integers(180)), 0, 360, 1, -1)
            mask[frame] = canvas
    if not overlapping:
        for n in range(count):
            masks[n] &= ~masks[:n].any(0)
    return masks


def of_video(masks: np.ndarray, frames=range(T)) -> IdLayers:
    segmentations = [{10 + n: rle.encode(mask[t]) for n, mask in enumerate(masks) if mask[t].any()} for t in range(T)]
    video = types.SimpleNamespace(height=H, width=W, segmentations=segmentations)
    return IdLayers.of_segments(video, frames, [10 + n for n in range(len(masks))])


@pytest.mark.parametrize("overlapping", [False, True])
@pytest.mark.parametrize("make", [of_video, IdLayers.of_masks])
def test_layers_hold_the_masks(make, overlapping):
    masks = make_masks(overlapping)
    layers = make(masks)
    assert (len(layers.maps) > 1) == overlapping
    np.testing.assert_array_equal(layers.to_bool(), masks)
    np.testing.assert_array_equal(layers.areas(), masks.sum((2, 3)))
    np.testing.assert_array_equal(layers.union(), masks.any((0, 1)))
    np.testing.assert_array_equal(layers.union(slice(1, 2)), masks[:, 1].any(0))
    np.testing.assert_array_equal(layers.of_frame(2), masks[:, 2])
    np.testing.assert_array_equal(layers.select(np.array([1, 4])).to_bool(), masks[[1, 4]])
    moved = layers.flip().crop(slice(5, 50), slice(20, 70))
    np.testing.assert_array_equal(moved.to_bool(), masks[..., ::-1][..., 5:50, 20:70])


@pytest.mark.parametrize("size", [(25, 37), (60, 90), (131, 170), (30, 45)])
@pytest.mark.parametrize("make", [of_video, IdLayers.of_masks])
def test_resizing_is_opencvs_of_each_mask(make, size):
    masks = make_masks(overlapping=True)
    for change in (lambda layers: layers, lambda layers: layers.flip().crop(slice(3, 55), slice(8, 80))):
        changed = change(make(masks))
        found = changed.resize(size).to_bool()
        for n, t in np.argwhere(changed.to_bool().any((2, 3))):
            mask = changed.to_bool()[n, t].astype(np.float32)
            soft = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_LINEAR)
            certain = np.abs(soft - 0.5) > 1e-5  # rounding decides the others
            np.testing.assert_array_equal(found[n, t][certain], (soft > 0.5)[certain])
            assert certain.mean() > 0.9
        absent = ~changed.to_bool().any((2, 3))
        assert absent.any() and not found[absent].any()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 170), (131, 1), (4, 6)])
def test_small_targets_and_sizes(size):
    for row, column in ((0, 0), (H - 1, W - 1), (30, 41), (31, 44)):
        masks = np.zeros((1, T, H, W), bool)
        masks[0, 1, row, column] = True
        for layers in (of_video(masks), IdLayers.of_masks(masks), IdLayers.of_masks(masks).flip()):
            mask = layers.to_bool()[0, 1].astype(np.float32)
            expected = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_LINEAR).reshape(size) > 0.5
            np.testing.assert_array_equal(layers.resize(size).to_bool()[0, 1], expected)


@pytest.mark.parametrize("size", [(25, 37), (60, 90), (131, 170)])
def test_class_maps_are_resized_as_by_opencv(size):
    classes = np.random.default_rng(0).integers(0, 256, (H, W)).astype(np.uint8)
    expected = cv2.resize(classes, size[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize_classes(classes, size), expected)
    np.testing.assert_array_equal(resize_classes(np.asfortranarray(classes), size), expected)


def test_many_targets_and_id_maps():
    ids = np.random.default_rng(0).integers(0, 400, (T, H, W)).astype(np.int32) * 7
    wanted = [7 * n for n in range(1, 301)]
    layers = IdLayers.of_id_maps(list(ids), wanted)
    assert layers.maps.dtype == np.uint16
    masks = ids == np.array(wanted)[:, None, None, None]
    np.testing.assert_array_equal(layers.to_bool(), masks)
    np.testing.assert_array_equal(layers.areas(), masks.sum((2, 3)))


@pytest.mark.parametrize("size", [(200, 300), (20, 30)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])  # with .5 of the large one, there are too many runs
def test_painting_runs_is_decoding(size, share):
    mask = np.random.default_rng(0).random(size) < share
    pixels = np.full(mask.size, 9, np.uint8)
    assert rle.paint(pixels, rle.encode(mask), 5) == mask.sum()
    np.testing.assert_array_equal(pixels.reshape(size[::-1]).T, np.where(mask, 5, 9))
