"""Every command on the page docs/migrating.md runs: on the rehearsal's workspace, with a tiny network."""

import json
import re
import shlex

import numpy as np
import pytest

import main
from tarvis_jax.config import from_mapping, to_plain
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.run_config import Config
from tarvis_jax.weights.checkpoints import Checkpoints
from tests.rehearsal import small
from tests.rehearsal.recipes import ROOT

PAGE = (ROOT / "docs/migrating.md").read_text()
COMMANDS = list(dict.fromkeys(re.findall(r"^(python main\.py .+)$|`(python main\.py [^`]+)`", PAGE, re.MULTILINE)))
COMMANDS = [line or span for line, span in COMMANDS]


@pytest.fixture(scope="module")
def place(workspace, tmp_path_factory):
    """A folder with what the commands take for granted."""
    folder = tmp_path_factory.mktemp("migrating")
    config = from_mapping(Config, small.get_config("pretrain"))
    structure = ModelStructure(config.model)
    rng = np.random.default_rng(0)
    params, frozen = (
        {name: rng.normal(0, 0.1, value.shape).astype(value.dtype) for name, value in group.items()}
        for group in (structure.params, structure.frozen)
    )
    checkpoints = Checkpoints(folder / "PRETRAINING", create=True)
    weights = {"params": params, "frozen": frozen, "ema": {}}
    checkpoints.save(1, weights, {"step": np.int32(1)}, to_plain(config))
    checkpoints.wait()
    checkpoints.close()
    targets = [{"id": 1, "frame": 0, "point_yx": [200, 400]}]
    (folder / "targets.json").write_text(json.dumps(targets))
    (folder / "FRAMES").symlink_to(f"{workspace}/dataset_images/inference/davis/bmx-trees")
    return folder


def test_commands(place, workspace, monkeypatch, capsys):
    """In an order in which each finds what it needs."""
    monkeypatch.setenv("TARVIS_WORKSPACE_DIR", workspace)
    monkeypatch.chdir(place)
    for command in sorted(COMMANDS, key=order):
        python, program, *arguments = shlex.split(command)
        assert (python, program) == ("python", "main.py")
        main.main([substituted(argument) for argument in arguments])
        assert "--help" not in arguments or "num_steps" in capsys.readouterr().out
    assert (place / "X" / "metrics.jsonl").is_file() and (place / "X" / "scores.txt").is_file()
    assert list((place / "OUT").rglob("*.png"))


def order(command: str) -> int:
    steps = ["--help", "configs/pretrain.py", "configs/finetune.py", "--restore_session", "--mode=eval", "--mode=infer"]
    return next(place for place, step in enumerate(steps) if step in command)


def substituted(argument: str) -> str:
    """The runs of the page by one name, and the small form of its configs."""
    argument = re.sub(r"=(CKPT|RUN)$", "=X", argument)
    config = re.fullmatch(r"--config=configs/(\w+)\.py(?::(.*))?", argument)
    if config:
        return f"--config={ROOT}/tests/rehearsal/small.py:{config[1]}" + (f",{config[2]}" if config[2] else "")
    return argument
