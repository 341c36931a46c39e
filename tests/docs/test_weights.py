"""The blocks of docs/weights.md."""

import pickle
import re

import numpy as np
import yaml

from tarvis_jax.model.backbones import backbone_config
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.variables import abstract_model, flatten
from tarvis_jax.weights.pytorch import reference as checkpoint
from tarvis_jax.weights.pytorch import rules
from tarvis_jax.weights.pytorch.files import read_torch_file, write_torch_file
from tarvis_jax.weights.pytorch.mapping import export_weights
from tests.docs.snippets import run_page


def test_blocks(tmp_path):
    config = ModelConfig()
    variables = {name: np.zeros(v.shape, v.dtype) for name, v in flatten(abstract_model(config)).items()}
    release = tmp_path / "downloads" / "tarvis_resnet50"
    release.mkdir(parents=True)
    write_torch_file(release / "model.pth", export_weights(variables, rules.model_rules(config)))
    (release / "config.yaml").write_text(yaml.safe_dump(checkpoint.reference_config(config)))
    backbone = {name: value for name, value in variables.items() if name.startswith("backbone/")}
    exported = export_weights(backbone, rules.backbone_rules(backbone_config("ResNet50")))
    tensors = {re.sub(r"^backbone\.backbone\.", "", name): np.asarray(value) for name, value in exported.items()}
    for name, content in {
        "R-50.pkl": tensors | {"stem.fc.weight": np.zeros((1000, 2048), np.float32)},
        "bgr.pkl": tensors,
        "model_final.pkl": {f"backbone.{k}": v for k, v in tensors.items()}
        | {"sem_seg_head.predictor.query_feat.weight": np.zeros((100, 256), np.float32)},
    }.items():
        (tmp_path / name).write_bytes(pickle.dumps({"model": content, "__author__": "torchvision"}, protocol=3))

    names = run_page("docs/weights.md", tmp_path, examples={"sh"})  # which tests/rehearsal/test_published.py runs
    assert len(names["report"].loaded) == len(backbone) and names["report"].notes
    back = read_torch_file(tmp_path / "exported" / "tarvis_resnet50.pth")["model"]
    assert back.keys() == read_torch_file(release / "model.pth")["model"].keys()
