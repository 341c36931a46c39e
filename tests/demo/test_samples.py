"""Which clips and which checkpoint the demo offers, and what its command says."""

import os
import pathlib
import sys
import threading
import types

import cv2
import pytest

from tarvis_jax import api, compiled
from tarvis_jax.demo import __main__ as command
from tarvis_jax.demo import samples
from tarvis_jax.demo.uploads import Limits, take_upload
from tarvis_jax.demo.workbench import Workbench
from tests.demo.color_model import ColorModel, clip_frame


def write_frames(folder: pathlib.Path, num_frames: int = 2) -> None:
    folder.mkdir(parents=True)
    for frame in range(num_frames):
        cv2.imwrite(str(folder / f"{frame}.png"), clip_frame(frame)[..., ::-1])


def make_run(workdir: pathlib.Path, config: str, modified: float, step: str = "10") -> None:
    checkpoint = workdir / "checkpoints" / step
    checkpoint.mkdir(parents=True)
    (workdir / "config.json").write_text(config)
    os.utime(checkpoint, (modified, modified))


def test_the_newest_quickstart_with_a_checkpoint(tmp_path):
    made_up = '{"synthetic": {"num_train": 4}}'
    with pytest.raises(ValueError, match="--config=configs/quickstart.py --workdir=runs/quickstart"):
        samples.newest_quickstart(tmp_path / "runs")
    make_run(tmp_path / "old", made_up, 100)
    make_run(tmp_path / "new", made_up, 200)
    make_run(tmp_path / "other", '{"synthetic": {"num_train": 0}}', 300)
    make_run(tmp_path / "being_saved", made_up, 300, step="10.orbax-checkpoint-tmp")
    make_run(tmp_path / "broken", '{"synthetic": ', 300)
    assert samples.newest_quickstart(tmp_path) == tmp_path / "new"


def test_held_out_clips_of_a_run(tmp_path):
    for name in ("youtube_vis_2021/a", "youtube_vis_2021/b", "youtube_vis_2021/c", "burst/val/d"):
        write_frames(tmp_path / samples.HELD_OUT / name)
    (tmp_path / samples.HELD_OUT / "davis").symlink_to(
        tmp_path / samples.HELD_OUT / "burst"
    )  # has training videos, too
    found = samples.find(None, tmp_path)
    assert list(found) == ["burst: d", "youtube_vis_2021: a", "youtube_vis_2021: b"]
    assert [path.name for path in found["burst: d"]] == ["0.png", "1.png"]
    assert samples.find(None, tmp_path / "model.pth") == {}


def test_clips_of_a_folder(tmp_path):
    write_frames(tmp_path / "frames")
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "notes.txt").touch()
    found = samples.find(tmp_path, pathlib.Path("runs"))
    assert list(found) == ["frames", "clip.mp4"] and found["clip.mp4"] == [tmp_path / "clip.mp4"]
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "empty", "found none"), (tmp_path / "absent", "no such folder")):
        with pytest.raises(ValueError, match=message):
            samples.find(folder, pathlib.Path("runs"))


def test_the_warm_up_runs_every_task(tmp_path):
    write_frames(tmp_path / "clip", 3)
    model = ColorModel()
    calls = []
    for name in ("segment_classes", "segment_objects"):
        segment = getattr(model.predictor, name)
        setattr(model.predictor, name, lambda *args, s=segment, n=name: (calls.append(n), s(*args))[1])
    bench = Workbench(model, tmp_path)
    clip = take_upload(samples.find(tmp_path, tmp_path)["clip"], tmp_path, Limits())
    samples.warm_up(bench, clip)
    assert calls.count("segment_classes") == 2 and calls.count("segment_objects") == 2
    bench.close()
    with pytest.raises(ValueError, match="closed"):
        bench.run()


def test_the_command(tmp_path, monkeypatch, capsys):
    """With stand-ins for the model and for the page, and so without Gradio."""
    served = []

    class Page:
        def __init__(self, model, clips):
            served.append((type(model.predictor).__name__, dict(clips)))

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            served.append("ended")

        def launch(self, host, port):
            served.append((host, port))
            return "http://here/"

    class Done:
        def wait(self):
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "load", lambda path: ColorModel())
    monkeypatch.setattr(compiled, "keep_between_runs", lambda: None)
    monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))
    monkeypatch.setitem(sys.modules, "tarvis_jax.demo.page", types.SimpleNamespace(Page=Page))
    with pytest.raises(ValueError, match="runs: no quickstart run"):
        command.main([])
    monkeypatch.setattr(threading, "Event", Done)
    with pytest.raises(KeyboardInterrupt):
        command.main(["--checkpoint=x.pth", "--port=80"])
    assert served == [("PredictorInTurns", {}), ("127.0.0.1", 80), "ended"]
    out = capsys.readouterr().out
    assert out.startswith("http://here/ is ready after ") and "warning" not in out
    with pytest.raises(KeyboardInterrupt):
        command.main(["--checkpoint=x.pth", "--host=0.0.0.0"])
    assert "no password and no encryption" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r'pip install ".\[demo\]"'):
        command.main([])
    assert len(served) == 6
