"""The check command: what it says of a workspace, and how it ends."""

import cv2
import pytest

from input_pipeline import check
from tarvis_jax import command_line
from tests.input_pipeline import official_downloads

CONFIG = """
from configs import base
from input_pipeline.config import dataset_config
from tarvis_jax.config import to_plain

def get_config(arg="KITTI_STEP+DAVIS+BURST"):
    config = base.get_config()
    config.data.datasets = tuple(to_plain(dataset_config(name)) for name in arg.split("+"))
    return config
"""


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def test_report_and_previews(workspace, config_file, tmp_path, capsys):
    previews = tmp_path / "previews"
    arguments = [f"--config={config_file}", f"--workspace={workspace}", f"--previews={previews}", "--full"]
    assert command_line.run(check.main, arguments) == command_line.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"workspace: {workspace}"
    assert "  training  2 videos, 12 frames, 4 objects, 48 x 64 pixels" in lines
    assert f"            from {workspace}/dataset_annotations/training/kitti_step.json" in lines
    assert "  testdev   unusable" in lines and any("ImageSet_testdev.txt" in line for line in lines)
    test = lines.index("  test      missing", lines.index("BURST"))
    assert lines[test + 1].endswith(f"eval_images: {workspace}/dataset_images/inference/burst/test")
    assert lines[test + 3].endswith(f"or an official download: {workspace}/official/burst")
    for name in ("KITTI_STEP", "DAVIS", "BURST"):
        assert cv2.imread(str(previews / f"{name}.png")).shape == (2 * 48, 64, 3)
    drawn = cv2.imread(str(previews / "DAVIS.png"))[48:, :, ::-1]
    assert tuple(drawn[10, 8 + 3]) == (128, 0, 0)  # the outline of the first object has the palette's first color


def test_a_dataset_that_cannot_be_trained_on_is_an_error(own_workspace, config_file, capsys):
    arguments = [f"--config={config_file}:DAVIS+OVIS", f"--workspace={own_workspace}"]
    assert command_line.run(check.main, arguments) == command_line.USER_ERROR
    captured = capsys.readouterr()
    assert "1 of 2 datasets cannot be trained on: OVIS" in captured.err
    assert f"train_annotations: {own_workspace}/dataset_annotations/training/ovis.json" in captured.out
    inference = f"{own_workspace}/dataset_annotations/inference"
    assert f"eval_annotations: {inference}/ovis/val.json or {inference}/ovis/valid.json" in captured.out
    for frame in (own_workspace / "dataset_images/training/davis/0001").iterdir():
        cv2.imwrite(str(frame), cv2.imread(str(frame))[:, ::2])
    assert command_line.run(check.main, [f"--config={config_file}:DAVIS", f"--workspace={own_workspace}"]) == 2
    assert "0001/00000.jpg has [height, width] = [48, 32]" in capsys.readouterr().out


def test_full_reads_what_headers_do_not_show(own_workspace, config_file, capsys):
    frame = own_workspace / "dataset_images/training/davis/0001/00003.jpg"
    frame.write_bytes(frame.read_bytes()[:-20])
    arguments = [f"--config={config_file}:DAVIS", f"--workspace={own_workspace}"]
    assert command_line.run(check.main, arguments) == 0
    assert command_line.run(check.main, [*arguments, "--full"]) == 2
    assert "00003.jpg: the JPEG is cut off" in capsys.readouterr().out


def test_what_training_leaves_out_is_told(own_workspace, config_file, capsys):
    config_file.write_text(CONFIG.replace("    return", '    config.data.on_bad_record = "skip"\n    return'))
    for frame, size in (("0000/00000.jpg", 10), ("0001/00003.jpg", 1000)):
        path = own_workspace / "dataset_images/training/davis" / frame
        path.write_bytes(path.read_bytes()[:size])
    arguments = [f"--config={config_file}:DAVIS", f"--workspace={own_workspace}", "--full"]
    assert command_line.run(check.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  training  1 videos, 6 frames") for line in lines)
    told = [line for line in lines if "bad, and left out of the training: " in line]
    assert len(told) == 2 and "00000.jpg: not a readable" in told[0] and "00003.jpg: the JPEG is cut off" in told[1]


def test_previews_pass_over_frames_that_are_left_out(own_workspace, config_file, tmp_path, capsys):
    frames = own_workspace / "dataset_images/training/davis"
    arguments = [f"--config={config_file}:DAVIS", f"--workspace={own_workspace}", f"--previews={tmp_path}"]
    for path in frames.glob("0000/*.jpg"):
        path.write_bytes(path.read_bytes()[:-20])
    assert command_line.run(check.main, arguments) == 2  # on_bad_record is "error"
    assert "the JPEG is cut off" in capsys.readouterr().err
    config_file.write_text(CONFIG.replace("    return", '    config.data.on_bad_record = "skip"\n    return'))
    assert command_line.run(check.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    row = lines.index(f"  preview   {tmp_path}/DAVIS.png")
    assert "bad, and left out of the training: " in lines[row + 1] and "the JPEG is cut off" in lines[row + 1]
    assert (tmp_path / "DAVIS.png").exists()


def test_ground_truth_is_found_or_missed(tmp_path, config_file, capsys):
    official_downloads.vipseg(tmp_path / "official/vipseg")
    command_line.run(check.main, [f"--config={config_file}:VIPSEG", f"--workspace={tmp_path}"])
    out = capsys.readouterr().out
    assert "  val       1 videos, 6 frames, 4 objects" in out and "no ground truth" not in out
    assert "  test      missing" in out


def test_wrong_arguments(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("TARVIS_WORKSPACE_DIR", raising=False)
    for arguments, message in (
        (["--config=none.py"], "--config=none.py: no such file"),
        (["--ful"], "unknown argument --ful; did you mean --full?"),
        ([], "workspace: not set"),
    ):
        assert command_line.run(check.main, arguments) == 2
        assert message in capsys.readouterr().err
