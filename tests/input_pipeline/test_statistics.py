"""Statistics of training clips against a few clips whose numbers are known."""

import json

import pytest

from input_pipeline import statistics
from input_pipeline.statistics import ClipRow

ROWS = [
    ClipRow("A", (32, 64), (64, 64), True, 2, (3, 4, 8), 0.5, 0.25),
    ClipRow("A", (64, 64), (64, 64), False, 4, (9, 2, 3), 0.1, 0.75),
    ClipRow("B", (64, 64), (64, 128), False, 1, (0, 1), 0.2),
]


def test_summaries():
    found = statistics.summaries(ROWS)
    assert found["A"] == pytest.approx(
        {
            "clips": 2,
            "sizes": "32x64, 64x64",
            "padded_sizes": 1,
            "picture": 75.0,
            "least_picture": 50.0,
            "cropped": 50.0,
            "targets": 3.0,
            "most_targets": 4,
            "step": (1 + 4 + 1 + 6) / 4,
            "span": 7.0,
            "covered": 30.0,
            "ignored": 50.0,
        }
    )
    assert found["B"]["picture"] == 50.0 and "ignored" not in found["B"]
    text = statistics.table(found, {"A": found["A"]})
    assert "75.0 / 75.0" in text.splitlines()[2] and "| 50.0 |" in text.splitlines()[3]


def test_rows_of_the_mixture_are_what_batches_hold(make_config):
    config = make_config()
    rows = list(statistics.clip_rows(config, 3))
    assert [row.dataset for row in rows] == [dataset.name for dataset in config.datasets for _ in range(3)]
    buckets = {dataset.name: dataset.buckets for dataset in config.datasets}
    for row in rows:
        assert row.padded in buckets[row.dataset] and row.targets >= 1 and 0 < row.covered <= 1
        assert row.size[0] <= row.padded[0] and row.size[1] <= row.padded[1]
        assert len(row.frames) == config.clip_length
        assert (row.ignored is not None) == (row.dataset == "KITTI_STEP")


def test_the_command_reads_a_config_and_files_of_rows(make_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TARVIS_WORKSPACE_DIR", make_config().workspace)
    out = str(tmp_path / "rows.json")
    statistics.main(["--config=configs/finetune.py", "--datasets=DAVIS", "--samples=2", f"--out={out}"])
    assert [row.dataset for row in statistics.read_rows(out)] == ["DAVIS"] * 2
    first = capsys.readouterr().out
    statistics.main([f"--rows={out}", f"--beside={out}"])
    assert first.splitlines()[0] == capsys.readouterr().out.splitlines()[0]
    with pytest.raises(ValueError, match=r"--datasets: \['ZOO'\] are not in the config"):
        statistics.main(["--config=configs/finetune.py", "--datasets=ZOO"])
    with pytest.raises(ValueError, match="expected either --config or --rows"):
        statistics.main([])
    (tmp_path / "wrong.json").write_text(json.dumps([{"dataset": "A"}]))
    with pytest.raises(ValueError, match="wrong.json: expected rows of clips"):
        statistics.main([f"--rows={tmp_path / 'wrong.json'}"])
