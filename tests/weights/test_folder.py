import json

import numpy as np
import pytest

from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import DATASETS, DatasetSpec
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.weights import folder as pretrained


def test_everything_comes_back(tmp_path):
    config = ModelConfig(backbone="ResNetTiny", drop_path=0.25, semantic_classes=(("MINE", 2), ("OVIS", 25)))
    info = DatasetInfo(DatasetSpec("panoptic", 2, (1,)), ("sky", "kite"), InferenceConfig(5, 2, min_dim=100))
    datasets = default_datasets(config.semantic_classes, {"MINE": info})
    pretrained.save_safetensors({"x": np.ones(3, np.float32)}, config, tmp_path / "new" / "folder", datasets)
    loaded = pretrained.load(tmp_path / "new" / "folder")
    assert loaded.config == config and loaded.datasets == datasets
    np.testing.assert_array_equal(loaded.variables["x"], 1)


def test_datasets_of_a_model():
    found = default_datasets((("KITTI_STEP", 19), ("OVIS", 25)))
    assert sorted(found) == ["BURST", "DAVIS", "KITTI_STEP", "OVIS"]
    assert found["KITTI_STEP"].class_names[13] == "car" and found["KITTI_STEP"].spec.thing_classes == (11, 13)
    assert found["OVIS"].inference.max_predictions == 20
    mine = {
        "OVIS": DatasetInfo(DatasetSpec("instance", 3)),
        "CLICKS": DatasetInfo(DatasetSpec("exemplar", exemplar="point")),
        "OTHER": DatasetInfo(DatasetSpec("instance", 3)),  # the model has no queries for it
    }
    found = default_datasets((("OVIS", 3),), mine)
    assert found["OVIS"] is mine["OVIS"] and sorted(found) == ["BURST", "CLICKS", "DAVIS", "OVIS"]


def test_datasets_that_nobody_described():
    with pytest.raises(ValueError) as error:
        default_datasets((("KITTI_STEP", 19), ("OVIS", 3), ("ZOO", 7)))
    for words in (
        "OVIS: the model has queries for its 3 classes, but this dataset is known with 25 classes",
        "ZOO: the model has queries for its 7 classes, but this dataset is unknown",
        "a DatasetInfo each",
        "data.datasets",
    ):
        assert words in str(error.value)
    assert "KITTI_STEP" not in str(error.value)
    with pytest.raises(ValueError, match="ZOO: the model has queries"):
        pretrained.save_safetensors({}, ModelConfig(semantic_classes=(("ZOO", 7),)), "never_made")


@pytest.mark.parametrize("dataset", ["YOUTUBE_VIS", "OVIS"])
def test_names_are_those_of_the_annotations(shared_dir, dataset):
    folder = {"YOUTUBE_VIS": "ytvis", "OVIS": "ovis"}[dataset]
    categories = json.loads((shared_dir / "metrics" / folder / "annotations.json").read_text())["categories"]
    official = {c["id"]: c["name"].replace("Vehical", "Vehicle") for c in categories}  # a misspelling of OVIS' file
    assert official == dict(enumerate(DATASETS[dataset].class_names, start=1))


def _edited(**changes):
    def edit(content):
        content.update(changes)

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (_edited(format="other"), "expected the config of a shared model .* found another file"),
        (_edited(format_version=2), "expected format_version 1, found 2"),
        (lambda c: c["model"].update(hiden_size=3), r"model\.hiden_size: no such key\. Did you mean hidden_size"),
        (lambda c: c["datasets"]["OVIS"]["spec"].update(num_classes=24), "OVIS.*class_names: expected 24, found 25"),
        (lambda c: c["datasets"].pop("OVIS"), r"datasets\.OVIS: missing, expected the 25 classes"),
        (lambda c: c["datasets"]["OVIS"]["inference"].update(overlap=99), "overlap: expected"),
    ],
)
def test_broken_configs(tmp_path, edit, message):
    pretrained.save_safetensors({}, ModelConfig(semantic_classes=(("OVIS", 25),)), tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(tmp_path)
    assert "config.json" in str(error.value)


def test_not_such_a_folder(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json: expected a JSON file, found none"):
        pretrained.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: cannot be read as JSON"):
        pretrained.load(tmp_path)
    with pytest.raises(ValueError, match="class_names: each may occur once, found twice: \\['a'\\]"):
        DatasetInfo(DatasetSpec("instance", 2), ("a", "a"))
