"""The commands in the docstrings of the config files: each names its own file, and its config is complete."""

import importlib
import pathlib
import re
import shlex

import pytest

from configs import base
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tests.input_pipeline import own_files

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem not in ("__init__", "base"))


def commands(module) -> list[str]:
    return re.findall(r"^    (python .*)$", module.__doc__, re.MULTILINE)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name, tmp_path, monkeypatch):
    own_files.id_masks(tmp_path / "VIDEOS")  # configs/own.py reads the videos that it is given
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"configs.{name}")
    found = commands(module)
    assert found, "the docstring has no command"
    main = (ROOT / "main.py").read_text()
    for command in found:
        python, program, *arguments = shlex.split(command)
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
        file, _, arg = flags["config"].partition(":")
        assert (python, program, file) == ("python", "main.py", f"configs/{name}.py")
        assert "workdir" in flags and all(f'"--{flag}"' in main for flag in flags), command
        assert from_mapping(Config, module.get_config(arg)).data.datasets


def test_base(capsys):
    (command,) = commands(base)
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    exec(code, {})
    assert "num_steps" in capsys.readouterr().out
