"""docs/label_loop.md: all of its commands, once around the loop; and, with -m long, the scores that it reports."""

import csv
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence

import jax
import numpy as np
import pytest

from input_pipeline.own_videos import own_dataset
from input_pipeline.synthetic import INSTANCE_CLASSES
from main import main
from tarvis_jax.api import Model, load
from tarvis_jax.config import to_plain
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import INSTANCE, DatasetSpec
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.results.sureness import expected_mistakes
from tarvis_jax.results.tracks import read_tracks
from tarvis_jax.train import loop
from tarvis_jax.train.state import to_items
from tarvis_jax.train.step import TrainStepper
from tests import tiny
from tests.conftest import ROOT
from tests.docs import lab
from tests.docs.snippets import run_page

PAGE = "docs/label_loop.md"
CORRECT_BEFORE = "--finetune_from=runs/round1"  # the block of the page before which a person has corrected clips
GROWN = (*lab.CLASSES, "star")


def write_clips(root: pathlib.Path, first: Mapping[str, int], new: Mapping[str, int], classes: Sequence[str]) -> None:
    """data/lab with exports of labeled clips, data/new with frames alone; name -> seed of the clip."""
    for name, seed in first.items():
        frames, truth = lab.draw(seed)
        lab.write_frames(root / "data/lab" / name / "images", frames)
        lab.export(root / "data/lab", name, truth, lab.CLASSES)
    for name, seed in new.items():
        lab.write_frames(root / "data/new" / name, lab.draw(seed, classes)[0])


def least_sure_first(root: pathlib.Path) -> list[dict[str, str]]:
    with open(root / "out/round1/least_sure_first.csv", newline="") as file:
        return list(csv.DictReader(file))


def correct(root: pathlib.Path, name: str, seed: int, classes: Sequence[str]) -> dict[str, int]:
    folders = [root / path for path in ("out/round1/results", "data/new", "data/lab")]
    return lab.correct(*folders, name, lab.draw(seed, classes)[1], classes)


def class_queries(model: Model, dataset: str) -> dict[str, np.ndarray]:
    start, stop = semantic_rows(model.config.semantic_classes)[dataset]
    rows = np.asarray(model.variables[SEMANTIC_TABLE])[start:stop]
    return dict(zip(model.datasets[dataset].class_names, rows, strict=True))


@pytest.fixture
def no_steps(monkeypatch):
    """Trainings that do everything but their steps; what is not compiled for them is most of the time of the page."""

    def noise(stepper):
        rng = np.random.default_rng(0)
        return jax.tree.map(
            lambda leaf: jax.device_put(rng.normal(0, 0.2, leaf.shape).astype(leaf.dtype), leaf.sharding),
            stepper.abstract_state(),
        )

    def save_alone(config, stepper, state, batches, checkpoints, *_):
        next(batches)
        checkpoints.save(1, *to_items(state), to_plain(config))
        return state

    monkeypatch.setattr(TrainStepper, "initial_state", noise)
    monkeypatch.setattr(loop, "_run_steps", save_alone)
    monkeypatch.setattr(loop, "_compile_steps", lambda *_: None)


def test_page(tmp_path, no_steps, compiled_once):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    new = {"new1": 21, "new2": 22}
    write_clips(tmp_path, {f"clip{k}": k for k in range(1, 5)}, new, GROWN)
    config = dataclasses.replace(tiny.MODEL, semantic_classes=(("YOUTUBE_VIS", len(INSTANCE_CLASSES)),))
    spec = DatasetSpec(INSTANCE, len(INSTANCE_CLASSES))
    given = {"YOUTUBE_VIS": DatasetInfo(spec, INSTANCE_CLASSES, InferenceConfig(min_dim=64))}
    start = Model(config, tiny.variables(config), default_datasets(config.semantic_classes, given))
    start.save_pretrained(tmp_path / "checkpoint")
    corrected = {}

    def correct_the_first():
        name = least_sure_first(tmp_path)[0]["video"]
        corrected[name] = correct(tmp_path, name, new[name], GROWN)

    smaller = {
        "--finetune_from": "--config.model.compute_dtype=float32 --config.train.tensorboard=false "
        "--config.train.final_eval=false --config.train.demo_videos=0 --config.data.num_parallel=1 "
        "--config.inference.LAB.clip_length=3 --config.inference.LAB.overlap=1 --finetune_from",
        "-m tarvis_jax.results ": "-m tarvis_jax.results.__main__ ",
    }
    acts = {CORRECT_BEFORE: correct_the_first}
    run_page(PAGE, tmp_path, smaller, in_process=True, examples=("text",), before=acts)

    # The first round: classes by name, one of them from a class that the checkpoint knows.
    first, second = load(tmp_path / "runs/round1"), load(tmp_path / "runs/round2")
    assert first.datasets["LAB"].class_names == lab.CLASSES and second.datasets["LAB"].class_names == GROWN
    before, after = class_queries(first, "LAB"), class_queries(second, "LAB")
    np.testing.assert_array_equal(before["ball"], class_queries(start, "YOUTUBE_VIS")["circle"])
    for name in lab.CLASSES:
        np.testing.assert_array_equal(before[name], after[name])
    evaluated = json.loads((tmp_path / "runs/round1/eval/final/scores.json").read_text())["LAB"]
    assert sorted(row["video"] for row in evaluated["per_video"]) == ["clip1", "clip4"]
    assert "LAB" in (tmp_path / "runs/round1/scores.txt").read_text()

    # The labels: what is sure of the tracks, with their ids and the names of their classes, frames from 0 on.
    order = least_sure_first(tmp_path)
    assert sorted(row["video"] for row in order) == sorted(new)
    mistakes = [float(row["expected_mistakes"]) for row in order]
    assert mistakes == sorted(mistakes, reverse=True)
    for row, expected in zip(order, mistakes, strict=True):
        result = read_tracks(tmp_path / f"out/round1/tracks/{row['video']}.json")
        assert abs(expected_mistakes(result, 0.5) - expected) < 1e-3
        sure = {track.id: track for track in result.tracks if track.score >= 0.5}
        assert len(sure) == int(row["tracks"])
        labels = (tmp_path / f"out/round1/results/{row['video']}/annotations.xml").read_text()
        assert labels.count("<track ") == len(sure)
        for track in sure.values():
            assert f'<track id="{track.id}" label="{lab.CLASSES[track.class_id - 1]}"' in labels
    content = json.loads((tmp_path / "out/round1/datumaro/annotations/default.json").read_text())
    assert [label["name"] for label in content["categories"]["label"]["labels"]] == list(lab.CLASSES)
    assert content["items"][0]["id"] == "new1/frame_000000"
    assert content["items"][0]["image"]["path"] == "new1/frame_000000.png"

    # The corrected clip is trained on, with the truth where a person has looked.
    ((name, done),) = corrected.items()
    record = lab.read(tmp_path / "data/lab" / name, GROWN)
    truth = lab.draw(new[name], GROWN)[1]
    assert len(record.instances) == done["kept"] + done["added"] == len(truth.tracks)
    assert sorted(record.instances.values()) == sorted(track.class_id for track in truth.tracks)
    for t in range(0, lab.NUM_FRAMES, lab.CORRECTED_EVERY):
        found = {each["counts"] for each in record.segmentations[t].values()}
        assert found == {track.segmentations[t]["counts"] for track in truth.tracks if track.segmentations[t]}
    assert name not in own_dataset(tmp_path / "data/lab", held_out=("clip1", "clip4")).held_out


# The measurement of the page: clips by name, their seeds, and the commands of its steps.
FIRST = {f"first{k:02d}": 1000 + k for k in range(8)}
HELD_OUT = {f"held{k:02d}": 1000 + k for k in range(8, 20)}
NEW = {f"new{k:02d}": 2000 + k for k in range(24)}
NUM_CORRECTED = 12
SMALL_NETWORK = {  # what configs/quickstart.py sets for its network, in place of the settings of a large one
    "model.compute_dtype": "float32",
    "optimizer.learning_rate": 6e-4,
    "optimizer.backbone_multiplier": 1.0,
    "optimizer.clip_norm": 1.0,
    "loss.num_points": 256,
    "train.tensorboard": "false",
    "train.demo_videos": 0,
    "data.num_parallel": 1,
}


def measure(root: pathlib.Path, checkpoint: pathlib.Path, steps: tuple[int, int]) -> dict[str, float]:
    """AP on the held-out clips after the first labels, after corrections, and after as many steps without them."""

    def train(data: str, start: pathlib.Path, name: str, num_steps: int) -> float:
        arg = f"root={root / data},name=LAB,held_out={'+'.join(HELD_OUT)},steps={num_steps},batch=4"
        settings = [f"--config.{key}={value}" for key, value in SMALL_NETWORK.items()]
        config = f"--config={ROOT / 'configs/own.py'}:{arg}"
        main([config, f"--finetune_from={start}", f"--workdir={root / 'runs' / name}", *settings])
        return json.loads((root / "runs" / name / "eval/final/scores.json").read_text())["LAB"]["summary"]["AP"]

    write_clips(root, FIRST | HELD_OUT, NEW, lab.CLASSES)
    scores = {"first labels": train("data/lab", checkpoint, "round1", steps[0])}
    flags = "--dataset=LAB --format=cvat_video --polygons --min_score=0.5".split()
    folders = {"checkpoint": "runs/round1", "clips": "data/new", "output": "out/round1"}
    main(["--mode=infer", *flags, *(f"--{flag}={root / path}" for flag, path in folders.items())])
    shutil.copytree(root / "data/lab", root / "data/first")
    for row in least_sure_first(root)[:NUM_CORRECTED]:
        correct(root, row["video"], NEW[row["video"]], lab.CLASSES)
    scores["corrected labels"] = train("data/lab", root / "runs/round1", "round2", steps[1])
    scores["first labels again"] = train("data/first", root / "runs/round1", "control", steps[1])
    return scores


@pytest.mark.long
def test_corrections_raise_the_score(tmp_path):
    checkpoint = ROOT / "runs/quickstart"
    if not (checkpoint / "checkpoints").is_dir():
        pytest.skip("starts from runs/quickstart, which README's first command makes")
    scores = measure(tmp_path, checkpoint, (300, 200))
    print(scores)
    assert scores["corrected labels"] > max(scores["first labels"], scores["first labels again"])
