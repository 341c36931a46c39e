"""The compact cases: what they keep, what they see, and that they are what the full ones hold."""

import math

import numpy as np
import pytest

from tests.parity.common import REFERENCE, Sampled, load_npz, relative_l2, save_npz
from tests.tools.make_compact_parity import make

MAX_BYTES = 3_000_000


def test_positions_differ_and_fall_on_every_index_of_every_axis():
    for shape in [(2, 256, 16, 32), (10, 1, 128, 41), (1, 169, 256)]:
        positions = Sampled.positions(shape)
        assert len(set(positions)) == Sampled.NUM_POSITIONS
        for axis, index in enumerate(np.unravel_index(positions, shape)):
            assert len(set(index)) >= min(shape[axis], 128), (shape, axis)


def test_errors_at_the_positions_and_of_the_norm_are_seen():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4, 30, 50)).astype(np.float32)
    sampled = Sampled.of(whole)
    assert relative_l2(whole, sampled) < 1e-7

    noisy = whole + rng.normal(0, 1e-3, whole.shape)
    assert relative_l2(noisy, sampled) == pytest.approx(relative_l2(noisy, whole), rel=0.2)
    elsewhere = np.setdiff1d(np.arange(whole.size), Sampled.positions(whole.shape))
    grown = whole.copy()
    grown.ravel()[elsewhere] *= 1.01
    assert 0.005 < relative_l2(grown, sampled) < 0.01
    assert relative_l2(whole[:, ::-1], sampled) > 1
    assert math.isinf(relative_l2(np.where(whole == whole.max(), np.nan, whole), sampled))
    with pytest.raises(ValueError, match=r"shapes differ: ours \(30, 50\), reference \(4, 30, 50\)"):
        relative_l2(whole[0], sampled)


def test_files_keep_both_kinds(tmp_path):
    arrays = {"decoder/x": Sampled.of(np.arange(5000.0).reshape(50, 100)), "output/ids": np.array([1, 5])}
    save_npz(tmp_path / "a.npz", arrays)
    back = load_npz(tmp_path / "a.npz")
    assert list(back) == list(arrays)
    np.testing.assert_array_equal(back["output/ids"], [1, 5])
    assert_same(back["decoder/x"], arrays["decoder/x"])


def assert_same(a, b):
    assert type(a) is type(b) and a.shape == b.shape
    if isinstance(a, Sampled):
        assert a.norm == pytest.approx(b.norm, rel=1e-12)  # BLAS sums in an order of its own on each processor
        a, b = a.values, b.values
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


def test_they_are_small():
    assert sum(path.stat().st_size for path in REFERENCE.rglob("*")) < MAX_BYTES


def test_they_are_what_the_full_cases_hold(shared_dir, tmp_path):
    make(shared_dir / "parity", tmp_path)
    files = sorted(path.relative_to(REFERENCE) for path in REFERENCE.rglob("*") if path.is_file())
    files = [file for file in files if not file.parts[0].startswith("own_")]
    assert files == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    for file in files:
        if file.suffix == ".npz":
            committed, made = load_npz(REFERENCE / file), load_npz(tmp_path / file)
            assert list(committed) == list(made), file
            for key, value in committed.items():
                assert_same(value, made[key])
        else:
            assert (REFERENCE / file).read_text() == (tmp_path / file).read_text(), file
