"""The report's own arithmetic: what counts as a miss, and which comparison a folder gets."""

import math

import numpy as np
import pytest

from tests.parity.common import Row, compare, format_table, relative_l2
from tests.parity.kinds import find_kind


def test_relative_l2():
    assert relative_l2([3.0, 4.4], [3.0, 4.0]) == pytest.approx(0.08)
    assert relative_l2([0.5], [0.0]) == 0.5
    assert math.isinf(relative_l2([np.nan], [1.0]))
    with pytest.raises(ValueError, match=r"instance: masks: shapes differ: ours \(2,\), reference \(1,\)"):
        compare("instance", "masks", [1.0, 2.0], [1.0], 1e-4)


def test_misses_are_shown():
    rows = [Row("a", "x", 1e-6, 1e-5), Row("a", "y", 1e-4, 1e-5), Row("a", "z", float("nan"), 1e-5)]
    assert [row.ok for row in rows] == [True, False, False]
    assert [line.split()[-1] for line in format_table(rows).splitlines()[1:]] == ["yes", "NO", "NO"]


def test_folders_of_no_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        find_kind(tmp_path / "absent")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"none of the kinds .*notes\.txt"):
        find_kind(tmp_path)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("ResNet50", "backbone"),
        ("ResNet50_soft_masked", "backbone"),
        ("losses", "losses"),
        ("train_step_ResNet50", "train_step"),
        ("e2e_ResNet50", "e2e"),
    ],
)
def test_the_kind_is_found_by_the_files(shared_dir, case, kind):
    assert find_kind(shared_dir / "parity/golden" / case).__name__ == f"tests.parity.{kind}_case"
