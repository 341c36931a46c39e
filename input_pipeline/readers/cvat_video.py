"""CVAT for video 1.1: one XML per task, that is per video, with a track per object and its shape in some frames.

A shape holds from its frame on, until the next one of its track; `outside="1"` ends it. CVAT's own files list every
frame in which a track is visible, those between two keyframes with the shape that CVAT interpolates, so that they are
read as CVAT shows them. A file that lists keyframes alone is read as if nothing moved between them.

Shapes are masks, polygons, and boxes (taken as filled rectangles). Others have no mask and are an error. Frames are
images, named by CVAT (frame_000012.png), or any images in the order of the video. Frame numbers are those of the video;
a task that takes every n-th frame only has annotations in these.
"""

import dataclasses
import math
import pathlib
import re
import xml.parsers.expat

import numpy as np
from absl import logging

from input_pipeline import frame_files, images
from input_pipeline.config import DatasetConfig
from input_pipeline.frame_files import Unit
from input_pipeline.records import VideoRecord
from input_pipeline.tracks import ClassIds, Tracks
from tarvis_jax.masks import rle

_SHAPES = ("mask", "polygon", "box", "polyline", "points", "ellipse", "cuboid", "skeleton")
_MAX_BYTES = 2**30
_MAX_DEPTH = 50
_CHUNK = 2**16


@dataclasses.dataclass(frozen=True)
class Shape:
    """One shape of a track: its element and what stands in it."""

    frame: int
    outside: bool
    kind: str
    values: dict[str, str]
    where: str


@dataclasses.dataclass
class Content:
    """What a file says.

    Attributes:
      meta: the task's own numbers and texts by the name of their element (size, start_frame, width, ...).
      labels: names of the classes.
      tracks: (track id, label, place in the file, shapes).
    """

    meta: dict[str, str] = dataclasses.field(default_factory=dict)
    labels: list[str] = dataclasses.field(default_factory=list)
    tracks: list[tuple[str, str, str, list[Shape]]] = dataclasses.field(default_factory=list)

    def number(self, key: str, where: str) -> int | None:
        """A number of the task, None where the file does not say it."""
        text = self.meta.get(key)
        if text is None or not text.strip():
            return None
        if not re.fullmatch(r"\d{1,9}", text.strip()):
            raise ValueError(f"{where}, {key}: expected a whole number, found {text!r:.80}")
        return int(text)


def training_videos(config: DatasetConfig, root: str) -> list[VideoRecord]:
    """The annotated frames of all tasks."""
    return frame_files.read_training(config, root, _read)


def evaluation_videos(config: DatasetConfig, split: str, root: str) -> list[VideoRecord]:
    """All frames of all tasks."""
    return frame_files.read_evaluation(config, split, root, _read)


def parse(file: pathlib.Path) -> Content:
    """Reads a file as a stream. Document types, and with them entities, are refused before they are looked at.

    Raises:
      ValueError: not an XML of CVAT for video; names the line.
    """
    content = Content()
    path: list[str] = []
    text: list[str] = []
    parser = xml.parsers.expat.ParserCreate()

    def where() -> str:
        return f"{file}, line {parser.CurrentLineNumber}"

    def refuse_doctype(*_) -> None:
        raise ValueError(f"{where()}: expected XML without a document type, which CVAT does not write")

    def start(tag: str, attributes: dict[str, str]) -> None:
        path.append(tag)
        text.clear()
        if path[0] != "annotations" or len(path) > _MAX_DEPTH:
            raise ValueError(f"{where()}: expected annotations of CVAT, found element {'/'.join(path[:3])!r:.80}")
        if path[:3] == ["annotations", "meta", "project"]:
            raise ValueError(f"{where()}: the export of a project; export each of its tasks by itself")
        if path == ["annotations", "image"]:
            raise ValueError(f"{where()}: this is CVAT for images; export the task as CVAT for video 1.1")
        if path == ["annotations", "track"]:
            label = _get(attributes, "label", where())
            content.tracks.append((_get(attributes, "id", where()), label, where(), []))
        elif path[:2] == ["annotations", "track"] and len(path) == 3 and tag in _SHAPES:
            frame = _get(attributes, "frame", where())
            if not re.fullmatch(r"\d{1,9}", frame):
                raise ValueError(f"{where()}, frame: expected a whole number, found {frame!r:.80}")
            outside = attributes.get("outside", "0")
            content.tracks[-1][3].append(Shape(int(frame), outside == "1", tag, attributes, where()))

    def end(_: str) -> None:
        if path[:2] == ["annotations", "meta"] and path[2:3] in (["task"], ["job"]):
            if path[-3:] == ["labels", "label", "name"]:
                content.labels.append("".join(text).strip())
            elif len(path) == 4 or path[3:4] == ["original_size"]:
                content.meta[path[-1]] = "".join(text)
        path.pop()
        text.clear()

    parser.StartDoctypeDeclHandler = refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text.append
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{file}: expected at most {_MAX_BYTES} bytes, found {file.stat().st_size}")
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk)
        parser.Parse(b"", True)
    except xml.parsers.expat.ExpatError as error:
        raise ValueError(f"{file}: not valid XML ({error})") from error
    except OSError as error:
        raise ValueError(f"{file}: cannot be read ({error})") from error
    if len(set(content.labels)) < len(content.labels):
        raise ValueError(f"{file}, labels: a name occurs twice in {content.labels!r:.200}")
    return content


def _read(unit: Unit, config: DatasetConfig) -> list[VideoRecord]:
    file = unit.annotations
    content = parse(file)
    classes = ClassIds({name: name for name in content.labels}, config, f"{file}, labels")
    frames = frame_files.frames_in(unit.images)
    index = _frame_index(content, frames, unit)
    height, width = images.image_size(frames[0])
    height, width = content.number("height", str(file)) or height, content.number("width", str(file)) or width
    tracks = Tracks(frames, height, width, f"{file}, video {unit.name!r}")
    annotated = sorted(index.items())
    boxes, seen = 0, set()
    for track, label, where, shapes in content.tracks:
        if track in seen:
            raise ValueError(f"{where}: track id {track!r:.80} occurs twice")
        seen.add(track)
        label_id = classes.of(label, where)
        key = int(track) if re.fullmatch(r"\d{1,9}", track) else track
        by_frame = {}
        for shape in shapes:
            if shape.frame not in index:
                raise ValueError(
                    f"{shape.where}: frame {shape.frame} is none of the {len(index)} annotated frames "
                    f"{annotated[0][0]}..{annotated[-1][0]}, found in {unit.images}"
                )
            if shape.frame in by_frame:
                raise ValueError(f"{shape.where}: the track has two shapes in frame {shape.frame}")
            by_frame[shape.frame] = shape
        held, place = None, ""
        for frame, t in annotated:
            if frame in by_frame:
                shape = by_frame[frame]
                held, place = None if shape.outside else _encoded(shape, height, width), shape.where
                boxes += shape.kind == "box" and not shape.outside
            if held is not None:
                tracks.add(t, key, label_id, held, place)
    if boxes:
        logging.info("%s: %d boxes are read as filled rectangles", file, boxes)
    return [tracks.record(config, unit.name, file, [t for _, t in annotated])]


def _frame_index(content: Content, frames: list[pathlib.Path], unit: Unit) -> dict[int, int]:
    """Frame number in the file -> index into `frames`, for every frame of the task."""
    where = str(unit.annotations)
    size = content.number("size", where)
    start = content.number("start_frame", where) or 0
    text = content.meta.get("frame_filter", "").strip()
    filter_step = re.fullmatch(r"step\s*=\s*(\d{1,9})", text)
    if text and not filter_step:
        raise ValueError(f"{where}, frame_filter: expected step=<number>, found {text!r:.80}")
    step = max(int(filter_step[1]), 1) if filter_step else 1
    if all(re.fullmatch(r"frame_\d+", path.stem) for path in frames):  # as CVAT names them
        found = {frame_files.number(path.stem): t for t, path in enumerate(frames)}
    elif size == len(frames):  # the frames of the task alone
        found = {start + step * t: t for t in range(size)}
    else:  # all frames of the video
        found = {t: t for t in range(start, len(frames), step)}
    if size is not None and len(found) < size:
        raise ValueError(f"{where}: the task has {size} frames, {unit.images} has {len(found)} of them")
    if size is not None:
        numbers = {start + step * i for i in range(size)}
        absent = sorted(numbers - set(found))
        if absent:
            raise ValueError(f"{where}: frames {absent[:3]} of the task are not in {unit.images}")
        found = {number: found[number] for number in numbers}
    return found


def _encoded(shape: Shape, height: int, width: int) -> rle.Rle:
    if shape.kind == "mask":
        return rle.encode(_mask(shape, height, width))
    if shape.kind == "polygon":
        pairs = [_pair(pair, shape.where) for pair in _get(shape.values, "points", shape.where).split(";")]
        outline = [_float(value, shape.where, "points") for pair in pairs for value in pair]
    elif shape.kind == "box":
        outline = _corners(shape)
    else:
        raise ValueError(f"{shape.where}: a track of {shape.kind} has no mask; expected mask, polygon or box")
    return rle.to_rle([outline], height, width, shape.where)


def _corners(shape: Shape) -> list[float]:
    """x0, y0, x1, y1, ... of a box."""
    left, top, right, bottom = (
        _float(_get(shape.values, key, shape.where), shape.where, key) for key in ("xtl", "ytl", "xbr", "ybr")
    )
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    angle = math.radians(_float(shape.values.get("rotation", "0"), shape.where, "rotation"))
    if angle:  # clockwise about the center
        x, y = (left + right) / 2, (top + bottom) / 2
        cos, sin = math.cos(angle), math.sin(angle)
        corners = [(x + cos * (a - x) - sin * (b - y), y + sin * (a - x) + cos * (b - y)) for a, b in corners]
    return [value for corner in corners for value in corner]


def _mask(shape: Shape, height: int, width: int) -> np.ndarray:
    """bool [height, width]: `rle` has the runs of its box, row by row, the first one outside of the object."""
    box = {}
    for key in ("left", "top", "width", "height"):
        text = _get(shape.values, key, shape.where)
        if not re.fullmatch(r"\d{1,9}", text):
            raise ValueError(f"{shape.where}, {key}: expected a whole number, found {text!r:.80}")
        box[key] = int(text)
    rows, columns = slice(box["top"], box["top"] + box["height"]), slice(box["left"], box["left"] + box["width"])
    if rows.stop > height or columns.stop > width:
        raise ValueError(
            f"{shape.where}: the mask reaches to row {rows.stop} and column {columns.stop}, "
            f"the frame has {height} x {width}"
        )
    text = _get(shape.values, "rle", shape.where)
    if not re.fullmatch(r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*", text):
        raise ValueError(f"{shape.where}, rle: expected whole numbers with commas, found {text!r:.80}")
    runs = np.array(text.split(","), np.int64)
    area = box["width"] * box["height"]
    if runs.sum() > area:
        raise ValueError(f"{shape.where}, rle: the runs add up to {runs.sum()}, its box has {area} pixels")
    inside = np.zeros(area, bool)
    inside[: runs.sum()] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = inside.reshape(box["height"], box["width"])
    return mask


def _get(attributes: dict[str, str], key: str, where: str) -> str:
    if key not in attributes:
        raise ValueError(f"{where}: attribute {key!r} is missing, found {sorted(attributes)}")
    return attributes[key]


def _pair(text: str, where: str) -> list[str]:
    values = text.split(",")
    if len(values) != 2:
        raise ValueError(f"{where}, points: expected x,y;x,y;..., found {text!r:.80}")
    return values


def _float(text: str, where: str, key: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{where}, {key}: expected a number, found {text!r:.80}") from None
