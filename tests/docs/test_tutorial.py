"""Every block of docs/tutorial.md runs, with a tiny model in place of the quickstart's."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.synthetic import INSTANCE_CLASSES
from tarvis_jax import tasks
from tarvis_jax.api import Model
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import DATASETS, INSTANCE, TASKS, DatasetSpec
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.model import backbones
from tarvis_jax.model.config import BACKBONE_FAMILIES
from tests import tiny
from tests.docs.snippets import run_page


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a model in runs/quickstart, whose modules count as the project's; registries are restored."""
    for package in (backbones, readers, tasks):
        folder = tmp_path / package.__name__.replace(".", "/")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    registries = [backbones.BACKBONES, backbones.MODULES, BACKBONE_FAMILIES, DATASETS, TASKS]
    before = [dict(registry) for registry in registries]
    config = dataclasses.replace(tiny.MODEL, semantic_classes=(("YOUTUBE_VIS", len(INSTANCE_CLASSES)),))
    spec = DatasetSpec(INSTANCE, len(INSTANCE_CLASSES))
    given = {"YOUTUBE_VIS": DatasetInfo(spec, INSTANCE_CLASSES, InferenceConfig(min_dim=64))}
    model = Model(config, tiny.variables(config), default_datasets(config.semantic_classes, given))
    model.save_pretrained(tmp_path / "runs" / "quickstart")
    with jax.default_prng_impl("unsafe_rbg"):  # its draws compile in half the time
        yield tmp_path
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.slow
def test_tutorial(workplace):
    no_tensorboard = "    config.train.demo_videos = 0\n    config.train.tensorboard = False\n"
    smaller = {"steps=300": "steps=2", "    config.train.demo_videos = 0\n": no_tensorboard}
    names = run_page("docs/tutorial.md", workplace, smaller, in_process=True)

    assert [track.id for track in names["video"].tracks] == ["ball"] and names["video"].num_frames == 8
    assert (workplace / "ball.mp4").stat().st_size and len(list((workplace / "out/overlays").iterdir())) == 8

    scores = json.loads((workplace / "runs/toys/eval/final/scores.json").read_text())
    assert [row["name"] for row in scores["TOYS"]["per_class"]] == ["ball", "box"]

    assert names["batch"]["bit_planes"].shape == (2, 1, 3, 64, 96)
    assert set(np.unique(names["batch"]["classes"])) <= {0, 1, 2}

    trained = names["trained"]
    assert trained.config.backbone == "PatchNet" and "backbone/convs/3/kernel" in trained.variables
    assert names["classes"].shape == (8, 16, 24) and set(np.unique(names["classes"])) <= {0, 1, 2}
    with pytest.raises(ValueError, match="sessions do not know its task 'semantic'"):
        trained.session(dataset="TOYBOX_CLASSES")
