"""What an evaluation leaves in its folder, with a stand-in for the network."""

import json

from configs import quickstart
from input_pipeline.synthetic import prepare_data
from tarvis_jax.config import from_mapping, to_plain
from tarvis_jax.evaluation.held_out import evaluate_predictor
from tarvis_jax.run_config import Config
from tarvis_jax.visualize.run_report import write_evaluation_report
from tests.inference.color_network import ColorNetwork


def small_config() -> Config:
    config = quickstart.get_config()
    config.data.datasets = tuple(d for d in config.data.datasets if d["name"] in ("DAVIS", "BURST"))
    config.model.semantic_classes = ()
    config.synthetic.num_train, config.synthetic.num_val, config.synthetic.num_frames = 1, 3, 4
    return from_mapping(Config, config)


def test_scores_pictures_and_report(tmp_path):
    config = small_config()
    folder = tmp_path / "eval"
    scores = evaluate_predictor(config, prepare_data(config.data, config.synthetic, tmp_path), ColorNetwork(), folder)
    everything = json.loads((folder / "scores.json").read_text())
    assert scores == {name: each["summary"] for name, each in everything.items()} and set(scores) == {"DAVIS", "BURST"}
    for each in everything.values():
        assert each["num_videos"] == len(each["per_video"]) == 3 and each["num_frames"] == 12
        assert each["seconds"] > each["compile_seconds"] >= 0
    pictures = sorted(path.name for path in (folder / "pictures").iterdir())
    assert len(pictures) == 4, "two of the three videos of each dataset"
    page = write_evaluation_report(folder, "run", to_plain(config), to_plain(Config())).read_text()
    assert all(name.removesuffix(".jpg") in page for name in pictures) and page.count("data:image/") == 4
