"""The picture of a run: one panel per kind of quantity, none of them empty."""

import cv2
import numpy as np
import pytest

from tarvis_jax.visualize import curves
from tarvis_jax.visualize.curves import write_curves

DATASETS = ("YOUTUBE_VIS", "KITTI_STEP", "DAVIS", "B$UR$T")


def quickstart_entries() -> list[dict]:
    """As a finished quickstart leaves them: 60 log entries, one evaluation."""
    rng = np.random.default_rng(0)
    entries = []
    for step in range(50, 3001, 50):
        entry = {"step": step, "loss": 40 * 0.999**step, "grad_norm": float(rng.exponential()) + 0.1}
        entry |= {"learning_rate": 1e-3 * (1 - step / 3100), "param_norm": 50.0, "steps_per_sec": 6.0}
        for name in DATASETS:
            entry |= {f"train/{name}/loss": 30 * 0.999**step, f"train/{name}/grad_norm": 1.0}
            entry |= {f"train/{name}/mask_ce": 2 * 0.999**step, f"train/{name}/aux/mask_ce": 1.0}
            entry |= {f"train/{name}/instance/total": 5.0, f"train/{name}/panoptic/instance_total": 5.0}
        entries.append(entry)
    scores = {"AP": 0.41, "AP50": 0.65}, {"PQ_tube": 0.62, "STQ": 0.6}, {"J&F-Mean": 0.74}, {"J&F-Mean": 0.72}
    final = {"step": 3000}
    for name, by_name in zip(DATASETS, scores, strict=True):
        final |= {f"eval/{name}/{key}": value for key, value in by_name.items()}
    return [*entries, final]


@pytest.fixture
def panels(monkeypatch):
    """(title, axes) of every panel that is drawn."""
    found = []
    draw = curves._draw_panel
    monkeypatch.setattr(
        curves, "_draw_panel", lambda axes, title, of: draw(axes, title, of) or found.append((title, axes))
    )
    return found


def test_a_finished_quickstart(tmp_path, panels):
    path = write_curves(tmp_path / "a" / "curves.png", quickstart_entries())
    assert [title for title, _ in panels] == [
        "Loss",
        *(f"Loss terms, {name}" for name in sorted(DATASETS)),
        "Gradient norm",
        "Learning rate",
        "Held-out scores (%)",
    ]
    for title, axes in panels:
        values = [line.get_ydata() for line in axes.lines]
        assert values and all(np.isfinite(v).all() and len(v) for v in values), title
        low, high = axes.get_ylim()
        assert all(low <= v.min() and v.max() <= high for v in values), f"{title}: the axis is cut"
        assert all(axes.get_xlim()[0] <= line.get_xdata().min() for line in axes.lines)
    labels = [text.get_text() for text in panels[-1][1].get_legend().get_texts()]
    assert labels == ["B$UR$T J&F-Mean 72.0", "DAVIS J&F-Mean 74.0", "KITTI_STEP PQ_tube 62.0", "YOUTUBE_VIS AP 41.0"]
    assert {line.get_marker() for line in panels[-1][1].lines} == {"o"}, "a single value is a marker"

    terms = [text.get_text() for text in panels[1][1].get_legend().get_texts()]
    assert terms == ["mask_ce"], "neither sums nor means over earlier predictions"

    figure = panels[0][1].figure
    renderer = figure.canvas.get_renderer()
    for index, (_, axes) in enumerate(panels):
        boxes = [axes.get_tightbbox(renderer)] + [other.get_window_extent(renderer) for _, other in panels[:index]]
        assert not any(boxes[0].overlaps(other) for other in boxes[1:])
        first, last = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticklabels() if first <= tick.get_position()[0] <= last]
        texts = [axes.title, axes.xaxis.label, *ticks]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        extents = [text.get_window_extent(renderer) for text in texts if text.get_text()]
        assert not any(a.overlaps(b) for k, a in enumerate(extents) for b in extents[:k]), "labels overlap"
        assert all(figure.bbox.x0 <= e.x0 and e.x1 <= figure.bbox.x1 and e.y0 >= 0 for e in extents)
    image = cv2.imread(str(path))
    np.testing.assert_allclose(image.shape[:2], (figure.bbox.height, figure.bbox.width), atol=1)


def test_values_that_are_not_finite_make_no_panel(tmp_path, panels):
    entries = [{"step": 1, "loss": None, "grad_norm": 3.0, "learning_rate": float("nan"), "eval/A/AP": float("inf")}]
    assert write_curves(tmp_path / "curves.png", entries).is_file()
    ((title, axes),) = panels
    assert title == "Gradient norm" and [line.get_marker() for line in axes.lines] == ["o"]
    assert write_curves(tmp_path / "none.png", [{"step": 1, "loss": None}]) is None
    assert write_curves(tmp_path / "none.png", []) is None and not (tmp_path / "none.png").exists()


def test_smoothing_keeps_lines_and_means():
    line = np.arange(100.0)
    np.testing.assert_allclose(curves._smoothed(line), line)
    noise = np.random.default_rng(0).normal(size=400)
    smooth = curves._smoothed(noise)
    assert smooth.std() < 0.3 * noise.std() and abs(smooth.mean() - noise.mean()) < 0.05
    np.testing.assert_allclose(smooth[200], noise[180:221].mean())


def test_long_runs_are_thinned(tmp_path, panels):
    entries = [{"step": step, "grad_norm": 1.0 + step % 2} for step in range(20_000)]
    write_curves(tmp_path / "curves.png", entries)
    assert all(len(line.get_xdata()) <= 1000 for line in panels[0][1].lines)
