"""Where a training starts: a backbone's file in the workspace, under any of its names; never silently elsewhere."""

import dataclasses
import re

import pytest

from configs import base
from tarvis_jax.config import from_mapping
from tarvis_jax.model.config import BACKBONE_FAMILIES
from tarvis_jax.run_config import Config
from tarvis_jax.weights.backbone_files import BACKBONE_FILES, backbone_file, find_initial_weights, is_default


def starting(backbone: str, workspace="", **train) -> Config:
    values = base.get_config()
    base.start_from_backbone(values, backbone)
    values.data.workspace = str(workspace)
    values.train.update(train)
    return from_mapping(Config, values)


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "pretrained_backbones").mkdir()
    return tmp_path


def test_every_backbone_of_the_original_has_a_file():
    assert set(BACKBONE_FAMILIES) - set(BACKBONE_FILES) == {"ResNetTiny"}
    assert find_initial_weights(starting("ResNetTiny")) is None


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ("ResNet50", ("R-50.pkl", "resnet50-0676ba61.pth")),
        ("ResNet101", ("R-101.pkl", "resnet101-63fe2227.pth")),
        ("SwinTiny", ("swin_tiny_patch4_window7_224.pkl", "swin_tiny_patch4_window7_224.pth")),
        ("SwinLarge", ("swin_large_patch4_window12_384_22k.pkl", "swin_large_patch4_window12_384_22k.pth")),
        ("ConvNextBase", ("convnext_base_22k_224.pth", "convnext_base_1k_224_ema.pth")),
    ],
)
def test_names(workspace, backbone, names):
    folder = workspace / "pretrained_backbones"
    config = starting(backbone, workspace)
    assert config.train.init_from == backbone_file(backbone) == f"{{workspace}}/pretrained_backbones/{names[0]}"
    for name in reversed(names):  # that of the config comes first
        (folder / name).touch()
        assert find_initial_weights(config) == str(folder / name)


def test_absent(workspace):
    (workspace / "pretrained_backbones" / "R-101.pkl").touch()
    with pytest.raises(ValueError) as error:
        find_initial_weights(starting("ResNet50", workspace))
    for words in (
        "the weights of ResNet50 from ImageNet are missing: looked for R-50.pkl, resnet50-*.pth",
        f"in {workspace}/pretrained_backbones; put one of them there",
        "--config.train.init_from=random",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("of_workspace", ["", "/no/such/folder"])
def test_no_workspace(of_workspace):
    with pytest.raises(ValueError, match="workspace: .*pretrained_backbones/ lies in it.*=random"):
        find_initial_weights(starting("SwinTiny", of_workspace))


def test_which_of_two_files(workspace):
    for name in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"):
        (workspace / "pretrained_backbones" / name).touch()
    with pytest.raises(ValueError, match=re.escape("expected one file resnet50-*.pth")):
        find_initial_weights(starting("ResNet50", workspace))


def test_the_file_of_another_backbone(workspace):
    (workspace / "pretrained_backbones" / "R-50.pkl").touch()
    for other, expected in (("SwinTiny", "swin_tiny_patch4_window7_224.pkl"), ("ResNetTiny", "expected random")):
        config = starting("ResNet50", workspace)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=other))
        with pytest.raises(ValueError, match=f"the file of ResNet50, but model.backbone is {other}.*{expected}"):
            find_initial_weights(config)


def test_other_files(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").touch()
    for given, found in (
        ("random", None),
        ("mine.pth", "mine.pth"),
        ("owner/name", "owner/name"),
        ("{workspace}/mine.pth", str(tmp_path / "mine.pth")),
    ):
        assert find_initial_weights(starting("ResNet50", workspace, init_from=given)) == found
    for given, message in (
        ("", "not set; expected 'random'"),
        ("absent.pth", "no such file or folder"),
        ("{workspace}/absent.pth", "expected a file or folder at"),
        ("{workspace}/../mine.pth", "leaves its root"),
    ):
        with pytest.raises(ValueError, match=f"^train.init_from.*{message}"):
            find_initial_weights(starting("ResNet50", workspace, init_from=given))


def test_what_a_flag_may_replace():
    assert all(map(is_default, ("", "random", "{workspace}/pretrained_backbones/R-50.pkl")))
    assert not any(map(is_default, ("R-50.pkl", "{workspace}/pretrained_backbones/mine.pth")))
