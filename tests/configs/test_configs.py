"""Every config file: its sections become dataclasses, and the whole training step traces for every task in it."""

import dataclasses
import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from input_pipeline.batches import batch_shapes
from tarvis_jax.config import from_mapping, load_json, save_json
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.run_config import Config
from tarvis_jax.tasks import objectives
from tarvis_jax.train.optimizer import learning_rate_at, make_optimizer
from tarvis_jax.train.state import abstract_state
from tarvis_jax.train.step import make_gradients, make_update

ROOT = pathlib.Path(__file__).resolve().parents[2]
# configs/own.py needs a folder of videos: test_own.py. The ablations of pretraining have one of its tasks each.
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "own") and not path.stem.startswith("pretrain_")
)


def resolve(name: str, arg: str = "") -> Config:
    return from_mapping(Config, importlib.import_module(f"configs.{name}").get_config(arg))


@pytest.mark.parametrize(
    # Steps of the quickstart's and of pretraining's kind are taken in tests/train and tests/rehearsal.
    "name",
    [pytest.param(n, marks=[pytest.mark.long] * (n != "finetune")) for n in NAMES],
)
def test_step_traces(name, tmp_path):
    config = resolve(name)
    save_json(tmp_path / "config.json", config)
    assert load_json(Config, tmp_path / "config.json") == config

    # Layers repeat; one of each kind and stride traces several times faster than all of them.
    model = dataclasses.replace(
        config.model, neck_layers=1, decoder_layers=len(config.model.decoder_strides), object_encoder_layers=1
    )
    if name.endswith("_only") or name == "pretrain":  # finetune with other datasets: its backbone is traced there
        model = dataclasses.replace(model, backbone="ResNetTiny")
    structure = ModelStructure(model)
    all_objectives = objectives(dataclasses.replace(config, model=model))
    optimizer = make_optimizer(config.optimizer, structure.params)
    update = make_update(optimizer, lambda step: learning_rate_at(config.optimizer, step), config.optimizer.ema_decay)
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = abstract_state(structure, optimizer, config.optimizer.ema_decay > 0, make_mesh(jax.devices()[:1]))
    one_of_each_task = {task: dataset for dataset in config.data.datasets for task in dataset.task_shares}
    for task, dataset in one_of_each_task.items():
        shapes = batch_shapes(config.data, dataset, dataset.buckets[0] if dataset.buckets else (512, 960), task)
        shapes["place"] = (config.data.batch_size,), np.int32
        microbatches = config.data.batch_size
        batch = {
            key: jax.ShapeDtypeStruct((microbatches, shape[0] // microbatches, *shape[1:]), dtype)
            for key, (shape, dtype) in shapes.items()
        }
        step = jax.ShapeDtypeStruct((), jnp.int32)
        grads, loss, _ = jax.eval_shape(
            make_gradients(structure, all_objectives[dataset.name, task]), state.params, state.frozen, batch, key, step
        )
        assert loss.shape == () and loss.dtype == jnp.float32
        assert {path: (g.shape, g.dtype) for path, g in grads.items()} == {
            path: (p.shape, p.dtype) for path, p in structure.params.items()
        }
    # One program for all tasks: gradients are shaped like the parameters, whatever they are of.
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    new, metrics = jax.eval_shape(update, state, state.params, loss)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), new) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
    assert set(metrics) == {"grad_norm", "param_norm", "learning_rate", "is_finite"}


def test_published_numbers():
    config = resolve("finetune")
    assert (config.data.batch_size, config.data.clip_length, config.train.num_steps) == (32, 3, 90_000)
    assert sum(dataset.weight for dataset in config.data.datasets) == pytest.approx(1.0)
    large = resolve("finetune", "backbone=SwinLarge")
    assert (large.loss.panoptic_semantic_weight, large.loss.logit_norm_weight) == (1.0, 1e-3)
    assert dict(resolve("vps_only").model.semantic_classes) == {"KITTI_STEP": 19, "CITYSCAPES_VPS": 19, "VIPSEG": 124}


@pytest.mark.parametrize("datasets", ["OVIS+OVIS", "OVIS,DAVIS", "", "ZOO"])
def test_datasets_of_finetune(datasets):
    assert [dataset.name for dataset in resolve("finetune", "datasets=OVIS+DAVIS").data.datasets] == ["OVIS", "DAVIS"]
    with pytest.raises(ValueError, match="datasets: expected names of|config argument 'DAVIS'"):
        resolve("finetune", f"datasets={datasets}")
    with pytest.raises(ValueError, match="config argument 'datasets=.*'backbone'"):
        resolve("vis_only", f"datasets={datasets}")


def test_finetune_with_held_out_training_videos():
    assert {d.held_out_every for d in resolve("finetune", "datasets=OVIS+DAVIS,held_out_every=10").data.datasets} == {
        10
    }
    with pytest.raises(ValueError, match="held_out_every: expected a whole number, found 'some'"):
        resolve("finetune", "held_out_every=some")


def test_errors():
    with pytest.raises(ValueError, match="expected key=value with a key of"):
        resolve("finetune", "backbon=SwinTiny")
    wrong = base.get_config()
    wrong.model.hiden_size = 3
    with pytest.raises(ValueError, match=r"config\.model\.hiden_size: no such key\. Did you mean hidden_size"):
        from_mapping(Config, wrong)
    config = importlib.import_module("configs.finetune").get_config()
    config.model.semantic_classes = (("OVIS", 25),)
    with pytest.raises(ValueError, match="expected YOUTUBE_VIS with 40 classes"):
        from_mapping(Config, config)
