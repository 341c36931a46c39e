"""Every command on the page docs/migrating.md runs: on the rehearsal's workspace, with a tiny network."""

import json
import re
import shlex

import pytest

import main
from tests.rehearsal.recipes import ROOT

PAGE = (ROOT / "docs/migrating.md").read_text()
COMMANDS = list(dict.fromkeys(re.findall(r"^(python main\.py .+)$|`(python main\.py [^`]+)`", PAGE, re.MULTILINE)))
COMMANDS = [line or span for line, span in COMMANDS]


@pytest.fixture
def place(workspace, tmp_path):
    """A folder with what the commands take for granted."""
    (tmp_path / "targets.json").write_text(json.dumps([{"id": 1, "frame": 0, "point_yx": [200, 400]}]))
    (tmp_path / "FRAMES").symlink_to(f"{workspace}/dataset_images/inference/davis/bmx-trees")
    return tmp_path


def test_commands(place, workspace, monkeypatch, capsys):
    """In an order in which each finds what it needs."""
    monkeypatch.setenv("TARVIS_WORKSPACE_DIR", workspace)
    monkeypatch.chdir(place)
    for command in sorted(COMMANDS, key=order):
        python, program, *arguments = shlex.split(command)
        assert (python, program) == ("python", "main.py")
        main.main([substituted(argument, command) for argument in arguments])
        assert "--help" not in arguments or "num_steps" in capsys.readouterr().out
    assert (place / "X" / "metrics.jsonl").is_file() and (place / "X" / "scores.txt").is_file()
    assert list((place / "OUT").rglob("*.png"))


def order(command: str) -> int:
    steps = ["--help", "configs/pretrain.py", "configs/finetune.py", "--restore_session", "--mode=eval", "--mode=infer"]
    return next(place for place, step in enumerate(steps) if step in command)


def substituted(argument: str, command: str) -> str:
    """The runs of the page by one name for each, and the small form of its configs, from random weights."""
    argument = re.sub(r"=(CKPT|RUN)$", "=X", argument)
    config = re.fullmatch(r"--config=configs/(\w+)\.py(?::(.*))?", argument)
    if config:
        return f"--config={ROOT}/tests/rehearsal/small.py:{config[1]}" + (f",{config[2]}" if config[2] else "")
    return "--workdir=PRETRAINING" if argument == "--workdir=X" and "pretrain.py" in command else argument
