"""CVAT for video 1.1: <video>/annotations.xml, with a track for each object and its shape in each frame.

Shapes are masks: the runs of a box, row by row, the first outside of the object. They are exact, but CVAT's own import
keeps only the first mask of a track, as a shape of that frame; with `options.polygons` shapes are outlines, which CVAT
imports as tracks. An outline has neither holes nor parts beside the largest one, and is up to a pixel off.

A track has a shape in every frame in which it is visible, and one with outside="1" in the first frame after those.
Frames count from 0, in the order of the images of the task; the file has neither their names nor scores.
"""

import pathlib
import re
import xml.parsers.expat
from collections.abc import Iterable, Iterator
from xml.sax.saxutils import escape, quoteattr

import cv2
import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.formats import files
from tarvis_jax.results.formats.video import (
    DEFAULTS,
    Options,
    ResultVideo,
    check_count,
    class_names,
    class_of,
    loaded,
    visible,
)
from tarvis_jax.results.tracks import Track, VideoResult

FILE = "annotations.xml"
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_MAX_BYTES = 2**30
_MAX_PIXELS = 2**28


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/<video>/annotations.xml; returns the folder.

    Raises:
      ValueError: a class without a name, or a name that XML cannot hold.
    """
    output = pathlib.Path(output)
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            path = folder / str(video.id) / FILE
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                for line in _lines(video, result, options, where):
                    if _NOT_XML.search(line):
                        raise ValueError(f"{where}: a name has a character that XML cannot hold, in {line!r:.80}")
                    file.write(f"{line}\n")
            del result
    return [output]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos of the <video>/annotations.xml below a folder, tracks of masks as `write` makes them.

    `input_pipeline.readers.cvat_video` reads the other shapes, too. Labels are known by their names if
    `options.class_names` has them, else by their place in the file.
    """
    found = sorted(pathlib.Path(path).glob(f"*/{FILE}"))
    if not found:
        raise ValueError(f"{path}: expected a file <video>/{FILE} for each video, found none")
    for file in found:
        result = _Reader(file, options).result()
        names = tuple(f"frame_{frame:06d}" for frame in range(result.num_frames))
        yield ResultVideo(file.parent.name, names, lambda result=result: result)


def box_runs(mask: np.ndarray) -> tuple[tuple[int, int, int, int], str]:
    """(left, top, width, height) of a mask's box and CVAT's runs in it; `mask` is bool [H, W] with at least a pixel."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    inside = mask[top:bottom, left:right].ravel()
    ends = np.append(np.flatnonzero(np.diff(inside)) + 1, inside.size)
    runs = np.diff(ends, prepend=0).tolist()
    runs = [0, *runs] if inside[0] else runs
    return (int(left), int(top), int(right - left), int(bottom - top)), ", ".join(map(str, runs))


def outline(mask: np.ndarray) -> str:
    """The outline of the largest part of a mask as CVAT's points "x,y;x,y;..."; at least three points."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    largest = max(contours, key=lambda contour: (cv2.contourArea(contour), len(contour)))[:, 0].astype(float)
    if len(largest) < 3:  # a line or a pixel: its corners
        (left, top), (right, bottom) = largest.min(0), largest.max(0) + 1
        largest = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return ";".join(f"{x:.2f},{y:.2f}" for x, y in largest)


def _lines(video: ResultVideo, result: VideoResult, options: Options, where: str) -> Iterator[str]:
    height, width = result.size
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield "<annotations>"
    yield "  <version>1.1</version>"
    yield "  <meta>"
    yield "    <task>"
    yield f"      <name>{escape(str(video.id))}</name>"
    yield f"      <size>{result.num_frames}</size>"
    yield "      <mode>interpolation</mode>"
    yield "      <start_frame>0</start_frame>"
    yield f"      <stop_frame>{max(result.num_frames - 1, 0)}</stop_frame>"
    yield "      <frame_filter></frame_filter>"
    yield "      <labels>"
    for name in class_names(options):
        yield f"        <label><name>{escape(name)}</name><attributes></attributes></label>"
    yield "      </labels>"
    yield f"      <original_size><width>{width}</width><height>{height}</height></original_size>"
    yield "    </task>"
    yield "  </meta>"
    for track in result.tracks:
        label = class_names(options)[class_of(track, options, where) - 1]
        yield f'  <track id={quoteattr(str(track.id))} label={quoteattr(label)} source="auto">'
        shown = ""
        for frame, encoded in enumerate(track.segmentations):
            if visible(encoded) is not None:
                shown = _shape(rle.decode(encoded), options.polygons)
                yield shown.format(frame=frame, outside=0)
            elif shown:
                yield shown.format(frame=frame, outside=1)
                shown = ""
        yield "  </track>"
    yield "</annotations>"


def _shape(mask: np.ndarray, as_polygon: bool) -> str:
    common = 'frame="{frame}" keyframe="1" outside="{outside}" occluded="0"'
    if as_polygon:
        return f'    <polygon {common} points="{outline(mask)}" z_order="0"></polygon>'
    (left, top, width, height), runs = box_runs(mask)
    box = f'left="{left}" top="{top}" width="{width}" height="{height}"'
    return f'    <mask {common} rle="{runs}" {box} z_order="0"></mask>'


class _Reader:
    """One file, read as a stream."""

    def __init__(self, file: pathlib.Path, options: Options):
        self._file, self._options = file, options
        self._path: list[str] = []
        self._text = ""
        self._meta: dict[str, str] = {}
        self._labels: list[str] = []
        self._tracks: list[Track] = []
        self._size = (0, 0)
        self._parser = xml.parsers.expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._add_text

    def result(self) -> VideoResult:
        try:
            if self._file.stat().st_size > _MAX_BYTES:
                raise ValueError(
                    f"{self._file}: expected at most {_MAX_BYTES} bytes, found {self._file.stat().st_size}"
                )
            with self._file.open("rb") as stream:
                while chunk := stream.read(2**16):
                    self._parser.Parse(chunk)
            self._parser.Parse(b"", True)
        except (xml.parsers.expat.ExpatError, OSError) as error:
            raise ValueError(f"{self._file}: not valid XML ({error})") from error
        return VideoResult(self._file.parent.name, "", self._size, self._number("size"), self._tracks)

    def _where(self) -> str:
        return f"{self._file}, line {self._parser.CurrentLineNumber}"

    def _refuse(self, *_) -> None:
        raise ValueError(f"{self._where()}: expected XML without a document type")

    def _add_text(self, text: str) -> None:
        self._text += text

    def _number(self, key: str) -> int:
        text = self._meta.get(key, "").strip()
        if not re.fullmatch(r"\d{1,7}", text):
            raise ValueError(f"{self._file}: expected a whole number as {key} of the task, found {text!r:.80}")
        return int(text)

    def _get(self, attributes: dict[str, str], key: str, pattern: str) -> str:
        value = attributes.get(key, "")
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{self._where()}: unexpected attribute {key} = {value!r:.80}")
        return value

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._path.append(tag)
        self._text = ""
        if self._path == ["annotations", "track"]:
            self._size = self._number("height"), self._number("width")
            if self._size[0] * self._size[1] > _MAX_PIXELS:
                raise ValueError(f"{self._where()}: frames of {self._size[0]} x {self._size[1]} pixels")
            key, label = self._get(attributes, "id", ".+"), self._get(attributes, "label", ".+")
            names = self._options.class_names or tuple(self._labels)
            if label not in self._labels or label not in names:
                raise ValueError(f"{self._where()}: label {label!r:.80} is none of {', '.join(names):.200}")
            track = int(key) if re.fullmatch(r"0|[1-9]\d{0,8}", key) else key
            check_count(len(self._tracks) + 1, self._number("size"), self._where())
            masks: list[rle.Rle | None] = [None] * self._number("size")
            self._tracks.append(Track(track, masks, class_id=names.index(label) + 1))
        elif self._path[:2] == ["annotations", "track"] and len(self._path) == 3:
            if tag != "mask":
                raise ValueError(f"{self._where()}: expected masks, found {tag!r:.80}")
            self._add_mask(self._tracks[-1], attributes)

    def _end(self, _: str) -> None:
        if self._path[:3] == ["annotations", "meta", "task"]:
            if self._path[3:] == ["labels", "label", "name"]:
                self._labels.append(self._text)
            elif len(self._path) == 4 or self._path[3:4] == ["original_size"]:
                self._meta[self._path[-1]] = self._text
        self._path.pop()
        self._text = ""

    def _add_mask(self, track: Track, attributes: dict[str, str]) -> None:
        frame = int(self._get(attributes, "frame", r"\d{1,9}"))
        if frame >= len(track.segmentations) or track.segmentations[frame] is not None:
            raise ValueError(
                f"{self._where()}: frame {frame} is none of {len(track.segmentations)} frames, or has a mask before"
            )
        if self._get(attributes, "outside", "[01]") == "1":
            return
        left, top, width, height = (
            int(self._get(attributes, key, r"\d{1,9}")) for key in ("left", "top", "width", "height")
        )
        if top + height > self._size[0] or left + width > self._size[1]:
            raise ValueError(f"{self._where()}: the mask leaves the frame of {self._size[0]} x {self._size[1]} pixels")
        runs = np.array(self._get(attributes, "rle", r"\s*\d{1,9}\s*(,\s*\d{1,9}\s*)*").split(","), np.int64)
        if runs.sum() > width * height:
            raise ValueError(f"{self._where()}: runs of {runs.sum()} pixels in a box of {width} x {height}")
        inside = np.zeros(width * height, bool)
        inside[: runs.sum()] = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
        mask = np.zeros(self._size, bool)
        mask[top : top + height, left : left + width] = inside.reshape(height, width)
        track.segmentations[frame] = visible(rle.encode(mask))
