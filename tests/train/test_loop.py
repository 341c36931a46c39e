"""What a training says and checks at its start; tests/train/test_resume.py runs one."""

import collections
import dataclasses
import types

import jax
import jax.numpy as jnp
import pytest

from configs import finetune, quickstart
from input_pipeline.bad_records import read_file
from tarvis_jax import tasks
from tarvis_jax.config import from_mapping
from tarvis_jax.datasets import TASKS
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Objective
from tarvis_jax.train import loop, step
from tarvis_jax.train.metrics import read_metrics
from tarvis_jax.train.transfer import to_devices
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


@pytest.fixture
def one_weight(monkeypatch):
    """A network of one weight in place of the real one; everything else of a training is real."""
    structure = types.SimpleNamespace(
        params={"decoder/norm/scale": jax.ShapeDtypeStruct((), jnp.float32)},
        frozen={},
        build=lambda params, frozen: params["decoder/norm/scale"],
        initialize=lambda key: ({"decoder/norm/scale": jnp.ones((), jnp.float32)}, {}),
    )

    def loss(weight, batch, loss_keys, model_keys, statistics):
        return (weight - batch["masks"].mean()) ** 2 + batch.get("ignore_mask", jnp.zeros(1)).mean(), {}

    of_task = {task: Objective(loss, lambda batch: ()) for task in TASKS}
    monkeypatch.setattr(step, "ModelStructure", lambda config: structure)
    monkeypatch.setattr(
        tasks,
        "objectives",
        lambda config: {(d.name, task): of_task[task] for d in config.data.datasets for task in d.task_shares},
    )


def test_bad_data_is_counted_kept_and_reported(tmp_path, monkeypatch, one_weight):
    """A run whose data has a frame that is cut off."""
    config = from_mapping(Config, tiny_config.get_config("4"))
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, on_bad_record="skip", num_parallel=1))
    finish = loop.Preparation.finish

    def finish_and_damage(preparation):
        data = finish(preparation)
        for frame in sorted(tmp_path.glob("data/dataset_images/training/davis/*/*.jpg")):
            if frame.stem == "00001" and frame.parent.name != "0000":
                frame.write_bytes(frame.read_bytes()[:-100])
        return data

    monkeypatch.setattr(loop.Preparation, "finish", finish_and_damage)
    loop.train(config, tmp_path)
    records = [record for record in read_file(tmp_path / "bad_records-0.jsonl") if record.step < 4]
    assert records and all("the JPEG is cut off" in record.error for record in records)
    page = (tmp_path / "report.html").read_text()
    assert "Bad data that was left out" in page
    assert "0 videos or images were left out" in page and "samples were drawn again" in page
    assert "the JPEG is cut off" in page


def test_nothing_is_compiled_after_the_start(tmp_path, monkeypatch, one_weight):
    """In 500 steps of four datasets of three tasks and several sizes, with masks in both forms and checkpoints."""
    config = from_mapping(Config, quickstart.get_config("steps=500"))
    datasets = [
        dataclasses.replace(
            d, buckets=(), min_dims=(32, 64), max_padding=0.0, max_instances=4 if d.name == "DAVIS" else 12
        )
        for d in config.data.datasets
    ]
    data = dataclasses.replace(config.data, datasets=tuple(datasets), batch_size=1, clip_length=1, size_divisor=32)
    settings = dataclasses.replace(
        config.train,
        final_eval=False,
        demo_videos=0,
        tensorboard=False,
        checkpoint_steps=200,
        log_steps=50,
    )
    synthetic = dataclasses.replace(config.synthetic, num_train=4, num_val=1, num_frames=2)
    config = dataclasses.replace(config, data=data, train=settings, synthetic=synthetic)
    compiled, seen = [], collections.Counter()
    monkeypatch.setattr(
        loop, "to_devices", lambda batch, *args: seen.update([tuple(batch)]) or to_devices(batch, *args)
    )
    run_steps = loop._run_steps

    def count_compilations(config, stepper, *args):
        # The last three steps' batches may be on their way; what is counted is the whole loop.
        before, listed = len(compiled), stepper.programs.num_compilations
        state = run_steps(config, stepper, *args)
        assert compiled[before:] == [] and stepper.programs.num_compilations == listed == 9
        return state

    monkeypatch.setattr(loop, "_run_steps", count_compilations)
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **about: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        loop.train(config, tmp_path)
    finally:
        jax.monitoring.clear_event_listeners()
    assert compiled  # the listener hears
    assert (
        len(read_metrics(tmp_path)) == 10
        and any("id_map" in keys for keys in seen)
        and any("bit_planes" in keys for keys in seen)
    )
