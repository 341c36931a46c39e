"""The reference's finished tracks on a real video, all four tasks."""

import pytest

from tests.parity import e2e_case
from tests.parity.common import format_table


@pytest.mark.slow
def test_golden_e2e(shared_dir):
    rows = e2e_case.run(shared_dir / "parity" / "golden" / "e2e_ResNet50", seed=0, backbone="ResNet50")
    assert {row.stage for row in rows} == {"instance", "panoptic", "mask", "point"}
    failed = [row for row in rows if not row.ok]
    assert not failed, "\n" + format_table(failed)
