"""What an evaluation leaves in its folder, with a stand-in for the network."""

import dataclasses
import json

import pytest

from configs import quickstart
from input_pipeline.config import DataConfig
from input_pipeline.synthetic import prepare_data
from tarvis_jax.config import from_mapping, to_plain
from tarvis_jax.evaluation import segment
from tarvis_jax.evaluation.held_out import evaluate_predictor, find_held_out
from tarvis_jax.run_config import Config
from tarvis_jax.visualize.run_report import write_evaluation_report
from tests.inference.color_network import ColorNetwork


def small_config() -> Config:
    config = quickstart.get_config()
    config.data.datasets = tuple(d for d in config.data.datasets if d["name"] in ("DAVIS", "BURST"))
    config.model.semantic_classes = ()
    config.synthetic.num_train, config.synthetic.num_val, config.synthetic.num_frames = 1, 4, 4
    return from_mapping(Config, config)


@pytest.fixture
def run(tmp_path):
    """Evaluates the weights of that name on data in the folder `data`, or on other data; returns scores.json."""
    config = small_config()
    data = prepare_data(config.data, config.synthetic, tmp_path)

    def run(weights: str = "abc", names: tuple[str, ...] = (), on: DataConfig = data) -> dict:
        folder = tmp_path / "eval"
        scores = evaluate_predictor(
            config, on, [ColorNetwork()], folder, weights=weights, names=names, table=tmp_path / "scores.txt"
        )
        everything = json.loads((folder / "scores.json").read_text())
        assert scores == {name: each["summary"] for name, each in everything.items() if "skipped" not in each}
        return everything

    run.config, run.data, run.folder = config, data, tmp_path
    return run


def test_scores_pictures_and_report(run):
    everything = run()
    assert set(everything) == {"DAVIS", "BURST"}
    for each in everything.values():
        assert each["num_videos"] == len(each["per_video"]) == 4 and each["num_frames"] == each["num_segmented"] == 16
        assert each["seconds"] > each["compile_seconds"] >= 0
        main = [row["J&F-Mean"] for row in each["per_video"]]
        assert main == sorted(main) and len(set(main)) > 1, "the worst first"
        worst = [row["video"].replace("/", "-") for row in each["per_video"][:3]]
        assert [picture["file"].partition("-")[2] for picture in each["pictures"]] == [f"{name}.jpg" for name in worst]
    folder = run.folder / "eval"
    assert sum(1 for _ in (folder / "pictures").iterdir()) == 6
    page = write_evaluation_report(folder, "run", to_plain(run.config), to_plain(Config())).read_text()
    assert page.count("data:image/") == 6
    assert page.index("DAVIS-" + everything["DAVIS"]["per_video"][0]["video"]) > 0


def test_a_killed_evaluation_goes_on_with_the_next_video(run, monkeypatch):
    whole = run()
    for path in run.folder.glob("eval/*/tracks/*"):
        path.unlink()
    videos = []

    def killed(*arguments):
        if len(videos) == 6:
            raise KeyboardInterrupt
        videos.append(arguments)
        return segment_video(*arguments)

    segment_video = segment.segment_video
    monkeypatch.setattr(segment, "segment_video", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    found = json.loads((run.folder / "eval/scores.json").read_text())
    assert list(found) == ["DAVIS"] and "BURST" not in (run.folder / "scores.txt").read_text(), "of what is done"
    monkeypatch.setattr(segment, "segment_video", segment_video)
    again = run()
    assert [each["num_segmented"] for each in again.values()] == [0, 8]
    assert [each["per_video"] for each in again.values()] == [each["per_video"] for each in whole.values()]
    assert run("other weights")["DAVIS"]["num_segmented"] == 16


def test_tracks_of_other_videos_of_the_same_names_are_not_taken(run):
    first = run()
    synthetic = dataclasses.replace(run.config.synthetic, val_seed=run.config.synthetic.val_seed + 1000)
    other = run(on=prepare_data(run.config.data, synthetic, run.folder / "other"))
    for name in ("DAVIS", "BURST"):
        assert [sorted(row["video"] for row in each[name]["per_video"]) for each in (first, other)] == 2 * [
            sorted(row["video"] for row in first[name]["per_video"])
        ]
        assert other[name]["num_segmented"] == 16 and other[name]["summary"] != first[name]["summary"]


def test_what_cannot_be_scored_is_skipped_with_its_reason(run, caplog):
    (truth,) = (run.folder / "data").rglob("all_classes_val.json")
    truth.unlink()
    everything = run()
    assert "all_classes_val.json, but it does not exist" in everything["BURST"]["skipped"]
    assert "BURST is not scored" in caplog.text and "BURST\n  not scored: " in (run.folder / "scores.txt").read_text()
    assert everything["DAVIS"]["per_video"]
    assert set(run(names=("BURST",))) == {"BURST"}
    with pytest.raises(ValueError, match="--datasets=BURST,OVIS: the run has no OVIS; it has DAVIS, BURST"):
        find_held_out(run.config, run.data, ("BURST", "OVIS"))


def test_a_frame_that_cannot_be_read_stops_its_dataset_alone(run):
    frame = sorted((run.folder / "data/dataset_images/inference/davis").rglob("*.jpg"))[-1]
    frame.write_bytes(b"no picture")
    everything = run()
    assert "1 of 4 videos have no tracks" in everything["DAVIS"]["skipped"] and frame.name in str(everything["DAVIS"])
    assert everything["BURST"]["per_video"]
