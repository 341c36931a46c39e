"""The command: every number of the official toolkits (shared/metrics), and what it needs."""

import json
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from tarvis_jax.evaluation.__main__ import main
from tarvis_jax.evaluation.benchmarks import BENCHMARKS
from tests.evaluation import cases

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = {"davis2017_real": "davis2017"} | {name: name for name in BENCHMARKS if name != "vspw"}
ABOUT = {
    "benchmark",
    "toolkit",
    "inputs",
    "unit",
    "alphas",
    "note",
    "notes",
    "config",
}  # of expected.json: no numbers to compare


def differences(expected, found, where: str = ""):
    """(place, absolute difference) of every number."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            yield from differences(value, found[key], f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(expected) == len(found), where
        for i, (value, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(value, other, f"{where}/{i}")
    elif isinstance(expected, (int, float)):
        yield where, abs(expected - found)
    else:
        assert expected == found, where


@pytest.mark.parametrize("folder, name", FOLDERS.items())
def test_official_numbers(shared_dir, tmp_path, folder, name, capsys):
    case = shared_dir / "metrics" / folder
    expected = json.loads((case / "expected.json").read_text())
    main([name, "--case", str(case), "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    numbers = dict(differences({k: v for k, v in expected.items() if k not in ABOUT}, found))
    assert len(numbers) >= 20
    worst = max(numbers, key=numbers.get)
    limit = 1e-4 if "percent" in expected["unit"] else 1e-6
    assert numbers[worst] <= limit and not any(map(math.isnan, numbers.values())), (worst, numbers[worst])
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) >= 3 and "nan" not in printed


def test_two_paths_give_what_a_case_gives(tmp_path):
    cases.write_davis(tmp_path, np.random.default_rng(0), num_videos=1, size=(24, 32), num_frames=4)
    main(["davis2017", "--case", str(tmp_path), "--json", str(tmp_path / "a.json")])
    paths = ["--results", str(tmp_path / "results"), "--gt", str(tmp_path / "DAVIS")]
    main(["davis2017", *paths, "--json", str(tmp_path / "b.json")])
    assert (tmp_path / "a.json").read_text() == (tmp_path / "b.json").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "BENCHMARK"),
        (["coco", "--case", "x"], "unknown benchmark 'coco'; there are ytvis, ovis"),
        (["ytvis"], "either --results and --gt, or --case"),
        (["ytvis", "--results", "x"], "either --results and --gt, or --case"),
        (["ytvis", "--case", "x", "--gt", "y"], "either --results and --gt, or --case"),
        (["ytvis", "--case", "nowhere"], "nowhere/annotations.json: cannot be read"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)


def test_runs_without_jax(tmp_path):
    """In a process of its own, as a user of another program runs it."""
    cases.write_tracks(tmp_path, np.random.default_rng(0), with_occlusion=False, num_videos=1, size=(24, 32))
    code = (
        "import sys, importlib\n"
        "for name in ('jax', 'flax', 'orbax', 'tensorflow', 'torch', 'matplotlib', 'scipy'): sys.modules[name] = None\n"
        "from tarvis_jax.evaluation.__main__ import main\n"
        "from tarvis_jax.evaluation.benchmarks import BENCHMARKS, benchmark\n"
        "assert all(benchmark(name).CASE for name in BENCHMARKS)\n"
        f"main(['ytvis', '--case', {str(tmp_path)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("AP ")
