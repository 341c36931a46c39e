"""A command that fails in the folder of a run leaves the run as it was."""

import dataclasses
import hashlib
import pathlib

import pytest

from input_pipeline.synthetic import prepare_data
from tarvis_jax.api import load
from tarvis_jax.config import from_mapping, save_json, to_plain
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.run_config import Config
from tarvis_jax.train.loop import train
from tarvis_jax.train.state import to_items
from tarvis_jax.train.step import make_stepper
from tarvis_jax.weights.checkpoints import Checkpoints
from tarvis_jax.weights.open import open_model, saved_config
from tests.train import tiny_config


def contents(folder: pathlib.Path) -> dict[str, str]:
    """Digests of all files."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(config, workdir) of a run as it stands after one step, without the step, which takes long to compile."""
    config, workdir = from_mapping(Config, tiny_config.get_config("1")), tmp_path_factory.mktemp("run")
    prepare_data(config.data, config.synthetic, workdir)
    state = make_stepper(config, make_mesh()).initial_state()
    checkpoints = Checkpoints(workdir, create=True)
    checkpoints.save(1, *to_items(dataclasses.replace(state, step=state.step + 1)), to_plain(config))
    checkpoints.close()
    save_json(workdir / "config.json", config)
    (workdir / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    return config, workdir


def test_a_rerun_needs_no_weights_to_start_from(run):
    """What fails is what comes after them."""
    config, workdir = run
    changed = dataclasses.replace(
        config,
        train=dataclasses.replace(config.train, init_from="{workspace}/pretrained_backbones/R-50.pkl"),
        data=dataclasses.replace(config.data, shards="no_such_folder"),
    )
    with pytest.raises(ValueError, match="no_such_folder"):
        train(changed, workdir)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"hidden_size": 32}, "does not fit this config; was its section model or optimizer changed"),
        ("model", {"decoder_layers": 2}, "does not fit this config"),
        ("optimizer", {"ema_decay": 0.0}, "does not fit this config(.|\n)*unexpected: weights/ema/"),
        ("synthetic", {"num_train": 5}, "expected .*found"),
        ("data", {"shards": "no_such_folder"}, "no_such_folder"),
        ("train", {"wandb_project": "p"}, "which is not installed"),
    ],
)
def test_a_rerun_that_fails_changes_nothing(run, monkeypatch, section, changes, message):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    config, workdir = run
    changed = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})
    before = contents(workdir)
    assert {"config.json", "metrics.jsonl"} <= before.keys() and any("checkpoints" in name for name in before)
    with pytest.raises(ValueError, match=message):
        train(changed, workdir)
    after = contents(workdir)
    assert after == before
    assert load(workdir).config.hidden_size == config.model.hidden_size


def test_the_config_of_the_checkpoint_is_the_truth(run):
    """`config.json` may be of a command that has not saved anything yet, or be gone."""
    config, workdir = run
    text = (workdir / "config.json").read_text()
    try:
        for other in (text.replace('"hidden_size": 16', '"hidden_size": 32'), "", None):
            (workdir / "config.json").unlink(missing_ok=True)
            if other is not None:
                (workdir / "config.json").write_text(other)
            assert saved_config(workdir) == config
            assert open_model(workdir).run == config
    finally:
        (workdir / "config.json").write_text(text)
