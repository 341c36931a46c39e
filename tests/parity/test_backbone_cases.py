"""The network against the reference on every stage (golden/<Backbone>, in a bare clone reference/ResNet50)."""

import jax
import pytest

from tarvis_jax.model.variables import fill, flatten
from tests.parity import backbone_case
from tests.parity.common import Row, format_table


def check(rows: list[Row], num_rows: int):
    assert len(rows) == num_rows
    assert all(row.ok for row in rows), format_table(row for row in rows if not row.ok)


def test_resnet50_in_all_four_tasks(golden_dir):
    """From pixels to outputs; the compact case begins after the backbone's four maps."""
    case_dir = golden_dir / "ResNet50"
    num_rows = 44 if (case_dir / "input.npz").is_file() else 40
    check(backbone_case.run(case_dir, seed=0, backbone="ResNet50"), num_rows)


@pytest.mark.parametrize(
    ("kind", "path", "first_wrong"),
    [
        ("panoptic", "neck/layers/5/deformable/output_proj/kernel", "neck/stride32"),
        ("panoptic", "decoder/layers/8/ffn/linear2/bias", "decoder/queries_last"),
        ("point", "object_encoder/point_mlp/layers/0/kernel", "decoder/queries_first"),
    ],
)
def test_a_wrong_weight_is_seen(golden_dir, kind, path, first_wrong):
    """One layer's weights, off by 1 %: everything before that layer passes, and it and what follows does not."""
    case_dir = golden_dir / "ResNet50"
    with jax.default_matmul_precision("highest"):
        model = backbone_case.load_model(case_dir, 0, "ResNet50")
        variables = flatten(model)
        model = fill(model, variables | {path: 1.01 * variables[path]})
        pyramid, rows = backbone_case.compare_features(model, case_dir)
        rows += backbone_case.compare_kind(model, pyramid, case_dir, kind)
    assert [f"{row.stage.partition('/')[2]}/{row.tensor}" for row in rows if not row.ok][0] == first_wrong


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
