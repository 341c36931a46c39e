"""What users get wrong on the command line is one line and exit status 2; nothing heavy is imported for it."""

import logging as python_logging
import pathlib
import subprocess
import sys

import cv2
import pytest
from absl import logging

import main
from configs import quickstart
from tarvis_jax import command_line
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = "--config=tests/train/tiny_config.py:1"
NEW = "--workdir=x"


@pytest.fixture
def fail(capsys, monkeypatch):
    """Runs main.py's `main` in this process, which must end with an error of the user's; returns the message."""
    monkeypatch.chdir(ROOT)
    root, level = python_logging.getLogger(), logging.get_verbosity()
    handlers = list(root.handlers)

    def run(*arguments: str) -> str:
        try:
            assert command_line.run(main.main, arguments) == 2
        finally:
            root.handlers[:] = handlers
            logging.set_verbosity(level)
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("error: ")
        return message.removeprefix("error: ")

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--mode=train needs --config, --workdir (--help lists the flags)"),
        (("--wrkdir=x",), "unknown argument --wrkdir; did you mean --workdir? (--help lists the flags)"),
        (("--mode=fly",), "argument --mode: invalid choice: 'fly'"),
        (("--mode=eval",), "--mode=eval needs --workdir"),
        (("--mode=eval", "--workdir=nowhere"), "nowhere: expected the workdir of a training run, found no such folder"),
        (("--mode=infer", "--checkpoint=a"), "--mode=infer needs --dataset, --output"),
        (("--mode=infer", "--checkpoint=a", "--dataset=b", "--output=c"), "needs --input for one video, --split for"),
        (
            ("--mode=infer", "--checkpoint=a", "--dataset=b", "--output=c", "--clips=d", "--targets=e"),
            "--mode=infer with --clips does not take --targets",
        ),
        (("--mode=eval", NEW, "--split=test"), "--mode=eval does not take --split"),
        ((CONFIG, NEW, "--targets=a"), "--mode=train does not take --targets"),
        (("--config=nowhere.py", NEW), "--config=nowhere.py: no such file"),
        (("--config=configs/quickstart.py:steps=x", NEW), "--config=configs/quickstart.py:steps=x: invalid literal"),
        ((CONFIG, NEW, "--config.train.num_step=3"), "config.train.num_step: no such key. Did you mean num_steps"),
        ((CONFIG, NEW, "--config.train.num_steps=x"), "--config.train.num_steps=x: expected int, found 'x'"),
        ((CONFIG, NEW, "--config.train.num_steps=0"), "config.train: num_steps: expected 1..1000000000, found 0"),
        (("--config.train.num_steps=3",), "--config.train.num_steps=3: expected --config=FILE too"),
        ((CONFIG, NEW, "--finetune_from=a", "--restore_weights=b"), "--finetune_from and --restore_weights: expected"),
        ((CONFIG, "--restore_session=a"), "--restore_session takes config and workdir of the run it names"),
        ((CONFIG, NEW, "--finetune_from=nowhere"), "--finetune_from=nowhere: nowhere: no such file or folder"),
        (("--mode=export", "--output=x"), "--mode=export needs --checkpoint, or --config"),
        (("--mode=export", "--output=x", "--checkpoint=a", "--export_clip=1,2"), "--export_clip: expected frames,"),
        (("--mode=export", "--export_clip=1,a,2"), "argument --export_clip: invalid list of whole numbers value"),
        (
            (CONFIG, NEW, "--config.synthetic.num_train=0", "--config.data.workspace=no"),
            "/no (from config.data.workspace) is not an existing folder",
        ),
        (("--mode=compile",), "--mode=compile needs --config"),
        (
            ("--mode=compile", CONFIG, "--topology=v5e"),
            "--topology=v5e: expected a TPU slice such as v5e:4x4 or v4:2x2x2, or GPUs of one machine such as h100:8",
        ),
        (("--mode=compile", CONFIG, "--topology=a100:8"), "the chips are v4, v5e, v5p, v6e, h100, h200"),
        ((CONFIG, "--workdir=README.md"), "README.md: expected a folder to train in, found a file"),
    ],
)
def test_errors_of_the_user(fail, arguments, message):
    assert message in fail(*arguments)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.make_model().save_pretrained(folder / "shared")
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames/0.png"), tiny.noise_video(1)[0])
    return folder


def test_errors_of_inference(fail, model, tmp_path):
    flags = {"checkpoint": model / "shared", "dataset": "OVIS", "input": model / "frames", "output": tmp_path / "out"}
    (tmp_path / "file").write_text("x")
    (tmp_path / "targets.json").write_text("[3]")
    (tmp_path / "a.mp4").write_text("x")
    for name, value, message in (
        ("checkpoint", "nowhere.pth", "nowhere.pth: no such file or folder"),
        ("dataset", "COCO", "--dataset=COCO: expected one of ["),
        ("input", "nowhere", "nowhere: no such file or folder"),
        ("input", tmp_path / "a.mp4", f"{tmp_path}/a.mp4: not a readable video"),
        ("output", tmp_path / "file", f"{tmp_path}/file: File exists"),
        ("targets", tmp_path / "targets.json", f"{tmp_path}/targets.json[0]: expected keys id, frame and either"),
    ):
        given = [f"--{flag}={text}" for flag, text in (flags | {name: value}).items()]
        assert fail("--mode=infer", *given).startswith(message)
    del flags["input"]
    for name, value, message in (
        ("clips", tmp_path / "no", f"{tmp_path}/no: expected a folder of videos, found no such folder"),
        ("min_score", 2, "--min_score=2.0: expected a score in 0..1"),
        ("format", "avi", "--format=avi: expected none or one of"),
        ("videos", "x", "--videos=x: expected names of the 1 videos, such as frames"),
        ("dataset", "DAVIS", f"--clips={model}: objects of DAVIS are to be given"),
    ):
        given = [f"--{flag}={text}" for flag, text in (flags | {"clips": model, name: value}).items()]
        assert fail("--mode=infer", *given).startswith(message)


def test_help_as_a_process():
    """Flags by mode and every setting of the config, without any library that takes long to import."""
    code = (
        "import sys, main; from tarvis_jax import command_line; "
        "status = command_line.run(main.main); "
        "heavy = {'jax', 'flax', 'tensorflow', 'torch', 'matplotlib', 'orbax'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    command = [sys.executable, "-c", code, "--config=configs/quickstart.py", "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    for mode, (needed, allowed) in main._MODES.items():
        assert mode in process.stdout and all(f"--{name} " in process.stdout for name in needed + allowed)
    assert f"--config.train.num_steps={quickstart.get_config().train.num_steps}\n" in process.stdout
    assert max(len(line) for line in process.stdout.splitlines()) <= 140
