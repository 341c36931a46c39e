"""The card of a shared model: what the hub's own package reads in it, what a reader finds, what must not be there."""

import dataclasses
import json
import re

import pytest
import yaml

import tarvis_jax
from configs import quickstart
from tarvis_jax.config import from_mapping
from tarvis_jax.dataset_info import DatasetInfo
from tarvis_jax.datasets import INSTANCE, PANOPTIC, DatasetSpec
from tarvis_jax.evaluation.segment import fingerprint
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.run_config import Config
from tarvis_jax.weights import card
from tests import tiny

CONFIG = from_mapping(Config, quickstart.get_config())
WEIGHTS = "59dd6a66d15704b1"
SCORES = {"DAVIS": {"J&F-Mean": 0.72754, "J-Mean": 0.5, "F-Decay": -1}, "KITTI_STEP": {"PQ_tube": 1 / 3}}


def write_run(folder, config=CONFIG, weights=WEIGHTS, scores=None):
    """A run's folder with an evaluation and a report."""
    evaluation = folder / "eval/final"
    found = {"BURST": {"skipped": "/home/somebody/burst: no such folder"}}
    for name, summary in (SCORES if scores is None else scores).items():
        (evaluation / name).mkdir(parents=True)
        settings = {"weights": weights, "dtype": "float32", "split": "val", "inference": vars(InferenceConfig())}
        (evaluation / name / "settings.json").write_text(json.dumps(settings))
        found[name] = {"summary": summary, "num_videos": 32, "num_frames": 320, "per_class": [], "pictures": []}
    (evaluation / "scores.json").write_text(json.dumps(found))
    (folder / "report.html").write_text(
        f'<td>{folder.absolute()}</td><td>/data/lab &amp; co/frames</td><p class="a/b">/home/somebody/burst: no such '
        'folder, 1/2 of (/home/somebody/x.json)</p><img src="data:image/png;base64, /home/A/B+c=="/></body>'
    )
    return card.Run(folder, config, 3000)


def written(folder, run=None, datasets=None, **options):
    """(front matter, text) of a card."""
    folder.mkdir(exist_ok=True)
    path = card.write_card(folder, CONFIG.model, datasets or CONFIG.dataset_infos(), run=run, **options)
    _, front, text = path.read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_a_run(tmp_path):
    run = write_run(tmp_path / "run")
    front, text = written(tmp_path / "shapes", run, weights=WEIGHTS, license="cc-by-4.0")
    assert front["license"] == "cc-by-4.0" and front["library_name"] == "tarvis_jax"
    assert "datasets" not in front and "None of the datasets' own videos were used" in text  # those of the quickstart
    ((index),) = front["model-index"]
    by_name = {each["dataset"]["name"]: each for each in index["results"]}
    davis = by_name["made-up videos in the format of DAVIS"]
    assert davis["dataset"] == {"name": "made-up videos in the format of DAVIS", "type": "synthetic", "split": "val"}
    assert [(m["type"], m["value"]) for m in davis["metrics"]] == [("J&F-Mean", 72.75), ("J-Mean", 50.0)]
    assert len(by_name) == 2
    assert "by the weights of step 3000" in text and "| 33.33 |" in text and "32 videos with 320 frames" in text
    assert "Not measured: YOUTUBE_VIS, BURST." in text and "[report.html](report.html)" in text
    assert "7; things: circle, square, triangle, cross; stuff: ground, wall, sky" in text
    assert "batches of 4 clips of 2 frames" in text and "from random weights" in text and "`cc-by-4.0`" in text
    for line in re.findall(r"^\|.*$", text, re.MULTILINE):
        assert line.startswith("| ") or set(line) == {"|", "-"}


def test_real_data(tmp_path):
    """Names of datasets are there where their videos were used."""
    config = dataclasses.replace(
        CONFIG,
        synthetic=dataclasses.replace(CONFIG.synthetic, num_train=0),
        train=dataclasses.replace(CONFIG.train, init_from="/home/somebody/swin_tiny.pth"),
    )
    front, text = written(tmp_path / "real", write_run(tmp_path / "run", config), weights=WEIGHTS)
    assert front["datasets"] == ["YOUTUBE_VIS", "KITTI_STEP", "DAVIS", "BURST"]
    (index,) = front["model-index"]
    assert {each["dataset"]["type"] for each in index["results"]} == {"DAVIS", "KITTI_STEP"}
    assert "Made-up" not in text and "started from `swin_tiny.pth`" in text


def test_no_path_of_this_machine(tmp_path):
    data = dataclasses.replace(CONFIG.data, workspace="/data/lab & co/frames")
    run = write_run(tmp_path / "run", dataclasses.replace(CONFIG, data=data))
    _, text = written(tmp_path / "shared", run, weights=WEIGHTS)
    report = (tmp_path / "shared/report.html").read_text()
    for page in (text, report):
        assert str(tmp_path) not in page and "somebody" not in page and "/data" not in page
    assert report == (
        '<td>run</td><td>frames</td><p class="a/b">burst: no such folder, 1/2 of (x.json)</p>'
        '<img src="data:image/png;base64, /home/A/B+c=="/></body>'
    )


def test_nothing_is_made_up(tmp_path):
    """Scores of other weights are none, and neither are those of a model that comes from no run."""
    front, text = written(tmp_path / "a", write_run(tmp_path / "run"), weights="other")
    assert "model-index" not in front and "Not measured: the folder of the run has no evaluation" in text
    front, text = written(tmp_path / "a")  # over the other one
    assert "model-index" not in front and front["license"] == "unknown"
    assert "Not measured: the model was not saved from" in text and "Not known" in text and "not stated" in text
    assert not (tmp_path / "a/report.html").exists()


def test_names_of_users_are_text(tmp_path):
    names = ("a|b", "<script>x</script>", "two  words", "[x](y)")
    datasets = {
        "MY DATA": DatasetInfo(DatasetSpec(INSTANCE, 4), names),
        "ROAD": DatasetInfo(DatasetSpec(PANOPTIC, 4, (1,)), names),
        "NAMELESS": DatasetInfo(DatasetSpec(INSTANCE, 300)),
        "MANY": DatasetInfo(DatasetSpec(INSTANCE, 300), tuple(f"c{i}" for i in range(300))),
    }
    _, text = written(tmp_path / "my | model", datasets=datasets)
    assert r"a\|b, \<script\>x\</script\>, two words, \[x\]\(y\) |" in text and "<script>" not in text
    assert r"4; things: \<script\>x\</script\>; stuff: a\|b, two words, \[x\]\(y\) |" in text
    assert "300, names not known" in text and "c199 and 100 more" in text and r"# my \| model" in text


@pytest.mark.parametrize("license", ["", "Apache 2.0", "mit\nx: y", "a" * 100])
def test_license(license):
    with pytest.raises(ValueError, match="license: expected an identifier"):
        card.check_license(license)


def test_save_pretrained(tmp_path):
    """A model of a run has the scores of its own weights; after it got other weights they are not its own."""
    variables = tiny.variables()
    run = write_run(tmp_path / "run", weights=fingerprint(variables), scores={"OVIS": {"AP": 0.25}})
    model = tarvis_jax.Model(tiny.MODEL, variables, run=run)
    with pytest.raises(ValueError, match="license: expected an identifier"):
        model.save_pretrained(tmp_path / "shared", license="Apache 2.0")
    assert not (tmp_path / "shared").exists()
    model.save_pretrained(tmp_path / "shared")
    assert "| 25.00 |" in (tmp_path / "shared/README.md").read_text()
    model.add_dataset("LAB", ["mouse"])
    model.save_pretrained(tmp_path / "shared")
    text = (tmp_path / "shared/README.md").read_text()
    assert "no evaluation of these weights" in text and "| LAB | video instance segmentation (VIS) | 1: mouse |" in text


def test_the_hub_reads_it(tmp_path):
    repocard = pytest.importorskip("huggingface_hub.repocard", reason="needs huggingface_hub (the extra `hub`)")
    run = write_run(tmp_path / "run")
    written(tmp_path / "shapes", run, weights=WEIGHTS, license="apache-2.0")
    data = repocard.ModelCard.load(tmp_path / "shapes/README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "tarvis_jax", "image-segmentation")
    found = {(each.dataset_name, each.metric_type): each.metric_value for each in data.eval_results}
    assert found == {
        ("made-up videos in the format of DAVIS", "J&F-Mean"): 72.75,
        ("made-up videos in the format of DAVIS", "J-Mean"): 50.0,
        ("made-up videos in the format of KITTI_STEP", "PQ_tube"): 33.33,
    }
    assert {each.dataset_split for each in data.eval_results} == {"val"}
