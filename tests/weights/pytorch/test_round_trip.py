"""The reference's checkpoints -> ours -> the reference's, bit for bit, for every backbone and both sets of datasets."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml

from tarvis_jax.command_line import run
from tarvis_jax.convert.__main__ import main
from tarvis_jax.dataset_info import DatasetInfo
from tarvis_jax.datasets import DATASETS, DatasetSpec
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.model.variables import abstract_model, flatten
from tarvis_jax.weights import folder as pretrained
from tarvis_jax.weights.pytorch import reference as checkpoint
from tarvis_jax.weights.pytorch import rules
from tarvis_jax.weights.pytorch.mapping import export_weights, plan_weights
from tarvis_jax.weights.start import load_initial_weights
from tests.weights.pytorch.test_reference import seeded_weights  # noqa: F401, a fixture

BACKBONES = [f"ResNet{n}" for n in (50, 101)]
BACKBONES += [f"{family}{size}" for family in ("Swin", "ConvNext") for size in ("Tiny", "Small", "Base", "Large")]
BACKBONES += ["ConvNextXLarge"]
PRETRAINING = ["COCO", "ADE20K", "CITYSCAPES", "MAPILLARY"]
FINETUNING = ["YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "BURST", "DAVIS"]
TABLE = "embedding_container._semantic_queries"


def reference_config(backbone, datasets):
    model = {
        "BACKBONE": backbone,
        "CROSS_ATTENTION_TYPE": "hard_masked",
        "NUM_BACKGROUND_QUERIES": 1,
        "NUM_OBJECT_QUERIES": 128,
        "NUM_VOS_QUERIES_PER_OBJECT": 4,
    }
    return {"MODEL": model, "TRAINING": {"DATASET_LIST": datasets}}


def manifest(shared_dir, backbone, datasets):
    """Names, shapes and dtypes; the table of class queries as these datasets have it."""
    result = json.loads((shared_dir / "parity" / "manifests" / f"{backbone}.json").read_text())
    result[TABLE] = [[1 + sum(DATASETS[name].spec.num_classes for name in datasets), 256], "float32"]
    return result


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_manifest(shared_dir, seeded_weights, backbone):  # noqa: F811
    """Names and layouts of all tensors, without gigabytes: a tensor that comes back as the very same memory, with the
    same shape, strides and dtype, has the same bits."""
    for datasets in (FINETUNING, PRETRAINING):
        shapes = manifest(shared_dir, backbone, datasets)
        special = {k: v for k, v in shapes.items() if "float" not in v[1] or k.startswith("pixel_")}
        weights = {k: np.zeros(v[0], np.float32) for k, v in shapes.items()}  # untouched, so the system gives no memory
        weights.update(seeded_weights.state_dict(special))
        config = checkpoint.model_config_from_reference(reference_config(backbone, datasets), weights)
        assert config.backbone == backbone
        model = flatten(abstract_model(config))
        planned, report = plan_weights(weights, model, rules.model_rules(config))
        assert planned.keys() == model.keys() and len(report.loaded) == len(weights)
        back = export_weights({path: value.make() for path, value in planned.items()}, rules.model_rules(config))
        assert back.keys() == weights.keys()
        for name, expected in weights.items():
            value = back[name].make()
            assert (
                (value.dtype, value.shape) == (expected.dtype, expected.shape) == (back[name].dtype, back[name].shape)
            )
            if name in special:
                assert value.tobytes() == expected.tobytes(), name
            else:
                assert value.__array_interface__ == {**expected.__array_interface__, "version": 3}, name
        assert set(checkpoint.reference_config(config)["TRAINING"]["DATASET_LIST"]) == {
            name for name in datasets if DATASETS[name].spec.num_classes
        }


@pytest.fixture(scope="module")
def releases(shared_dir, seeded_weights, tmp_path_factory):  # noqa: F811
    """Release folders with real values: fine-tuned ResNet50, pretrained SwinTiny with a training state beside it."""
    folders = {}
    for backbone, datasets in (("ResNet50", FINETUNING), ("SwinTiny", PRETRAINING)):
        folder = tmp_path_factory.mktemp(backbone)
        weights = seeded_weights.state_dict(manifest(shared_dir, backbone, datasets))
        content = {"model": {k: torch.from_numpy(v) for k, v in weights.items()}}
        if datasets == PRETRAINING:
            content["optimizers_and_lr_schedulers"] = [({"state": {0: {"exp_avg": torch.zeros(3)}}}, None)]
        torch.save(content, folder / "000100.pth")
        (folder / "config.yaml").write_text("# a release\n" + yaml.safe_dump(reference_config(backbone, datasets)))
        folders[backbone] = folder, weights
    return folders


@pytest.mark.parametrize("backbone", ["ResNet50", "SwinTiny"])
def test_files_both_ways(releases, tmp_path, capsys, backbone):
    folder, weights = releases[backbone]
    assert run(main, ["to-jax", str(folder), str(tmp_path / "ours")]) == 0
    out = capsys.readouterr().out
    assert f"loaded   {len(weights):5} tensors" in out and "new          0 tensors" in out
    assert ("left out: optimizers_and_lr_schedulers" in out) == (backbone == "SwinTiny")
    assert run(main, ["to-pytorch", str(tmp_path / "ours"), str(tmp_path / "back" / "model.pth")]) == 0
    assert (tmp_path / "back" / "config.yaml").read_text() == (folder / "config.yaml").read_text()
    content = torch.load(tmp_path / "back" / "model.pth", weights_only=True)
    assert list(content) == ["model"] and content["model"].keys() == weights.keys()
    for name, value in content["model"].items():
        value = value.numpy()
        assert (value.dtype, value.shape) == (weights[name].dtype, weights[name].shape), name
        assert value.tobytes() == weights[name].tobytes(), name
    config = pretrained.load(tmp_path / "ours").config
    names = PRETRAINING if backbone == "SwinTiny" else FINETUNING
    assert [name for name, _ in config.semantic_classes] == sorted(n for n in names if DATASETS[n].spec.num_classes)


def test_finetuning_starts_from_a_pretraining_checkpoint(releases):
    """KITTI-STEP and Cityscapes-VPS take the queries of their 19 classes among Cityscapes' 34; the others are new."""
    folder, weights = releases["SwinTiny"]
    config = ModelConfig("SwinTiny")
    structure = ModelStructure(config)

    state = (
        {name: np.full(v.shape, 0.125, v.dtype) for name, v in group.items()}
        for group in (structure.params, structure.frozen)
    )
    params, frozen, report = load_initial_weights(folder / "000100.pth", config, *state)
    assert params.keys() == structure.params.keys() and frozen.keys() == structure.frozen.keys()
    table, theirs = params["queries/semantic"], weights[TABLE]
    np.testing.assert_array_equal(table[0], theirs[0])
    cityscapes = theirs[1 + 150 :][:34][list(DATASETS["KITTI_STEP"].class_origin.classes)]  # behind ADE20K's 150
    np.testing.assert_array_equal(table[1:20], cityscapes)  # CITYSCAPES_VPS
    np.testing.assert_array_equal(table[20:39], cityscapes)  # KITTI_STEP
    assert (table[39:] == 0.125).all() and len(table) == 1 + 19 + 19 + 25 + 124 + 40
    np.testing.assert_array_equal(params["decoder/scale_embed"], weights["decoder.scale_embed.weight"])
    assert not report.new and not report.left_out
    assert "CITYSCAPES_VPS from CITYSCAPES, KITTI_STEP from CITYSCAPES, OVIS from the seed" in report.notes[0]


def test_an_architecture_that_the_reference_lacks_is_refused(tmp_path):
    config = dataclasses.replace(ModelConfig(), hidden_size=64, semantic_classes=(("MINE", 3),))
    mine = {"MINE": DatasetInfo(DatasetSpec("instance", 3))}
    pretrained.save_safetensors({"a": np.zeros(1, np.float32)}, config, tmp_path, mine)
    with pytest.raises(ValueError, match="hidden_size.*MINE"):
        checkpoint.reference_config(config)
    assert run(main, ["to-pytorch", str(tmp_path), str(tmp_path / "a.pth")]) == 2
    assert not (tmp_path / "a.pth").exists()


def test_another_config_is_not_overwritten(releases, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("of: another model")
    assert run(main, ["to-pytorch", str(releases["SwinTiny"][0]), str(tmp_path / "a.pth")]) == 2
    assert "choose another folder" in capsys.readouterr().err
    assert (tmp_path / "config.yaml").read_text() == "of: another model"
