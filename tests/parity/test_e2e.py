"""The reference's finished tracks on a real video, all four tasks."""

import pytest

from tests.parity import e2e_case
from tests.parity.common import OWN_E2E_SEED, format_table


@pytest.mark.slow
def test_golden_e2e(golden_dir):
    """The reference's tracks; in a bare clone a small model's on a drawn video, as we recorded them ourselves."""
    case_dir, seed = golden_dir / "e2e_ResNet50", 0
    if not case_dir.is_dir():
        case_dir, seed = golden_dir / "own_e2e", OWN_E2E_SEED
    rows = e2e_case.run(case_dir, seed, backbone="ResNet50")
    assert {row.stage for row in rows} == {"instance", "panoptic", "mask", "point"}
    failed = [row for row in rows if not row.ok]
    assert not failed, "\n" + format_table(failed)
