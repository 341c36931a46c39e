"""The commands by which docs/weights.md reproduces published numbers: on the downloads' layout, with seeded weights.

The model is tiny and its frames are made small; all else is as the page says. Compiling takes a while, so that by
default a stand-in segments the videos.
"""

import dataclasses
import importlib
import json
import shlex

import pytest

from tarvis_jax.dataset_info import default_datasets
from tarvis_jax.evaluation import segment
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.weights import folder
from tests import tiny
from tests.docs.snippets import read_snippets
from tests.rehearsal.recipes import NETWORK
from tests.rehearsal.test_commands import find_something

COMMANDS = [
    line for each in read_snippets("docs/weights.md") if each.language == "sh" for line in each.text.splitlines()
]


@pytest.fixture
def place(tree, tmp_path, monkeypatch):
    """A folder with what the page takes for granted."""
    layers = {"neck_layers": 0, "decoder_layers": 0, "object_encoder_layers": 0, "num_instance_queries": 4}
    model = ModelConfig(**{**NETWORK, **layers})
    datasets = {
        name: dataclasses.replace(info, inference=dataclasses.replace(info.inference, min_dim=64, max_dim=128))
        for name, info in default_datasets(model.semantic_classes).items()
    }
    folder.save_safetensors(tiny.variables(model), model, tmp_path / "downloads/tarvis_resnet50", datasets)
    for name in ("DAVIS", "youtube_vis_2021"):
        (tmp_path / "downloads" / name).symlink_to(tree[1] / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("network", ["a stand-in", pytest.param("the model's", marks=pytest.mark.long)])
def test_commands(network, place, monkeypatch):
    if network == "a stand-in":
        monkeypatch.setattr(segment, "segment_video", find_something)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        python, *arguments = shlex.split(command)
        module = "main" if arguments[0] == "main.py" else f"{arguments[1]}.__main__"
        arguments = arguments[1:] if module == "main" else arguments[2:]
        importlib.import_module(module).main(arguments)
    scores = json.loads((place / "out/davis/scores.json").read_text())["expected"]
    assert 0 <= scores["J&F-Mean"] < 1, "the weights have seen nothing"
    assert (place / "out/youtube_vis/results.zip").is_file()
