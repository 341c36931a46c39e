"""What is left to the environment is settled once, and saved with the run."""

import dataclasses
import os
import subprocess
import sys

import pytest

from input_pipeline.config import DataConfig
from tarvis_jax.model.config import BACKEND_VARIABLES, ModelConfig, settle_backends
from tarvis_jax.run_config import Config, TrainConfig, load_config, settle

ENVIRONMENT = {"TARVIS_MS_DEFORM_ATTN": "xla_deterministic", "TARVIS_ATTENTION": "xla", "TARVIS_WORKSPACE_DIR": "/data"}


def test_what_the_config_leaves_open():
    settled = settle(Config(), ENVIRONMENT)
    assert settled.model == dataclasses.replace(
        ModelConfig(), ms_deform_attn_backend="xla_deterministic", attention_backend="xla"
    )
    assert settled.data == DataConfig(workspace="/data")
    assert settle(settled, {}) == settled and settle(Config(), {}) == Config()
    assert settle(Config(), dict.fromkeys(ENVIRONMENT, "")) == Config()  # a variable that is empty says nothing


def test_the_config_comes_first():
    config = Config(ModelConfig(ms_deform_attn_backend="xla"), data=DataConfig(workspace="mine"))
    settled = settle(config, ENVIRONMENT)
    assert (settled.model.ms_deform_attn_backend, settled.data.workspace) == ("xla", "mine")


def test_a_folder_is_the_same_wherever_the_command_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert settle(Config(), {"TARVIS_WORKSPACE_DIR": "data"}).data.workspace == str(tmp_path / "data")


def test_a_split_state_is_not_packed():
    with pytest.raises(ValueError, match="pack_state: expected False where shard is 'optimizer', found True"):
        TrainConfig(pack_state=True, shard="optimizer")


def test_unknown_back_ends_name_the_variable():
    with pytest.raises(ValueError, match="TARVIS_MS_DEFORM_ATTN: ms_deform_attn_backend: expected .* found 'pallas'"):
        settle_backends(ModelConfig(), {"TARVIS_MS_DEFORM_ATTN": "pallas"})


def test_commands_settle_their_config(monkeypatch):
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    assert load_config("configs/base.py") == settle(Config(), ENVIRONMENT)


def test_nothing_else_reads_these_variables():
    """Neither the kernels nor the readers: values that they would refuse do not reach them."""
    script = """
import os, jax, numpy as np
from kernels.ms_deform_attn import backends
from kernels.attention import cudnn
from input_pipeline import workspace
assert backends.requested(None, False).name is None
kind = dict(dtype=np.dtype("float32"), head_size=8, num_queries=2, num_keys=2)
cudnn.where_possible(np.sin, np.cos, np.zeros(1), **kind, backend=None)
try:
    workspace.workspace_root("")
except ValueError as error:
    assert "TARVIS_WORKSPACE_DIR" in str(error)
"""
    environment = os.environ | dict.fromkeys([*BACKEND_VARIABLES.values(), "TARVIS_WORKSPACE_DIR"], "no such thing")
    subprocess.run([sys.executable, "-c", script], check=True, env=environment | {"JAX_PLATFORMS": "cpu"})
