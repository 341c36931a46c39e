"""Pixel counts against a slow version that lists every pixel."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tarvis_jax.model.cell_counts import grid_counts, nearest_cell, part_counts


def slow_part_counts(mask: np.ndarray, num_parts: int) -> np.ndarray:
    """[T, H, W] -> [q, T, H/4, W/4]."""
    T, H, W = mask.shape
    counts = np.zeros((num_parts, T, H // 4, W // 4), int)
    pixels = np.argwhere(mask)
    if len(pixels):
        pixels = np.tile(pixels, (int(np.ceil(num_parts / len(pixels))) if len(pixels) < num_parts else 1, 1))
        for part, members in enumerate(np.array_split(pixels, num_parts)):
            for t, y, x in members:
                counts[part, t, y // 4, x // 4] += 1
    return counts


@pytest.mark.parametrize("num_parts", [1, 4, 8])
def test_parts_of_masks_of_every_size(num_parts):
    rng = np.random.default_rng(0)
    sizes = [0, 1, 2, 3, 5, 7, 8, 9, 15, 100, 2 * 8 * 12]
    masks = np.zeros((1, len(sizes), 2, 8, 12), bool)
    for mask, size in zip(masks[0], sizes, strict=True):
        mask.ravel()[rng.choice(mask.size, size, replace=False)] = True
    expected = np.stack([slow_part_counts(mask, num_parts) for mask in masks[0]])
    np.testing.assert_array_equal(part_counts(jnp.asarray(masks), num_parts)[0], expected)


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (192, 320)])
def test_grid_cells_hold_every_free_pixel_once_and_follow_the_reference(size):
    rng = np.random.default_rng(0)
    free = rng.random((2, 1, *size)) < 0.7
    rows, columns = (torch.linspace(-0.499, 3.499, length).round().long().numpy() for length in size)
    index = rows[:, None] * 4 + columns
    expected = np.stack([free & (index == cell) for cell in range(16)], axis=1)  # [B, G, T, H, W]
    expected = expected.reshape(2, 16, 1, size[0] // 4, 4, size[1] // 4, 4).sum((-3, -1))
    np.testing.assert_array_equal(grid_counts(jnp.asarray(free), (4, 4)), expected)


def test_nearest_cell_is_grid_sample_nearest():
    points = np.random.default_rng(0).random((1, 200, 2)).astype(np.float32)
    index = torch.arange(6.0 * 10).reshape(1, 1, 6, 10)
    grid = torch.from_numpy(points[:, :, None, ::-1].copy()) * 2 - 1
    expected = torch.nn.functional.grid_sample(index, grid, mode="nearest", align_corners=False)[0, 0, :, 0]
    rows, columns = nearest_cell(jnp.asarray(points), 6, 10)
    np.testing.assert_array_equal(rows[0] * 10 + columns[0], expected.numpy())


def test_the_far_corner_belongs_to_the_last_cell():
    rows, columns = nearest_cell(jnp.ones((1, 2)), 6, 10)
    assert (int(rows[0]), int(columns[0])) == (5, 9)
