"""The network against the reference on every stage (golden/<Backbone>)."""

import jax
import pytest

from tests.parity import backbone_case
from tests.parity.common import Row, format_table


def check(rows: list[Row], num_rows: int):
    assert len(rows) == num_rows
    assert all(row.ok for row in rows), format_table(row for row in rows if not row.ok)


def test_resnet50_in_all_four_tasks_from_pixels_to_outputs(shared_dir):
    check(backbone_case.run(shared_dir / "parity/golden/ResNet50", seed=0, backbone="ResNet50"), 44)


def test_soft_masked_decoder_on_the_reference_features(shared_dir):
    case_dir = shared_dir / "parity/golden/ResNet50_soft_masked"
    with jax.default_matmul_precision("highest"):
        model = backbone_case.load_model(case_dir, 0, "ResNet50")
        pyramid = backbone_case.reference_pyramid(case_dir)
        check(backbone_case.compare_kind(model, pyramid, case_dir, "instance"), 8)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "num_rows"), [("ResNet50_soft_masked", 16), ("SwinTiny", 28), ("ConvNextTiny", 16)])
def test_other_architectures_from_pixels_to_outputs(shared_dir, case, num_rows):
    check(backbone_case.run(shared_dir / "parity/golden" / case, seed=0, backbone=case.split("_")[0]), num_rows)


def test_a_soft_masked_case_fails_with_hard_masks(shared_dir):
    with pytest.raises(ValueError, match="mask_factors|scaling_factors"):
        backbone_case.load_model(
            shared_dir / "parity/golden/ResNet50_soft_masked", 0, "ResNet50", attention="hard_masked"
        )
