"""A tracker function of CVAT: a request with an image, shapes and states becomes shapes and states.

The contract is that of CVAT's serverless trackers. A request is a JSON object:

    {"image": base64 of an encoded image,
     "shapes": [{"type": "mask" or "polygon", "points": [...]}, ...],   (a bare list of points is a mask's)
     "states": [null or a state of an earlier answer, ...]}

Entry i begins an object where there is no state i, and follows one where there is; a shape beside a state is the one of
the frame before and is not looked at. The answer is {"shapes": [...], "states": [...]}. A shape has the form in which
its object was given, and is null where nothing of the object is visible.

A state is JSON: the object's masks in the last frames and the keys of these frames. The pictures themselves stay here
(`FrameStore`), so that requests stay small and objects of one frame share them. A state is data, not code: all of it
is checked, and nothing in it is executed.
"""

import base64
import binascii
import collections
import dataclasses
import io
import json
import re
import threading
import time
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

from tarvis_jax.masks import rle
from tarvis_jax.serve import shapes
from tarvis_jax.serve.tracker import Frame, ObjectState, Tracker

STATE_VERSION = 1
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_BARE = "list"  # a mask that is given, and handed out, as a bare list of points


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds on the work of one request and on what is kept.

    Attributes:
      max_bytes: of a request's body.
      max_pixels: of an image.
      max_objects: of a request.
      cache_bytes: of the pictures that are kept, as the network takes them.
      max_age: seconds since a picture was last needed, after which it is forgotten.
    """

    max_bytes: int = 32 * 2**20
    max_pixels: int = 40_000_000
    max_objects: int = 100
    cache_bytes: int = 512 * 2**20
    max_age: float = 8 * 3600.0


class Gone(ValueError):
    """A state needs a picture that is not kept any more."""


class FrameStore:
    """The last frames by their keys; the one that was not needed for longest is forgotten first."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._frames: collections.OrderedDict[str, tuple[Frame, float]] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: Frame) -> None:
        """Keeps a frame, and forgets others that there is no room or no time for."""
        with self._lock:
            self._drop(frame.key)
            self._frames[frame.key] = frame, time.monotonic()
            self._bytes += frame.image.nbytes
            oldest = time.monotonic() - self._limits.max_age
            for key, (_, used) in list(self._frames.items()):
                if key != frame.key and (self._bytes > self._limits.cache_bytes or used < oldest):
                    self._drop(key)

    def get(self, key: str, where: str) -> Frame:
        """The frame of a key; raises Gone where it is not kept."""
        with self._lock:
            if key in self._frames:
                frame, _ = self._frames[key]
                self._frames[key] = frame, time.monotonic()
                self._frames.move_to_end(key)
                return frame
        raise Gone(
            f"{where}: its last frames are not kept here any more (the service was started again, or they made room "
            "for others); begin tracking from the shape again"
        )

    def _drop(self, key: str) -> None:
        if key in self._frames:
            frame, _ = self._frames.pop(key)
            self._bytes -= frame.image.nbytes


class Service:
    """Answers requests; its calls may come from several threads."""

    def __init__(self, tracker: Tracker, limits: Limits | None = None):
        self.tracker = tracker
        self.limits = limits or Limits()
        self._store = FrameStore(self.limits)

    def describe(self) -> dict[str, Any]:
        """What this service is, for people and for checks of its health."""
        return {
            "kind": "tracker",
            "supported_shape_types": list(shapes.TYPES),
            "dataset": self.tracker.dataset,
            "clip_length": self.tracker.config.clip_length,
            "max_bytes": self.limits.max_bytes,
            "max_pixels": self.limits.max_pixels,
            "max_objects": self.limits.max_objects,
        }

    def answer(self, body: bytes) -> dict[str, Any]:
        """Answers the body of a request; see the module.

        Raises:
          Gone: a state's frames are not kept any more.
          ValueError: a request that is wrong; says where.
        """
        request = _parse(body)
        given, states = (_entries(request, key, self.limits.max_objects) for key in ("shapes", "states"))
        frame = self.tracker.prepare(_decode_image(request.get("image"), self.limits.max_pixels))
        count = max(len(given), len(states))
        if not count:
            raise ValueError("request: expected at least one shape or state, found none")
        given += [None] * (count - len(given))
        states += [None] * (count - len(states))
        answered: list[tuple[Any, dict]] = [None] * count
        begun, followed = {}, {}
        for index, state in enumerate(states):
            if state is None:
                answered[index] = begun[index] = self._begin(frame, given[index], f"shapes[{index}]")
            else:
                followed[index] = self._read_state(state, f"states[{index}]")
        self._store.put(frame)
        results = self.tracker.track(frame, [state for _, state in followed.values()])
        for (index, (form, _)), (mask, state) in zip(followed.items(), results, strict=True):
            answered[index] = _write_shape(form, mask), _write_state(form, state)
        return {"shapes": [shape for shape, _ in answered], "states": [state for _, state in answered]}

    def _begin(self, frame: Frame, shape: Any, where: str) -> tuple[Any, dict]:
        if isinstance(shape, list):
            form, kind, points = _BARE, shapes.MASK, shape
        elif isinstance(shape, dict) and isinstance(shape.get("type"), str):
            form = kind = shape["type"]
            points = shape.get("points")
        else:
            raise ValueError(f"{where}: expected points, or type and points, as there is no state; found {shape!r:.60}")
        mask = shapes.to_mask(kind, points, frame.geometry.original, where)
        if not mask.any():
            raise ValueError(f"{where}: expected a shape with at least one pixel, found an empty one")
        return shape, _write_state(form, self.tracker.start(frame, mask))

    def _read_state(self, state: Any, where: str) -> tuple[str, ObjectState]:
        """(form of the shapes, state) of what `_write_state` made, or of what somebody made to look like it."""
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise ValueError(f"{where}: expected a state that this service has handed out, found {state!r:.60}")
        form, keys, counts = (state.get(key) for key in ("form", "frames", "masks"))
        most = self.tracker.config.clip_length - 1
        if form not in (_BARE, *shapes.TYPES):
            raise ValueError(f"{where}, form: expected one of {', '.join((_BARE, *shapes.TYPES))}, found {form!r:.40}")
        if not isinstance(keys, list) or not 1 <= len(keys) <= most:
            raise ValueError(f"{where}, frames: expected 1 to {most} keys, found {keys!r:.60}")
        if not all(isinstance(key, str) and re.fullmatch(r"[0-9a-f]{64}", key) for key in keys):
            raise ValueError(f"{where}, frames: expected keys of 64 hexadecimal digits, found others")
        if not isinstance(counts, list) or len(counts) not in (1, most) or len(counts) > len(keys):
            raise ValueError(f"{where}, masks: expected one mask, or one for each of {most} frames, found others")
        frames = tuple(self._store.get(key, where) for key in keys)
        if len({frame.geometry for frame in frames}) != 1:
            raise ValueError(f"{where}, frames: expected frames of one size, found several")
        height, width = frames[0].geometry.padded
        masks = []
        for index, text in enumerate(counts):
            if not isinstance(text, str):
                raise ValueError(f"{where}, masks[{index}]: expected counts of an RLE, found {text!r:.40}")
            masks.append(rle.to_rle(text, height, width, f"{where}, masks[{index}]"))
        return form, ObjectState(frames, tuple(masks))


def _write_state(form: str, state: ObjectState) -> dict[str, Any]:
    return {
        "version": STATE_VERSION,
        "form": form,
        "frames": [frame.key for frame in state.frames],
        "masks": [mask["counts"] for mask in state.masks],
    }


def _write_shape(form: str, mask: np.ndarray | None) -> Any:
    if mask is None:
        return None
    if form == _BARE:
        return shapes.from_mask(shapes.MASK, mask)
    return {"type": form, "points": shapes.from_mask(form, mask)}


def _parse(body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except RecursionError:
        raise ValueError("request: expected a JSON object, found one that is nested too deeply") from None
    except ValueError as error:  # of the JSON, of its encoding, or of a number with thousands of digits
        raise ValueError(f"request: expected a JSON object, found something else ({str(error):.80})") from None
    if not isinstance(request, dict):
        raise ValueError(f"request: expected a JSON object, found {type(request).__name__}")
    return request


def _entries(request: dict[str, Any], key: str, most: int) -> list:
    entries = [] if request.get(key) is None else request[key]
    if not isinstance(entries, list) or len(entries) > most:
        found = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
        raise ValueError(f"{key}: expected a list of at most {most} entries, found {found}")
    return list(entries)


def _decode_image(text: Any, max_pixels: int) -> np.ndarray:
    """base64 of an image file -> uint8 RGB [H, W, 3], turned as its EXIF says."""
    if not isinstance(text, str):
        raise ValueError(f"image: expected an image file in base64, found {type(text).__name__}")
    try:
        encoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("image: expected base64, found other characters or a wrong length") from None
    try:
        image = PIL.Image.open(io.BytesIO(encoded), formats=IMAGE_FORMATS)  # reads the header alone
    except PIL.Image.DecompressionBombError:
        raise ValueError(f"image: expected at most {max_pixels} pixels, found many more") from None
    except Exception:
        raise ValueError(f"image: expected a file of {', '.join(IMAGE_FORMATS)}, found something else") from None
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f"image: expected at most {max_pixels} pixels, found {width} x {height} (width x height)")
    try:
        return np.asarray(PIL.ImageOps.exif_transpose(image).convert("RGB"))
    except Exception as error:  # decoders of image files raise many kinds
        raise ValueError(f"image: the file is damaged ({str(error):.80})") from None
