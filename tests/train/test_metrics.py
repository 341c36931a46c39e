"""metrics.jsonl: entries, resuming, broken lines."""

import numpy as np
import pytest

from tarvis_jax.train.metrics import MetricWriter, read_metrics


def write(workdir, steps, **options):
    with MetricWriter(workdir, {}, tensorboard=False, **options) as writer:
        for step in steps:
            writer.write(step, {"loss": step / 2, "bad": float("nan")})


def test_resuming_drops_later_entries_and_a_broken_last_line(tmp_path):
    write(tmp_path, [1, 2, 3])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # killed while writing
    write(tmp_path, [3, 4], resume_step=2)
    entries = read_metrics(tmp_path)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 4]
    assert entries[0] == {"step": 1, "loss": 0.5, "bad": None}
    write(tmp_path, [1])
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1]


def test_wandb_must_be_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(ValueError, match="pip install wandb"):
        write(tmp_path, [], wandb_project="tarvis")


@pytest.mark.parametrize("package", ["clu", "tensorflow"])
def test_what_tensorboard_needs_must_be_installed(package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ValueError, match="train.tensorboard: needs the packages clu and tensorflow"):
        MetricWriter(tmp_path, {}, tensorboard=True)


@pytest.fixture
def tensorboard():
    """The library that reads event files."""
    pytest.importorskip("tensorflow", reason="needs TensorFlow")
    return pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard")


def test_event_files_have_every_entry(tmp_path, tensorboard):
    from tensorboard.util import tensor_util

    with MetricWriter(tmp_path, {}, tensorboard=True) as writer:
        for step in (1, 2, 3):  # the first ones while TensorFlow is being imported
            writer.write(step, {"loss": step / 2})
    events = tensorboard.EventAccumulator(str(tmp_path), size_guidance={tensorboard.TENSORS: 0})
    events.Reload()
    assert [event.step for event in events.Tensors("loss")] == [1, 2, 3]
    values = [tensor_util.make_ndarray(event.tensor_proto) for event in events.Tensors("loss")]
    np.testing.assert_array_equal(values, [0.5, 1.0, 1.5])


def test_an_event_file_that_cannot_be_written_ends_the_run(tmp_path, tensorboard, monkeypatch):
    from clu import metric_writers

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(metric_writers.SummaryWriter, "write_scalars", fail)
    with pytest.raises(OSError, match="no space left"), MetricWriter(tmp_path, {}, tensorboard=True) as writer:
        writer.write(1, {"loss": 1.0})
