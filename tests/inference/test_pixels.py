"""Boundaries and class maps found on the device, against whole logits at the size of the video."""

import jax
import numpy as np
import pytest

from tarvis_jax.compiled import Programs
from tarvis_jax.inference import pixels
from tarvis_jax.inference.clips import plan_geometry
from tarvis_jax.inference.pixels import Pixels
from tarvis_jax.masks import rle

SIZES = [(50, 60), (128, 320), (33, 700), (1, 1)]


def geometry_of(size):
    """All have logits of one shape, so that programs are shared."""
    return plan_geometry(size, 40, 64, 64)


@pytest.fixture(scope="module")
def programs():
    return Programs()


def smooth_logits(count, geometry, seed=0):
    """Waves of all lengths, so that some runs are a pixel long and others fill columns."""
    height, width = (side // 4 for side in geometry.padded)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = rng.normal(0, rng.choice([0.02, 0.3, 1.5]), (count, 2))
    return np.stack([np.sin(a * y + b * x + i) + 0.3 * i for i, (a, b) in enumerate(waves)]).astype(np.float32)


def at_pixels(logits, geometry):
    rows, columns = geometry.upsampling()
    return rows @ logits @ columns.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("fetch_boundaries_only", [False, True])
def test_masks(programs, size, fetch_boundaries_only):
    geometry = geometry_of(size)
    logits = smooth_logits(11, geometry)
    logits[3] = -1
    logits[5] = 1
    frames = [(range(5), logits[:5]), ((), logits[:0]), ("abcdef", logits[5:])]
    drawing = Pixels(programs)
    drawing._fetch_boundaries_only = fetch_boundaries_only
    found = list(drawing.encode_masks(iter(frames), geometry))
    assert [list(each) for each in found][1:] == [[], list("abcdef")] and 3 not in found[0]
    for (ids, each), masks in zip(frames, found, strict=True):
        for name, values in zip(ids, at_pixels(each, geometry), strict=True):
            mask = rle.decode(masks[name]) if name in masks else np.zeros(size, bool)
            assert ((mask == (values > 0)) | (np.abs(values) < 1e-5)).all()
            assert name not in masks or masks[name] == rle.encode(mask)


def test_more_boundaries_than_are_fetched_at_once(programs, monkeypatch):
    geometry = geometry_of((70, 90))
    logits = np.random.default_rng(0).normal(size=(2, 16, 16)).astype(np.float32)
    (expected,) = Pixels(programs).encode_masks([((1, 2), logits)], geometry)
    monkeypatch.setattr(pixels, "_FETCHED_WORDS", 100)
    drawing = Pixels(Programs())
    drawing._fetch_boundaries_only = True
    assert list(drawing.encode_masks([((1, 2), logits)], geometry)) == [expected]


@pytest.mark.parametrize("size", SIZES)
def test_owners_and_classes(programs, size):
    geometry = geometry_of(size)
    first, second = (smooth_logits(5, geometry, seed) for seed in (1, 2))
    values = at_pixels(first, geometry)
    drawing = Pixels(programs)
    owners = drawing.owners(first - 0.4, geometry)
    expected = np.where(values.max(0) > 0.4, 1 + values.argmax(0), 0)
    assert owners.shape == size and np.mean(owners == expected) > 0.999

    rows = np.array([0, 2, 3])
    clips = [jax.numpy.stack([first * 0, first], axis=1), jax.numpy.stack([second, first * 0], axis=1)]
    values = at_pixels((first + second)[rows] / 2, geometry)
    found = drawing.classes([(clips[0], 1), (clips[1], 0)], 2, rows, geometry)
    assert found.shape == size and np.mean(found == values.argmax(0)) > 0.999
    found = drawing.classes([(clips[1], 0)], 2, rows, geometry)
    assert np.mean(found == at_pixels(second[rows], geometry).argmax(0)) > 0.999


def test_frame_sizes_share_a_program():
    programs = Programs()
    for size in ((700, 1200), (1280, 720), (400, 700)):
        geometry = plan_geometry(size, 36, 64, 64)
        assert geometry.padded == (64, 64)
        list(Pixels(programs).encode_masks([([1], smooth_logits(1, geometry))], geometry))
    assert programs.num_compilations == 1
    geometry = plan_geometry((4000, 2000), 36, 64, 64)
    large = Pixels(programs)._tables(geometry)
    assert len(large[0].first) == 4 * pixels.MAX_TILES and large[0].num_tiles * large[1].num_tiles > pixels.MAX_TILES
