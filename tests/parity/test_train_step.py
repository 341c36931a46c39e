"""Parameter groups of every family of backbones, and one whole training step, against the reference."""

import json
import re

import pytest

from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import OptimizerConfig
from tarvis_jax.train.optimizer import parameter_groups
from tests.parity import train_step_case
from tests.parity.common import format_table

TRAIN_STEP = "parity/golden/train_step_ResNet50"


def _reference_group(name: str, backbone: str) -> tuple[float, float]:
    """(learning rate, weight decay) that the reference's loop over modules gives a tensor, by its name there."""
    learning_rate = 1e-5 if name.startswith("backbone.backbone.") else 1e-4
    parent, last = name.rsplit(".", 1)
    is_own_norm = backbone.startswith("ConvNext") and not name.startswith("backbone.fpn.") and "backbone" in name
    is_norm = re.search(r"norm\d?$|fpn\.input_proj\.\d\.1$", parent)
    is_embedding = (
        name.startswith("embedding_container.")
        or name == "decoder.scale_embed.weight"
        or last.startswith("level_embed")
        or last in ("mask_object_query_embed", "point_object_query_embed", "bg_query_embed")
    )
    return learning_rate, 0.0 if is_embedding or (is_norm and not is_own_norm) else 0.05


@pytest.mark.parametrize("backbone", ["SwinTiny", "ConvNextTiny"])
def test_parameter_groups(shared_dir, backbone):
    """Backbones without a recorded step; one layer of everything after the backbone is enough."""
    config = ModelConfig(backbone=backbone, neck_layers=1, decoder_layers=1, object_encoder_layers=1)
    params = ModelStructure(config).params
    manifest = json.loads((shared_dir / "parity/manifests" / f"{backbone}.json").read_text())
    buffers = re.compile(r"relative_position_index|bg_grid_size|pixel_(mean|std)|running_|scaling_factors")
    names = [name for name in manifest if not buffers.search(name)]
    path_of = train_step_case.paths_of_tensors(names, config)
    found = parameter_groups(params, OptimizerConfig())
    expected = {path: _reference_group(name, backbone) for name, path in path_of.items() if path in params}
    assert set(expected) == set(found)
    wrong = {path: (found[path], group) for path, group in expected.items() if found[path] != pytest.approx(group)}
    assert not wrong


def test_parameter_groups_as_recorded(shared_dir):
    report = json.loads((shared_dir / TRAIN_STEP / "vos.json").read_text())["groups"]
    config = ModelConfig(backbone="ResNet50")
    found = parameter_groups(ModelStructure(config).params, OptimizerConfig())
    path_of = train_step_case.paths_of_tensors(report, config)
    assert set(path_of.values()) == set(found)
    for name, group in report.items():
        assert found[path_of[name]] == pytest.approx((group["lr"], group["weight_decay"])), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "task",
    [pytest.param("instance_seg", marks=pytest.mark.long), "panoptic_seg", pytest.param("vos", marks=pytest.mark.long)],
)
def test_first_step(golden_dir, task):
    """The reference's step; in a bare clone a small model's, as we recorded it ourselves.

    The panoptic loss has the instance loss in it. That of objects that are given, with its gradients, is compared with
    the reference's in tests/parallel/test_unequal_clips.py.
    """
    case_dir = golden_dir / "train_step_ResNet50"
    if not case_dir.is_dir():
        case_dir = golden_dir / "own_train_step"
    rows = train_step_case.run(case_dir, 0, "ResNet50", tasks=(task,), num_steps=1)
    assert len(rows) >= 8
    assert all(row.ok for row in rows), "\n" + format_table(rows)
