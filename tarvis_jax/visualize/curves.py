"""Training curves as one picture (matplotlib): losses, gradient norm, learning rate, held-out scores."""

import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# The score that stands for a dataset, in the order of preference: VIS, VPS, VOS and PET.
HEADLINE_SCORES = ("AP", "PQ_tube", "J&F-Mean")
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#5d3a9b")  # color-blind safe
_ALL = "#222222"  # what stands for all datasets together
_COLUMNS = 3
_PANEL_INCHES = (4.6, 3.5)
_DPI = 110
_MAX_POINTS = 1000  # drawn per curve; longer ones are thinned by means of neighbors
_LOG_RANGE = 100.0  # positive values that span more than this are drawn on a logarithmic axis

Curve = tuple[np.ndarray, np.ndarray]  # steps, values: float64 [N]


def write_curves(path: str | pathlib.Path, entries: Sequence[Mapping[str, Any]]) -> pathlib.Path | None:
    """Writes a PNG with one panel per kind of quantity; returns its path, or None where no entry has a number.

    Panels: the loss of all datasets and of each; for each dataset the terms of its loss (those of the last prediction,
    not their sums); gradient norm; learning rate; the headline score of each dataset in every evaluation. A panel
    exists only where there is a finite value, so that none is empty. Curves are running means over a tenth of their
    values with the values themselves faint behind them; a curve of one value is a marker.

    Args:
      entries: lines of metrics.jsonl (`tarvis_jax.train.metrics.read_metrics`): "step" and numbers by name; None is
        no value.
    """
    curves = _curves(entries)
    panels = _panels(curves)
    if not panels:
        return None
    # Imported here: a training run draws at its end, and a machine that only measures does without matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(columns * width, rows * height), dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    last_step = max(steps[-1] for steps, _ in curves.values())
    for index, (title, drawn) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_xlim(-0.03 * last_step, 1.03 * last_step or 1.0)
        _draw_panel(axes, title, drawn)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(str(path))
    return path


def _curves(entries: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    """Name -> its finite values; names without any are left out."""
    points: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for name, value in entry.items():
            if name != "step" and isinstance(value, (int, float)) and math.isfinite(value):
                points.setdefault(name, []).append((entry["step"], value))
    return {name: tuple(np.array(pairs, np.float64).T) for name, pairs in points.items()}


def _panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Title -> label -> curve, in the order in which they are drawn."""
    losses, terms, scores = {}, {}, {}
    for name, curve in sorted(curves.items()):  # so that datasets have their colors whatever came first
        kind, _, rest = name.partition("/")
        dataset, _, quantity = rest.partition("/")
        if kind == "train" and quantity == "loss":
            losses[dataset] = curve
        elif kind == "train" and quantity != "grad_norm" and not {"aux", "total"} & set(re.split("[/_]", quantity)):
            terms.setdefault(dataset, {})[quantity] = curve
        elif kind == "eval":
            scores.setdefault(dataset, {})[quantity] = curve
    if "loss" in curves:
        losses = {"all datasets": curves["loss"]} | losses
    headlines = {}
    for dataset, by_name in scores.items():
        for name in HEADLINE_SCORES:
            if name in by_name:
                steps, values = by_name[name]
                headlines[f"{dataset} {name} {100 * values[-1]:.1f}"] = (steps, 100 * values)
                break
    panels = {"Loss": losses}
    panels |= {f"Loss terms, {dataset}": by_name for dataset, by_name in terms.items()}
    panels |= {
        title: {title: curves[name]}
        for title, name in (("Gradient norm", "grad_norm"), ("Learning rate", "learning_rate"))
        if name in curves
    }
    panels["Held-out scores (%)"] = headlines
    return {title: drawn for title, drawn in panels.items() if drawn}


def _draw_panel(axes: Any, title: str, curves: Mapping[str, Curve]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(_shortened(title, 44), fontsize=10, parse_math=False)
    is_score = title.startswith("Held-out")
    colors = iter(COLORS * (len(curves) // len(COLORS) + 1))
    for label, (steps, values) in curves.items():
        color = _ALL if label in ("all datasets", title) else next(colors)
        style = {"color": color, "label": _shortened(label, 34), "zorder": 3}
        if is_score or len(values) == 1:
            axes.plot(steps, values, marker="o", markersize=5, linewidth=1.5, **style)
            continue
        axes.plot(_thinned(steps), _thinned(values), color=color, linewidth=0.8, alpha=0.25, zorder=2)
        smooth = values if title == "Learning rate" else _smoothed(values)  # that one is not noisy
        axes.plot(_thinned(steps), _thinned(smooth), linewidth=1.7, **style)
    everything = np.concatenate([values for _, values in curves.values()])
    if is_score:
        axes.set_ylim(min(0.0, everything.min() - 3), max(100.0, everything.max() + 3))
    elif everything.min() > 0 and everything.max() > _LOG_RANGE * everything.min():
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.ticklabel_format(axis="x", style="plain")
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if set(curves) != {title}:
        legend = axes.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, borderaxespad=0
        )
        for text in legend.get_texts():
            text.set_parse_math(False)  # a "$" in a dataset's name is a dollar sign


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Mean over a twentieth of the values on each side, fewer near the ends (as many on both), float64 [N]."""
    index = np.arange(len(values))
    reach = np.minimum(len(values) // 20, np.minimum(index, index[::-1]))
    sums = np.cumsum(np.concatenate([[0.0], values]))
    return (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most _MAX_POINTS means of neighbors."""
    if len(values) <= _MAX_POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, _MAX_POINTS)])


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
