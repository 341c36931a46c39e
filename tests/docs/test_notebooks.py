"""The notebooks of docs/notebooks: jupytext makes valid notebooks of them, and their cells run from top to bottom."""

import dataclasses
import re
import sys

import jax
import pytest

from input_pipeline.synthetic import INSTANCE_CLASSES
from tarvis_jax.api import Model
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import INSTANCE, DatasetSpec
from tarvis_jax.inference.config import InferenceConfig
from tests import tiny
from tests.docs.snippets import ROOT

jupytext = pytest.importorskip("jupytext", reason="needs jupytext (tests/requirements.txt)")
nbformat = pytest.importorskip("nbformat", reason="needs nbformat (tests/requirements.txt)")

NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with a tiny model in `model`; figures are drawn and not shown."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = dataclasses.replace(tiny.MODEL, semantic_classes=(("YOUTUBE_VIS", len(INSTANCE_CLASSES)),))
    given = {
        "YOUTUBE_VIS": DatasetInfo(
            DatasetSpec(INSTANCE, len(INSTANCE_CLASSES)), INSTANCE_CLASSES, InferenceConfig(min_dim=64)
        )
    }
    inference = InferenceConfig(clip_length=12, overlap=6, min_dim=64)
    datasets = default_datasets(config.semantic_classes, given)
    datasets = {name: dataclasses.replace(info, inference=inference) for name, info in datasets.items()}
    Model(config, tiny.variables(config), datasets).save_pretrained(tmp_path / "model")
    monkeypatch.chdir(ROOT / "docs/notebooks")  # where Jupyter starts
    return tmp_path


def run_notebook(name, folder, substitutions=()):
    """Runs the code cells of the notebook that jupytext makes, in one namespace, which is returned."""
    notebook = jupytext.read(ROOT / f"docs/notebooks/{name}.py")
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    replaced = {'"runs/quickstart"': repr(str(folder / "model")), '"out/': f'"{folder}/', **dict(substitutions)}
    for old, new in replaced.items():
        assert old == '"out/' or any(old in text for text in texts), f"{name}: {old} is not there to be replaced"
        texts = [text.replace(old, new) for text in texts]
    namespace = {"__name__": name}
    with jax.default_prng_impl("unsafe_rbg"):  # its draws compile in half the time
        for number, text in enumerate(texts):
            exec(compile(text, f"{name}.py, code cell {number}", "exec"), namespace)
    import matplotlib.pyplot as plt

    namespace["num_figures"] = len(plt.get_fignums())
    plt.close("all")
    return namespace


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_they_are_notebooks(path):
    notebook = nbformat.reads(jupytext.writes(jupytext.read(path), fmt="ipynb"), as_version=4)
    nbformat.validate(notebook)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and kinds.count("code") > 5 and kinds.count("markdown") > 5
    assert notebook.cells[0].source.startswith("# ") and notebook.metadata.kernelspec.name == "python3"
    texts = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for link in re.findall(r"\]\(([^)#\s]+)", texts):
        assert (path.parent / link).exists(), link


@pytest.mark.long
def test_first_video(workplace, capsys):
    names = run_notebook("first_video", workplace)
    assert [track.id for track in names["video"].tracks] == ["cross"] and names["video"].num_frames == 12
    assert {"tracks.json", "cross.mp4"} == {path.name for path in (workplace / "first_video").iterdir()}
    assert names["num_figures"] == 3 and capsys.readouterr().out.count("frame ") == 12


def test_inside_the_network(workplace):
    """The attention that is drawn is that of the network: the notebook compares what follows from it."""
    names = run_notebook("inside_the_network", workplace)
    assert names["error"] < 1e-4 and names["num_figures"] == 2
    for weights in names["attention"]:
        assert weights.shape == (6, 4, 8) and abs(weights.sum() - 1) < 1e-5  # stride 16
    assert names["mask_logits"].shape == (2, 12, 6, 16, 32)


@pytest.mark.long
def test_own_classes(workplace):
    fewer = {", 200": ", 3", "range(40)": "range(5)"}
    names = run_notebook("own_classes", workplace, fewer)
    assert dict(names["model"].config.semantic_classes) == {"MINE": 2}
    assert "angular" in names["card"] and "by the weights of step 3" in names["card"]
    assert names["num_figures"] == 2
