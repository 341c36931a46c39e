"""Gathers what a run or an evaluation left in its folder into `curves.png` and `report.html`."""

import datetime
import json
import pathlib
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import jax
import numpy as np

from tarvis_jax.visualize.curves import write_curves
from tarvis_jax.visualize.report import DatasetSection, Picture, Report, Table, write_report
from tarvis_jax.visualize.sheet import contact_sheet, fit_scale

REPORT_FILE = "report.html"
SCORES_FILE = "scores.json"  # of an evaluation's folder; `tarvis_jax.evaluation.scores.scores_json`
PICTURES_FOLDER = "pictures"  # of an evaluation's folder; `tarvis_jax.evaluation.pictures`
_DEMO_FRAMES = 3


def write_training_report(
    workdir: pathlib.Path,
    config: Mapping[str, Any],
    defaults: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    evaluation: pathlib.Path | None,
    left_out: Mapping[str, str],
) -> pathlib.Path:
    """Writes `workdir`/curves.png and `workdir`/report.html.

    Args:
      workdir: of the run; its demo/ is shown.
      config, defaults: all settings as nested dicts and lists.
      entries: lines of metrics.jsonl.
      evaluation: folder of the final evaluation; None where there was none.
      left_out: what of the data was left out, by name; empty where a bad record ends the run.
    """
    curves = write_curves(workdir / "curves.png", entries)
    sections, evaluation_times, pictures = _evaluation(evaluation)
    last_step = max((entry["step"] for entry in entries), default=0)
    report = Report(
        title=f"Training run {workdir.absolute().name}",
        facts={"what": f"training, {last_step} steps"} | _circumstances(),
        datasets=sections,
        times=_training_times(entries) | evaluation_times,
        left_out=left_out,
        curves=curves.read_bytes() if curves else None,
        pictures=pictures + _demos(workdir / "demo", {picture.title.partition(":")[0] for picture in pictures}),
        settings=config,
        defaults=defaults,
    )
    return write_report(workdir / REPORT_FILE, report)


def write_evaluation_report(
    evaluation: pathlib.Path, name: str, config: Mapping[str, Any], defaults: Mapping[str, Any]
) -> pathlib.Path:
    """Writes `evaluation`/report.html.

    Args:
      evaluation: folder of the evaluation, with its scores.json.
      name: of the run that was evaluated.
      config, defaults: all settings as nested dicts and lists.
    """
    sections, times, pictures = _evaluation(evaluation)
    report = Report(
        title=f"Evaluation of {name}",
        facts={"what": "evaluation of the newest checkpoint on held-out videos"} | _circumstances(),
        datasets=sections,
        times=times,
        pictures=pictures,
        settings=config,
        defaults=defaults,
    )
    return write_report(evaluation / REPORT_FILE, report)


def _circumstances() -> dict[str, str]:
    devices = jax.devices()
    return {
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "versions": f"Python {platform.python_version()}, jax {jax.__version__}, numpy {np.__version__}",
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _evaluation(folder: pathlib.Path | None) -> tuple[list[DatasetSection], dict[str, str], list[Picture]]:
    if folder is None:
        return [], {}, []
    sections, times, pictures = [], {}, []
    for name, scores in json.loads((folder / SCORES_FILE).read_text()).items():
        if "skipped" in scores:
            sections.append(DatasetSection(name, {}, skipped=scores["skipped"]))
            continue
        by_class = [(row.pop("name"), row) for row in scores["per_class"]]
        by_video = [(row.pop("video"), row) for row in scores["per_video"]]
        for row in (row for _, row in by_class):
            del row["id"]
        tables = (Table("per class", "class", by_class), Table("per video, the worst first", "video", by_video))
        sections.append(DatasetSection(name, scores["summary"], tables))
        seconds = scores["seconds"] - scores["compile_seconds"]
        rate = scores["num_segmented"] / max(seconds, 1e-9)
        times[f"evaluation of {name}"] = (
            f"{duration(seconds)} for {scores['num_segmented']} frames ({rate:.1f} frames/s, scoring included), and "
            f"{duration(scores['compile_seconds'])} of compilation; the {scores['num_videos']} videos have "
            f"{scores['num_frames']} frames, and what is missing was segmented before or by other processes"
        )
        for picture in scores["pictures"]:
            path = folder / PICTURES_FOLDER / picture["file"]
            title = f"{path.stem}: {picture['score']}; above the ground truth, below what was found"
            pictures.append(Picture(title, _read(path)))
    return sections, times, pictures


def _demos(folder: pathlib.Path, shown: set[str]) -> list[Picture]:
    """A few frames of each demonstration whose video is not in `shown`."""
    pictures = []
    for each in sorted(folder.glob("*/overlays")):
        files = sorted(each.glob("*.png"))
        if each.parent.name in shown or not files:
            continue
        chosen = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, _DEMO_FRAMES).round().astype(int))]
        row = []
        for path in chosen:
            image = _read(path)
            scale = min(1.0, fit_scale(image.shape[1]))
            row.append(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
        pictures.append(Picture(f"{each.parent.name}: what was found", contact_sheet([row])))
    return pictures


def _read(path: pathlib.Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be read as an image")
    return image[..., ::-1]


def _training_times(entries: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """From the log: sums over all parts of a run that was interrupted."""
    logged = [entry for entry in entries if "steps_per_sec" in entry]
    if not logged:
        return {}
    rates = [entry["steps_per_sec"] for entry in logged]
    return {
        "training": duration(sum(entry["train_seconds"] for entry in logged)) + ", without compilation",
        "compiling the training step": duration(sum(entry["compile_seconds"] for entry in logged)),
        "steps per second": f"{np.median(rates):.2f} (median of {len(rates)} log entries, without compilation)",
        "waiting for data": f"{np.mean([entry['data_wait_percent'] for entry in logged]):.1f} % of the time",
    }


def duration(seconds: float) -> str:
    """7.3 s, 12 min 5 s, 3 h 20 min"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
