"""What a training says and checks at its start; tests/train/test_resume.py runs one."""

import dataclasses
import types

import pytest

from configs import finetune
from input_pipeline.bad_records import read_file
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tarvis_jax.train import loop
from tests.train import tiny_config


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        ("", "train.init_from: not set; expected 'random'"),
        ("absent.pth", "train.init_from=absent.pth: no such file"),
        ("{workspace}/pretrained_backbones/R-50.pkl", "the file of ResNet50, but model.backbone is ResNetTiny"),
    ],
)
def test_a_run_says_where_it_starts(tmp_path, monkeypatch, init_from, message):
    """Before anything is computed."""
    monkeypatch.setattr(loop, "make_stepper", lambda *_: pytest.fail("too late"))
    config = from_mapping(Config, tiny_config.get_config("1"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, init_from=init_from))
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path)


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(loop.logging, "info", lambda message, *values: lines.append(message % values))
    return lines


def test_random_weights_are_said(log, tmp_path):
    stepper = types.SimpleNamespace(initial_state=lambda: "state")
    config = from_mapping(Config, tiny_config.get_config("1"))
    state = loop._begin(config, tmp_path, stepper, types.SimpleNamespace(latest_step=None), None)
    assert state == "state" and log == ["weights to start from: random, seed 0"]


def test_shares_of_some_of_the_datasets(log):
    stepper = types.SimpleNamespace(structure=types.SimpleNamespace(params={}), mesh=types.SimpleNamespace(size=1))
    config = from_mapping(Config, finetune.get_config("datasets=OVIS+DAVIS"))
    loop._log_start(stepper, config, 32)
    assert log[1] == "share of the batches that each dataset has: OVIS 0.818, DAVIS 0.182"


def test_bad_data_is_counted_kept_and_reported(tmp_path, monkeypatch):
    """Everything but the training itself, of a run whose data has a frame that is cut off."""
    config = from_mapping(Config, tiny_config.get_config("4"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad_record="skip", num_parallel=1))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, demo_davis=""))
    prepare = loop.prepare_data

    def prepare_and_damage(*args, **options):
        data = prepare(*args, **options)
        for frame in sorted(tmp_path.glob("data/dataset_images/training/davis/*/*.jpg")):
            if frame.stem == "00001" and frame.parent.name != "0000":
                frame.write_bytes(frame.read_bytes()[:-100])
        return data

    def run_steps(config, stepper, state, batches, micro, checkpoints, writer, evaluator, progress, left_out, *_):
        for _ in range(4):
            next(batches)
        writer.write(4, {"loss": 1.0} | left_out.scalars())
        return state

    monkeypatch.setattr(loop, "prepare_data", prepare_and_damage)
    monkeypatch.setattr(loop, "_begin", lambda *_: types.SimpleNamespace(step=0))
    monkeypatch.setattr(loop, "_run_steps", run_steps)
    loop.train(config, tmp_path)
    records = [record for record in read_file(tmp_path / "bad_records-0.jsonl") if record.step < 4]
    assert records and all("the JPEG is cut off" in record.error for record in records)
    page = (tmp_path / "report.html").read_text()
    assert "Bad data that was left out" in page
    assert f"0 videos or images were left out, {len(records)} samples were drawn again" in page
    assert "the JPEG is cut off" in page
