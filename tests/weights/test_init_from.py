"""Where the first weights of a run come from: whole models and backbones, and what patterns allow."""

import dataclasses

import numpy as np
import pytest
import torch

from configs import base
from tarvis_jax.config import from_mapping
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import DatasetSpec
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import Config
from tarvis_jax.weights import folder as pretrained
from tarvis_jax.weights.backbone_files import BACKBONE_FILES, find_initial_weights
from tarvis_jax.weights.open import open_model
from tarvis_jax.weights.start import SEMANTIC_TABLE, load_initial_weights
from tests import tiny
from tests.weights.pytorch import mini

with pytest.MonkeyPatch.context() as _known:  # a ModelConfig names a backbone that exists
    mini.register(_known)
    _CONFIG = dataclasses.replace(
        tiny.MODEL,
        backbone="ResNetMini",
        num_instance_queries=4,
        semantic_classes=(("CITYSCAPES", 34), ("MINE", 3)),
    )
_DATASETS = default_datasets(
    _CONFIG.semantic_classes, {"MINE": DatasetInfo(DatasetSpec("instance", 3), ("a", "b", "c"))}
)


def _state(config) -> tuple[dict, dict]:
    """(params, frozen), all values 0.125."""
    structure = ModelStructure(config)
    return tuple(
        {n: np.full(v.shape, 0.125, v.dtype) for n, v in d.items()} for d in (structure.params, structure.frozen)
    )


@pytest.fixture(scope="module")
def registered():
    with pytest.MonkeyPatch.context() as monkeypatch:
        mini.register(monkeypatch)
        yield


@pytest.fixture(scope="module")
def model(registered, tmp_path_factory):
    """A pretrained model in a folder, and its variables."""
    state = _state(_CONFIG)
    rng = np.random.default_rng(0)
    variables = {n: rng.standard_normal(v.shape).astype(v.dtype) for n, v in {**state[0], **state[1]}.items()}
    folder = tmp_path_factory.mktemp("model")
    pretrained.save_safetensors(variables, _CONFIG, folder, _DATASETS)
    return folder, variables


def test_a_whole_model(model):
    folder, variables = model
    opened = open_model(folder)
    assert opened.config == _CONFIG and opened.variables.keys() == variables.keys()
    params, frozen, report = load_initial_weights(folder, _CONFIG, *_state(_CONFIG))
    for name, value in {**params, **frozen}.items():
        np.testing.assert_array_equal(value, variables[name], err_msg=name)
    assert len(report.loaded) == len(variables) and not (report.new or report.left_out or report.notes)


def test_other_datasets(model):
    folder, variables = model
    config = dataclasses.replace(_CONFIG, semantic_classes=(("MINE", 3), ("NEW", 2)))
    params, _, report = load_initial_weights(folder, config, *_state(config))
    np.testing.assert_array_equal(params[SEMANTIC_TABLE][1:4], variables[SEMANTIC_TABLE][35:38])
    assert (params[SEMANTIC_TABLE][4:] == 0.125).all()
    assert report.notes == (f"{SEMANTIC_TABLE}: MINE from MINE, NEW from the seed",)


def test_a_list_of_classes_that_changed(model):
    folder, variables = model
    params, _, report = load_initial_weights(folder, _CONFIG, *_state(_CONFIG), class_names={"MINE": ("d", "c", "b")})
    theirs = variables[SEMANTIC_TABLE]
    expected = np.concatenate([theirs[:35], np.full((1, theirs.shape[1]), 0.125), theirs[[37, 36]]])
    np.testing.assert_array_equal(params[SEMANTIC_TABLE], expected)
    note = "MINE from MINE (from the seed: d) (left out: a)"
    assert report.notes == (f"{SEMANTIC_TABLE}: CITYSCAPES from CITYSCAPES, {note}",)


def test_another_architecture_needs_patterns(model):
    folder, variables = model
    config = dataclasses.replace(_CONFIG, decoder_layers=2, num_instance_queries=5, object_encoder_layers=0)
    state = _state(config)
    with pytest.raises(ValueError) as error:
        load_initial_weights(folder, config, *state)
    for words in (
        f"{folder}: the weights do not fit",
        "train.init_new and train.init_leave_out",
        "queries/instance: expected shape [6, 16], found [5, 16]",
        "decoder/layers/1/ffn/linear1/kernel [16, 16]: missing",
        "object_encoder/layers/0/ffn/linear1/kernel [16, 16]: not part of this model",
    ):
        assert words in str(error.value)
    params, _, report = load_initial_weights(
        folder, config, *state, new=["decoder/layers/1/*", "queries/instance"], leave_out=["object_encoder/layers/*"]
    )
    assert (params["queries/instance"] == 0.125).all() and (params["decoder/layers/1/ffn/norm/scale"] == 0.125).all()
    np.testing.assert_array_equal(params["decoder/norm/scale"], variables["decoder/norm/scale"])
    assert {entry.name for entry in report.new} == {
        name for name in state[0] if name.startswith("decoder/layers/1/") or name == "queries/instance"
    }
    assert {entry.name for entry in report.left_out} == {
        name for name in variables if name.startswith("object_encoder/layers/") or name == "queries/instance"
    }


def test_leaving_out_alone_does_not_make_a_variable_new(model):
    with pytest.raises(ValueError, match="queries/instance .5, 16.: missing"):
        load_initial_weights(model[0], _CONFIG, *_state(_CONFIG), leave_out=["queries/instance"])


def test_weights_of_a_folder_must_fit_its_config(model, tmp_path):
    _, variables = model
    broken = {name: value for name, value in variables.items() if name != "decoder/norm/scale"}
    pretrained.save_safetensors(broken, _CONFIG, tmp_path, _DATASETS)
    with pytest.raises(ValueError, match="do not fit their own architecture(.|\n)*missing: decoder/norm/scale"):
        open_model(tmp_path)


def test_a_backbone_of_another_project(registered, tmp_path, monkeypatch):
    values = mini.variables("ResNetMini")
    state_dict = mini.torchvision_names(mini.reference_names("ResNetMini", values))
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, tmp_path / "resnet50.pth")
    state = _state(_CONFIG)
    params, frozen, report = load_initial_weights(tmp_path / "resnet50.pth", _CONFIG, *state)
    assert params.keys() == state[0].keys() and frozen.keys() == state[1].keys()
    for name, value in {**params, **frozen}.items():
        np.testing.assert_array_equal(value, values.get(name, 0.125), err_msg=name)
    assert {entry.name for entry in report.new} == ({*params, *frozen} - values.keys())

    # By the name in a config, from the workspace.
    (tmp_path / "pretrained_backbones").mkdir()
    (tmp_path / "resnet50.pth").rename(tmp_path / "pretrained_backbones" / "resnetmini-1.pth")
    monkeypatch.setitem(BACKBONE_FILES, "ResNetMini", ("mini.pkl", "resnetmini-*.pth"))
    values = base.get_config()
    base.start_from_backbone(values, "ResNetMini")
    values.data.workspace = str(tmp_path)
    source = find_initial_weights(from_mapping(Config, values))
    again = load_initial_weights(source, _CONFIG, *state)
    assert again[2].source == str(tmp_path / "pretrained_backbones" / "resnetmini-1.pth")
    for name, value in params.items():
        np.testing.assert_array_equal(again[0][name], value, err_msg=name)

    state_dict["layer1.0.conv1.weight"][0, 0] = np.nan
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in state_dict.items()}, tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match="resnet50.pth: tensor layer1.0.conv1.weight: expected finite values, found 1"):
        load_initial_weights(tmp_path / "resnet50.pth", _CONFIG, *state)
