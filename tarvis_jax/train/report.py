"""Training curves as a picture, drawn from metrics.jsonl."""

import pathlib

import cv2
import numpy as np

from tarvis_jax.train.metrics import read_metrics

PANEL = (220, 420)  # height and width in pixels
MARGIN = 34
PANELS_PER_ROW = 3


def write_curves(workdir: pathlib.Path | str) -> pathlib.Path | None:
    """Draws one panel per curve (loss of each dataset, gradient norm, learning rate, scores) into curves.png.

    Returns:
      Its path; None when there is nothing to draw yet.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in read_metrics(workdir):
        for name, value in entry.items():
            is_curve = (
                name in ("loss", "grad_norm", "learning_rate") or name.endswith("/loss") or name.startswith("eval/")
            )
            if is_curve and value is not None:
                curves.setdefault(name, []).append((entry["step"], value))
    if not curves:
        return None
    panels = [_panel(name, points) for name, points in curves.items()]
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % PANELS_PER_ROW)
    rows = [np.hstack(panels[i : i + PANELS_PER_ROW]) for i in range(0, len(panels), PANELS_PER_ROW)]
    path = pathlib.Path(workdir) / "curves.png"
    cv2.imwrite(str(path), np.vstack(rows))
    return path


def _panel(name: str, points: list[tuple[int, float]]) -> np.ndarray:
    """White uint8 [h, w, 3] with one curve, its name and the ends of both axes."""
    height, width = PANEL
    image = np.full((height, width, 3), 255, np.uint8)
    steps, values = np.array(points, np.float64).T
    low, high = values.min(), values.max()
    x = MARGIN + (steps - steps[0]) / max(steps[-1] - steps[0], 1) * (width - 2 * MARGIN)
    y = height - MARGIN - (values - low) / max(high - low, 1e-12) * (height - 2 * MARGIN)
    line = np.stack([x, y], -1).round().astype(np.int32)
    cv2.rectangle(image, (MARGIN, MARGIN), (width - MARGIN, height - MARGIN), (210, 210, 210))
    cv2.polylines(image, [line[:, None]], False, (170, 80, 20), 1, cv2.LINE_AA)
    for point in line if len(line) < 20 else []:
        cv2.circle(image, tuple(map(int, point)), 2, (170, 80, 20), -1)

    def write(text: str, x: int, y: int) -> None:
        cv2.putText(image, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (40, 40, 40), 1, cv2.LINE_AA)

    write(f"{name}   last {values[-1]:.4g}", MARGIN, 14)
    write(f"{high:.4g}", 2, MARGIN - 4)
    write(f"{low:.4g}", 2, height - MARGIN + 12)
    write(f"{int(steps[0])}", MARGIN, height - 8)
    write(f"{int(steps[-1])}", width - MARGIN - 30, height - 8)
    return image
