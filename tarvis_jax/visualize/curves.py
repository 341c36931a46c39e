"""Training curves as one picture, drawn with OpenCV: one panel per quantity."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

_PANEL = (220, 360)  # height, width in pixels
_MARGIN = (30, 12, 26, 58)  # top, right, bottom, left
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _GRID, _RAW, _SMOOTH = (60, 60, 60), (225, 225, 225), (190, 205, 235), (40, 80, 190)


def write_curves(
    path: str | pathlib.Path,
    entries: Sequence[Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    columns: int = 3,
) -> pathlib.Path:
    """Writes a PNG of each quantity over the steps: every value pale, a running mean of a tenth of them dark.

    Args:
      entries: lines of metrics.jsonl (`tarvis_jax.train.metrics.read_metrics`): "step" and values; None is no value.
      names: which quantities, in order; None: all, alphabetically.
    Raises:
      ValueError: no entry, or a name that no entry holds.
    """
    known = sorted({name for entry in entries for name in entry} - {"step"})
    names = known if names is None else list(names)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"{path}: no values of {unknown or 'anything'} in {len(entries)} entries; known are {known}")
    panels = [_panel(name, entries) for name in names]
    columns = min(columns, len(panels))
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % columns)
    rows = [np.concatenate(panels[i : i + columns], axis=1) for i in range(0, len(panels), columns)]
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1]):
        raise OSError(f"{path}: could not be written")
    return path


def _panel(name: str, entries: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """uint8 RGB of size _PANEL."""
    image = np.full((*_PANEL, 3), 255, np.uint8)
    top, right, bottom, left = _MARGIN
    height, width = _PANEL[0] - top - bottom, _PANEL[1] - left - right
    points = [(entry["step"], entry[name]) for entry in entries if _is_number(entry.get(name))]
    cv2.putText(image, name, (left, top - 10), _FONT, 0.45, _INK, 1, cv2.LINE_AA)
    if not points:
        cv2.putText(image, "no finite value", (left + 10, top + height // 2), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
        return image
    steps, values = (np.asarray(axis, np.float64) for axis in zip(*points, strict=True))
    low, high = values.min(), values.max()
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = steps.min(), max(steps.max(), steps.min() + 1)

    def place(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        columns = left + (x - first) / (last - first) * width
        rows = top + (high - y) / (high - low) * height
        return np.round(np.stack([columns, rows], axis=-1)).astype(np.int32)

    for tick in ticks:
        row = int(place(np.float64(first), np.float64(tick))[1])
        cv2.line(image, (left, row), (left + width, row), _GRID, 1)
        cv2.putText(image, f"{tick:.4g}", (4, row + 4), _FONT, 0.35, _INK, 1, cv2.LINE_AA)
    for step, anchor in ((first, 0.0), (last, 1.0)):
        text = f"{step:.0f}"
        text_width = cv2.getTextSize(text, _FONT, 0.35, 1)[0][0]
        column = int(left + anchor * (width - text_width))
        cv2.putText(image, text, (column, top + height + 16), _FONT, 0.35, _INK, 1, cv2.LINE_AA)
    cv2.rectangle(image, (left, top), (left + width, top + height), _INK, 1)
    reach = len(values) // 20
    sums = np.cumsum(np.concatenate([[0.0], values]))
    index = np.arange(len(values))
    starts, ends = np.maximum(0, index - reach), np.minimum(len(values), index + reach + 1)
    smooth = (sums[ends] - sums[starts]) / (ends - starts)
    for curve, rgb, thickness in ((values, _RAW, 1), (smooth, _SMOOTH, 2)):
        cv2.polylines(image, [place(steps, curve)], False, rgb, thickness, cv2.LINE_AA)
    return image


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _ticks(low: float, high: float) -> np.ndarray:
    """A few round numbers that span [low, high]."""
    span = high - low or abs(high) or 1.0
    step = 10 ** math.floor(math.log10(span / 3))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 5)
    return step * np.arange(math.floor(low / step), math.ceil(high / step) + 1 + (high == low))
