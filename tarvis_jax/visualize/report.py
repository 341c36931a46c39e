"""One self-contained HTML page about a run or an evaluation: no scripts, no other files, light and dark.

Takes plain data, so that it depends on neither the network nor the training; `run_report.py` gathers that data.
"""

import base64
import dataclasses
import html
import math
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

MAX_PICTURES = 24  # embedded at most; the page says how many were left out
MAX_PIXELS = 1_500_000  # of one embedded picture; larger ones are reduced
MAX_ROWS = 1000  # of one table
_MAX_TEXT = 2000  # characters of one value
_OPEN_ROWS = 30  # longer tables are folded at first
_JPEG_QUALITY = 85
_UNDEFINED = -1


@dataclasses.dataclass(frozen=True)
class Table:
    """Scores by row: fractions 0..1, -1 where undefined; `head` names the column of the rows' names."""

    title: str
    head: str
    rows: Sequence[tuple[str, Mapping[str, float]]]


@dataclasses.dataclass(frozen=True)
class DatasetSection:
    """Scores of one dataset.

    Attributes:
      name: of the dataset.
      scores: the published ones by name, the main one first; empty where there are none.
      tables: per class or per video.
      skipped: why there are no scores.
    """

    name: str
    scores: Mapping[str, float]
    tables: Sequence[Table] = ()
    skipped: str = ""


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image, uint8 RGB [H, W, 3], and what it shows."""

    title: str
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows; empty parts are left out.

    Attributes:
      title: of the page.
      facts: what, when, with which versions on which device, by name.
      datasets: scores.
      times: durations and rates by name, as text.
      left_out: data that was left out because it is bad, by name.
      curves: PNG file content.
      pictures: overlays; at most MAX_PICTURES of at most MAX_PIXELS are embedded.
      settings: the whole config: nested dicts and lists of plain values.
      defaults: likewise; settings that differ are listed first and marked.
    """

    title: str
    facts: Mapping[str, str]
    datasets: Sequence[DatasetSection] = ()
    times: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    curves: bytes | None = None
    pictures: Sequence[Picture] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def write_report(path: str | pathlib.Path, report: Report) -> pathlib.Path:
    """Writes the page; returns its path. All text of the report is escaped."""
    sections = (
        ("Scores on held-out videos, in percent", _scores(report.datasets)),
        ("Times", _pairs(report.times)),
        ("Bad data that was left out", _pairs(report.left_out)),
        ("Curves", _curves(report.curves)),
        ("Videos", _pictures(report.pictures)),
        ("Settings", _settings(report.settings, report.defaults)),
    )
    body = "".join(f"<section><h2>{title}</h2>\n{content}</section>\n" for title, content in sections if content)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _PAGE.format(style=_STYLE, title=_text(report.title), facts=_pairs(report.facts), body=body), encoding="utf-8"
    )
    return path


def _scores(datasets: Sequence[DatasetSection]) -> str:
    if not datasets:
        return ""
    overview = "".join(
        f"<tr><th>{_text(dataset.name)}</th><td>{_text(name)}</td>{_score(value)}</tr>\n"
        for dataset in datasets
        for name, value in list(dataset.scores.items())[:1]
    )
    overview += "".join(
        f"<tr><th>{_text(dataset.name)}</th><td>not scored</td><td>{_text(dataset.skipped)}</td></tr>\n"
        for dataset in datasets
        if dataset.skipped
    )
    parts = [f"<table><tr><th>dataset</th><th>main score</th><th></th></tr>\n{overview}</table>\n"]
    for dataset in (each for each in datasets if not each.skipped):
        parts.append(f"<h3>{_text(dataset.name)}</h3>\n")
        parts += map(_table, (Table("all scores", "", [("all videos", dataset.scores)]), *dataset.tables))
    return "".join(parts)


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    columns = list(dict.fromkeys(column for _, scores in table.rows for column in scores))
    # Long names may break after an underscore.
    head = "".join(f'<th class="score">{_text(column).replace("_", "_<wbr>")}</th>' for column in columns)
    rows = "".join(
        f"<tr><th>{_text(name)}</th>{''.join(_score(scores.get(column, _UNDEFINED)) for column in columns)}</tr>\n"
        for name, scores in table.rows[:MAX_ROWS]
    )
    left_out = len(table.rows) - MAX_ROWS
    note = f"<p>{left_out} more rows are left out.</p>\n" if left_out > 0 else ""
    is_open = " open" if len(table.rows) <= _OPEN_ROWS else ""
    body = f"<table><tr><th>{_text(table.head)}</th>{head}</tr>\n{rows}</table>\n{note}"
    return f"<details{is_open}><summary>{_text(table.title)}</summary>\n{body}</details>\n"


def _score(value: float) -> str:
    if value == _UNDEFINED or not math.isfinite(value):
        return '<td class="score">–</td>'
    return f'<td class="score" style="--share:{100 * min(max(value, 0.0), 1.0):.1f}%">{100 * value:.1f}</td>'


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>\n" for name, value in pairs.items())
    return f"<table>{rows}</table>\n" if rows else ""


def _curves(content: bytes | None) -> str:
    return f'<img alt="training curves" src="{_data_uri("image/png", content)}">\n' if content else ""


def _pictures(pictures: Sequence[Picture]) -> str:
    parts = []
    for picture in pictures[:MAX_PICTURES]:
        uri = _data_uri("image/jpeg", _jpeg(picture.image))
        title = _text(picture.title)
        parts.append(f'<figure><img alt="{title}" src="{uri}"><figcaption>{title}</figcaption></figure>\n')
    left_out = len(pictures) - MAX_PICTURES
    if left_out > 0:
        parts.append(f"<p>{left_out} more pictures are left out.</p>\n")
    return "".join(parts)


def _jpeg(image: np.ndarray) -> bytes:
    height, width = image.shape[:2]
    factor = math.sqrt(MAX_PIXELS / (height * width))
    if factor < 1:
        size = max(1, int(width * factor)), max(1, int(height * factor))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    is_done, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not is_done:
        raise ValueError(f"a picture of shape {image.shape} cannot be written as JPEG")
    return content.tobytes()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    rows = "".join(
        f"<tr><th>{_text(path)}</th><td>{_text(_short(value))}</td><td>{_text(_short(default))}</td></tr>\n"
        for path, value, default in _changes(settings, defaults, "")
    )
    changed = f"<table><tr><th>setting</th><th>value</th><th>default</th></tr>\n{rows}</table>\n" if rows else ""
    return (
        f"<details open><summary>Settings that differ from the defaults</summary>\n"
        f"{changed or '<p>None.</p>'}</details>\n"
        f"<details><summary>All settings</summary>\n{_nested(settings, defaults)}</details>\n"
    )


def _changes(settings: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    """(dotted path, value, default) of every setting that differs."""
    for name, value in settings.items():
        default = defaults.get(name)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            yield from _changes(value, default, f"{path}{name}.")
        elif value != default:
            yield f"{path}{name}", value, default


def _nested(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """A table of tables; what differs from the defaults is marked."""
    rows = []
    for name, value in settings.items():
        default = defaults.get(name)
        mark = "" if value == default else ' class="changed"'
        inner = _sections(value)
        if inner is None:
            rows.append(f"<tr{mark}><th>{_text(name)}</th><td>{_text(value)}</td></tr>\n")
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            mark, tables = "", _nested(value, default)  # its rows have their own marks
        else:
            tables = "".join(
                (f"<h4>{_text(label)}</h4>" if label else "") + _nested(each, each) for label, each in inner
            )
        rows.append(
            f'<tr{mark}><td colspan="2"><details><summary>{_text(name)}</summary>{tables}</details></td></tr>\n'
        )
    return f"<table>{''.join(rows)}</table>\n"


def _sections(value: Any) -> list[tuple[str | None, Mapping[str, Any]]] | None:
    """A mapping as itself, a list of mappings as these with their names; None for other values."""
    if isinstance(value, Mapping) and value:
        return [(None, value)]
    if isinstance(value, (list, tuple)) and value and all(isinstance(each, Mapping) for each in value):
        return [(str(each.get("name", index)), each) for index, each in enumerate(value)]
    return None


def _short(value: Any) -> str:
    """One line for a value; lists of sections by the sections' names."""
    inner = _sections(value)
    if inner is None:
        return "–" if value is None else str(value)
    return ", ".join(label or _names(each) for label, each in inner)


def _names(mapping: Iterable[str]) -> str:
    return "{" + ", ".join(map(str, mapping)) + "}"


def _text(value: Any) -> str:
    """Escaped, without control characters, and cut where it is endless."""
    text = str(value)
    text = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return html.escape("".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text))


_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --paper: #ffffff; --line: #d9dde2; --bar: #cfe3f5; --mark: #fff0c8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7eb; --paper: #16191d; --line: #3a4048; --bar: #1f4a6e; --mark: #54420e; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1240px;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; border-bottom: 1px solid var(--line); margin-top: 2em; }
h3 { font-size: 1.05em; margin: 1.5em 0 .3em; } h4 { margin: .6em 0 .2em; }
table { border-collapse: collapse; margin: .4em 0 .8em; }
th, td { text-align: left; vertical-align: top; padding: .15em .8em .15em .3em; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 600; min-width: 7em; }
th.score, td.score { text-align: right; min-width: 3.6em; font-variant-numeric: tabular-nums; overflow-wrap: normal;
  background: linear-gradient(90deg, var(--bar) var(--share, 0%), transparent 0); }
tr.changed > th, tr.changed > td { background: var(--mark); }
details { overflow-x: auto; } summary { cursor: pointer; font-weight: 600; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figure { margin: 0 0 1.4em; } figcaption { font-size: .9em; }
"""

# The policy lets the page load nothing from anywhere and run nothing, whatever a text in it says.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{facts}{body}</body>
</html>
"""
