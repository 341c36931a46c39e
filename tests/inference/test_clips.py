import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tarvis_jax.inference.clips import group_clips, iterate_clips, padded_sizes, plan_geometry


def _frames(count):
    return (np.full((1, 1, 3), index, np.uint8) for index in range(count))


def _indices(count, *schedule):
    return [[int(f[0, 0, 0]) for f in clip.frames] for clip in iterate_clips(_frames(count), *schedule)]


@pytest.mark.parametrize("count", [1, 4, 5, 6, 8, 9, 14, 15])
@pytest.mark.parametrize("length, overlap", [(5, 2), (5, 0), (5, 4), (6, 3), (1, 0)])
@pytest.mark.parametrize("first", [0, 3])
def test_schedule_is_that_of_a_known_length(count, length, overlap, first):
    """Against the rule stated with the number of frames in hand."""
    if first >= count:
        with pytest.raises(ValueError, match=f"starts at frame 3, but the video has only {count}"):
            _indices(count, length, overlap, first)
        return
    expected = []
    for start in range(first, count, length - overlap):
        expected.append(list(range(start, min(start + length, count))))
        if start + length >= count:
            break
    assert _indices(count, length, overlap, first) == expected
    flags = [clip.is_last for clip in iterate_clips(_frames(count), length, overlap, first)]
    assert flags == [False] * (len(flags) - 1) + [True]


@pytest.mark.parametrize("length, overlap", [(0, 0), (5, 5), (5, -1)])
def test_bad_schedule(length, overlap):
    with pytest.raises(ValueError, match="expected"):
        _indices(3, length, overlap)


def test_groups():
    """As many clips at once as there are, by powers of two; a shorter last clip goes alone."""
    asked = []

    def sizes(num_frames, most, room=100):
        def has_room(clips):
            asked.append(len(clips))
            return len(clips) <= room

        groups = list(group_clips(iterate_clips(_frames(num_frames), 4, 2), most, has_room))
        assert [clip.first for group in groups for clip in group] == list(range(0, max(1, num_frames - 2), 2))
        return [len(group) for group in groups]

    assert sizes(18, 4) == [4, 4] and sizes(17, 4) == [4, 2, 1, 1] and sizes(10, 8) == [4] and sizes(3, 8) == [1]
    assert sizes(18, 3) == [2] * 4
    asked.clear()
    assert sizes(17, 1) == [1] * 8 and not asked
    assert sizes(18, 8, room=2) == [2] * 4 and asked[:3] == [8, 4, 2] and set(asked[3:]) == {2}


def test_geometry_sizes():
    assert plan_geometry((120, 213), 96, 1333, 64).resized == (96, 170)
    assert plan_geometry((120, 213), 96, 1333, 64).padded == (128, 192)
    assert plan_geometry((100, 400), 96, 200, 64).resized == (50, 200)  # the larger side rules
    assert plan_geometry((375, 1242), None, 1333, 64).resized == (375, 1242)


def test_padded_sizes():
    table = padded_sizes(448, 1333, 64)
    assert table == [(448, 832), (832, 448), (448, 1344), (1344, 448)]
    sizes = [
        (720, 1280),
        (1080, 1920),
        (1280, 720),
        (360, 640),
        (480, 640),
        (480, 854),
        (544, 1280),
        (720, 406),
        (1, 9),
    ]
    for size in sizes:
        geometry, least = (plan_geometry(size, 448, 1333, 64, use_table=use) for use in (True, False))
        assert (geometry.resized, geometry.extent) == (least.resized, least.padded)
        assert geometry.padded in table and all(p >= e for p, e in zip(geometry.padded, geometry.extent, strict=True))
        points = [each.normalize_point((0.7 * size[0], 0.2 * size[1])) * each.padded for each in (geometry, least)]
        np.testing.assert_allclose(*points, rtol=1e-5)
        for matrix, expected in zip(geometry.upsampling(), least.upsampling(), strict=True):
            np.testing.assert_array_equal(matrix[:, : expected.shape[1]], expected)
            assert not matrix[:, expected.shape[1] :].any()
    assert plan_geometry((480, 854), None, 1333, 64, use_table=True).padded == (512, 896)  # native sizes
    assert padded_sizes(448, 500, 64) == [(448, 512), (512, 448)]


def test_prepared_images_and_masks():
    rng = np.random.default_rng(0)
    geometry = plan_geometry((40, 50), 32, 1333, 64)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    prepared = geometry.prepare_image(image)
    assert prepared.shape == (64, 64, 3) and prepared.dtype == np.uint8
    np.testing.assert_array_equal(prepared[:32, :40], cv2.resize(image, (40, 32)))
    assert (prepared[32:] == 128).all() and (prepared[:, 40:] == 128).all()
    mask = np.zeros((40, 50), bool)
    mask[:20, :25] = True
    prepared_mask = geometry.prepare_mask(mask)
    assert prepared_mask[:16, :20].all() and prepared_mask.sum() == 16 * 20


def test_a_mask_that_resizing_would_empty_keeps_a_pixel():
    geometry = plan_geometry((400, 500), 32, 1333, 64)
    mask = np.zeros((400, 500), bool)
    mask[200, 250] = True
    assert np.argwhere(geometry.prepare_mask(mask)).tolist() == [[16, 20]]


def test_point_is_normalized_to_the_padded_image():
    geometry = plan_geometry((40, 50), 32, 1333, 64)
    np.testing.assert_allclose(geometry.normalize_point((19.5, 24.5)), (16 / 64, 20 / 64), rtol=1e-6)


@pytest.mark.parametrize("size, min_dim", [((120, 213), 96), ((50, 64), None), ((33, 47), 80)])
def test_upsampling_equals_three_interpolations(size, min_dim):
    geometry = plan_geometry(size, min_dim, 1333, 64)
    height, width = geometry.padded
    logits = np.random.default_rng(0).standard_normal((2, height // 4, width // 4)).astype(np.float32)
    x = F.interpolate(torch.from_numpy(logits)[None], scale_factor=4.0, mode="bilinear", align_corners=False)
    x = x[..., : geometry.resized[0], : geometry.resized[1]]
    expected = F.interpolate(x, geometry.original, mode="bilinear", align_corners=False)[0].numpy()
    rows, columns = geometry.upsampling()
    np.testing.assert_allclose(rows @ logits @ columns.T, expected, atol=2e-5)
