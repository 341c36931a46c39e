"""Backbones of other projects: every file format and naming that training may start from."""

import collections
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tarvis_jax.command_line import run
from tarvis_jax.convert.__main__ import main
from tarvis_jax.weights.pytorch.backbones import is_backbone_file, open_backbone
from tests.weights.pytorch import mini


@pytest.fixture(autouse=True)
def small_backbones(monkeypatch):
    mini.register(monkeypatch)


@pytest.fixture(scope="module")
def values():
    with pytest.MonkeyPatch.context() as monkeypatch:
        mini.register(monkeypatch)
        return {name: mini.variables(name) for name in mini.CONFIGS}


def _tensors(state_dict):
    return collections.OrderedDict((name, torch.from_numpy(np.array(value))) for name, value in state_dict.items())


def _save(path, kind, state_dict):
    """Writes what the projects publish; the last three are torch's two formats and a pickle of tensors."""
    if kind == "detectron2 pkl":
        content = {"model": dict(state_dict), "__author__": "torchvision", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content, protocol=3))
    elif kind == "bare stream":  # older torchvision files; some hold parameters
        tensors = _tensors(state_dict)
        parameters = {
            name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in tensors.items()
        }
        torch.save(collections.OrderedDict(parameters), path, _use_new_zipfile_serialization=False)
    elif kind == "bare zip":
        torch.save(_tensors(state_dict), path)
    elif kind == "model zip":
        torch.save({"model": _tensors(state_dict), "epoch": 3}, path)
    else:
        assert kind == "third-party pkl"  # Mask2Former's conversion of Swin: tensors, each with its own old stream
        content = {"model": _tensors(state_dict), "__author__": "third_party", "matching_heuristics": True}
        path.write_bytes(pickle.dumps(content))


FILES = {
    "R-50.pkl": ("ResNetMini", mini.detectron2_names, "detectron2 pkl"),
    "resnet50-19c8e357.pth": ("ResNetMini", mini.torchvision_names, "bare stream"),
    "resnet50-0676ba61.pth": ("ResNetMini", mini.torchvision_names, "bare zip"),
    "swin_tiny_patch4_window7_224.pkl": ("SwinMini", mini.swin_names, "third-party pkl"),
    "swin_tiny_patch4_window7_224.pth": ("SwinMini", mini.swin_names, "model zip"),
    "convnext_tiny_22k_224.pth": ("ConvNextMini", mini.convnext_names, "model zip"),
}


@pytest.mark.parametrize("name", FILES)
def test_published_files(values, tmp_path, name):
    backbone, names, kind = FILES[name]
    state_dict = names(mini.reference_names(backbone, values[backbone]))
    _save(tmp_path / name, kind, state_dict)
    found, report = open_backbone(tmp_path / name, backbone)
    for path, value in found.items():
        assert np.asarray(value).tobytes() == np.ascontiguousarray(values[backbone][path]).tobytes(), path
    new = set(values[backbone]) - set(found)
    assert all(path.startswith("backbone/output_norms/") for path in new)
    assert len(new) == (0 if backbone == "ResNetMini" else 8)
    assert {entry.name for entry in report.new} == new
    assert {entry.name for entry in report.loaded} | {entry.name for entry in report.left_out} == set(state_dict)
    head = {entry.name for entry in report.left_out}
    assert any(name.endswith(("fc.weight", "head.weight")) for name in head)
    num_bytes = sum(entry.num_bytes for entry in (*report.loaded, *report.left_out))
    assert num_bytes == sum(value.nbytes for value in state_dict.values())
    assert is_backbone_file(tmp_path / name)


@pytest.mark.parametrize("prefix", ["backbone.", "backbone.bottom_up.", "module.backbone."])
def test_backbone_inside_another_model(values, tmp_path, prefix):
    state_dict = mini.reference_names("SwinMini", values["SwinMini"])
    state_dict = {prefix + name: value for name, value in state_dict.items()}
    state_dict["sem_seg_head.predictor.query_feat.weight"] = np.zeros((3, 4), np.float32)
    _save(tmp_path / "model_final.pkl", "third-party pkl", state_dict)
    message = "unexpected tensor sem_seg_head.predictor.query_feat.weight float32.3, 4."
    with pytest.raises(ValueError, match=message):
        open_backbone(tmp_path / "model_final.pkl", "SwinMini")
    found, report = open_backbone(tmp_path / "model_final.pkl", "SwinMini", leave_out=["sem_seg_head.*"])
    assert found.keys() == values["SwinMini"].keys()  # the output norms are there, too
    assert [entry.name for entry in report.left_out] == ["sem_seg_head.predictor.query_feat.weight"]


def test_missing_tensor_needs_a_pattern(values, tmp_path):
    state_dict = mini.reference_names("ResNetMini", values["ResNetMini"])
    del state_dict["res3.0.conv2.weight"]
    _save(tmp_path / "a.pth", "bare zip", state_dict)
    with pytest.raises(
        ValueError, match="missing tensor .*res3.0.conv2.weight for variable backbone/stages/1/0/conv2/"
    ):
        open_backbone(tmp_path / "a.pth", "ResNetMini")
    found, report = open_backbone(tmp_path / "a.pth", "ResNetMini", new=["backbone/stages/1/*/kernel"])
    assert [entry.name for entry in report.new] == ["backbone/stages/1/0/conv2/kernel"]
    assert len(found) == len(values["ResNetMini"]) - 1


def test_another_backbone_is_recognized(values, tmp_path):
    _save(tmp_path / "a.pth", "bare zip", mini.reference_names("SwinMini", values["SwinMini"]))
    with pytest.raises(ValueError, match="expected ConvNextMini, but it looks like SwinMini"):
        open_backbone(tmp_path / "a.pth", "ConvNextMini")


def test_networks_of_caffe2_are_refused(tmp_path):
    state_dict = {
        "conv1_w": np.zeros((8, 3, 7, 7), np.float32),
        "res2_0_branch2a_w": np.zeros((4, 8, 1, 1), np.float32),
    }
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(state_dict))
    with pytest.raises(ValueError, match="R-50.pkl: weights of Caffe2/MSRA.*stride.*BGR.*expected torchvision's"):
        open_backbone(tmp_path / "R-50.pkl", "ResNetMini")


def test_a_network_of_bgr_images_sees_the_same(values, tmp_path):
    """Its first convolution on its own input equals the converted one on ours."""
    config = mini.CONFIGS["ResNetMini"]
    state_dict = mini.reference_names("ResNetMini", values["ResNetMini"])
    _save(tmp_path / "a.pth", "bare zip", state_dict)
    found, report = open_backbone(tmp_path / "a.pth", "ResNetMini", channel_order="BGR", pixel_std=(1.0, 2.0, 4.0))
    assert "BGR" in report.notes[0]
    rgb = np.random.default_rng(1).uniform(0, 255, (1, 3, 16, 16)).astype(np.float32)
    mean, std = (np.float32(value)[:, None, None] for value in (config.pixel_mean, config.pixel_std))
    bgr = ((rgb - mean) / np.float32([4, 2, 1])[:, None, None])[:, ::-1].copy()
    kernel = np.asarray(found["backbone/stem/0/kernel"]).transpose(3, 2, 0, 1).copy()
    theirs = F.conv2d(torch.from_numpy(bgr), torch.from_numpy(state_dict["stem.conv1.weight"]), stride=2, padding=3)
    ours = F.conv2d(torch.from_numpy((rgb - mean) / std), torch.from_numpy(kernel), stride=2, padding=3)
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-2)


def test_command_prints_the_report(values, tmp_path, capsys):
    _save(tmp_path / "a.pth", "bare zip", mini.swin_names(mini.reference_names("SwinMini", values["SwinMini"])))
    assert run(main, ["check-backbone", str(tmp_path / "a.pth"), "--backbone=SwinMini"]) == 0
    out = capsys.readouterr().out
    assert "new          8 tensors" in out and "left out     6 tensors" in out and "layers.*.blocks.*.attn_mask" in out
    assert run(main, ["check-backbone", str(tmp_path / "a.pth"), "--backbone=ResNetMini"]) == 2
    assert "looks like SwinMini" in capsys.readouterr().err
