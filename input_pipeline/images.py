"""Reading frames and id maps from files, with errors that name the file."""

import dataclasses
import io
import pathlib
import struct
import zlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

from input_pipeline.frame_limits import check_size

VOID = 255  # id of pixels that count neither as object nor as background (palette PNG), or as no class (class maps)
MAX_SEGMENT_ID = 2**24 - 1  # of a panoptic PNG
# What Pillow raises for files that are absent or no image.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def read_frame(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A JPEG or PNG as uint8 RGB [H, W, 3]; a ValueError if it cannot be decoded or has another size."""
    return cv2.cvtColor(decode(path, cv2.IMREAD_COLOR, (height, width)), cv2.COLOR_BGR2RGB)


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) from the header."""
    try:
        size = _header_size(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error
    check_size(*size, str(path))
    return size


def read_palette(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """The palette indices of a PNG as uint8 [H, W]: the objects' ids, 0 background, 255 void.

    Raises:
      ValueError: no such image, or of another size than height x width.
    """
    return _read_modes(path, height, width, ("P", "L"), "a palette (mode P) or 8-bit gray PNG")


def read_id_map(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """The values of a one-channel image as int32 [H, W]: palette indices, or gray of 1, 8 or 16 bits.

    Raises:
      ValueError: no such image, or of another size than height x width.
    """
    modes = ("1", "L", "P", "I", "I;16", "I;16B")
    expected = "a palette image or gray of 8 or 16 bits, whose values are ids"
    values = _read_modes(path, height, width, modes, expected).astype(np.int32)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError(f"{path}: expected ids in 0..65535, found {values.min()}..{values.max()}")
    return values


def _read_modes(path: pathlib.Path, height: int, width: int, modes: Sequence[str], expected: str) -> np.ndarray:
    """The values of an image of one of Pillow's `modes`, [H, W]."""
    try:
        with Image.open(path) as image:
            found, mode = (image.height, image.width), image.mode
            # The size comes before the pixels are read, so that no more memory is used than the frame is worth.
            values = np.array(image) if found == (height, width) and mode in modes else None
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error
    if found != (height, width):
        raise ValueError(f"{path}: mask has size {list(found)}, its frame has [height, width] = {[height, width]}")
    if values is None:
        raise ValueError(f"{path}: expected {expected}, found mode {mode}")
    return values


def read_step_map(path: pathlib.Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A KITTI-STEP panoptic PNG (R = class, 255 void; instance = 256 G + B).

    Returns:
      classes uint8 [H, W] and instances int32 [H, W] (0 = none).
    """
    image = _read_colors(path, height, width)
    return image[..., 2].copy(), image[..., 1].astype(np.int32) * 256 + image[..., 0]


def read_gray(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A PNG of one channel, 8 or 16 bits, as uint8 or uint16 [H, W]."""
    values = decode(path, cv2.IMREAD_UNCHANGED, (height, width))
    if values.ndim != 2 or values.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: expected one channel of 8 or 16 bits, found {_described(values)}")
    return values


def read_vipseg_map(
    path: pathlib.Path, height: int, width: int, *, instances: frozenset[int], stuff_classes: frozenset[int]
) -> tuple[np.ndarray, np.ndarray]:
    """A VIPSeg panoptic PNG (0 void; stuff: class + 1; things: (class + 1) * 100 + number).

    A value that is neither one of `instances` nor class + 1 of `stuff_classes` is void, as in the reference: it ignores
    a thing's class without number, too.

    Returns:
      classes uint8 [H, W] (0..123, 255 void) and instances int32 [H, W]: the values of things, 0 = none.
    """
    values = read_gray(path, height, width)
    if values.max() > 12_499:
        raise ValueError(f"{path}: value {int(values.max())} is of no class 0..123")
    classes = np.full(12_500, VOID, np.uint8)
    for label in stuff_classes:
        classes[label + 1] = label
    numbers = np.zeros(12_500, np.int32)
    for instance in instances:
        classes[instance], numbers[instance] = instance // 100 - 1, instance
    return classes[values], numbers[values]


def read_color_ids(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A PNG of ids as int32 [H, W] in 0..MAX_SEGMENT_ID: R + 256 G + 65536 B."""
    image = _read_colors(path, height, width)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA).view("<i4")[..., 0] & 0xFFFFFF


def _read_colors(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A PNG whose colors are numbers, as uint8 BGR [H, W, 3]; gray and 16 bits would be turned into other numbers."""
    image = decode(path, cv2.IMREAD_UNCHANGED, (height, width))
    if image.ndim != 3 or image.shape[2] not in (3, 4) or image.dtype != np.uint8:
        raise ValueError(f"{path}: expected colors of 8 bits, found {_described(image)}")
    return np.ascontiguousarray(image[..., :3])


def _described(image: np.ndarray) -> str:
    channels = 1 if image.ndim == 2 else image.shape[2]
    return f"{channels} channel{'s' * (channels > 1)} of {8 * image.dtype.itemsize} bits"


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentMap:
    """Reads the panoptic PNG of an image whose segments are listed elsewhere: id = R + 256 G + 65536 B, 0 is void.

    Attributes:
      ids: int32 [S], of the segments, each once.
      classes: uint8 [S] (0..K-1); pixels of segments that are not listed are void.
      things: bool [256], by class; segments of things are instances.
    """

    ids: np.ndarray
    classes: np.ndarray
    things: np.ndarray

    def __call__(self, path: pathlib.Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Classes uint8 [H, W] (255 void) and instances int32 [H, W] (the segment's id, 0 = none)."""
        values = read_color_ids(path, height, width)
        # Zeros that are never looked at cost no memory; 0 is VOID + 1 in eight bits.
        table = np.zeros(MAX_SEGMENT_ID + 1, np.uint8)
        table[self.ids] = self.classes + np.uint8(1)
        classes = table[values] - np.uint8(1)
        return classes, np.where(self.things[classes], values, 0)


def read_cityscapes_map(
    path: pathlib.Path, height: int, width: int, *, kept: np.ndarray, things: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A Cityscapes *_gtFine_instanceIds.png (16 bits: label, or 1000 label + number for single things).

    A label below 1000 of a thing is a group, which is one instance here, as in Cityscapes' panoptic maps.

    Args:
      kept: bool [256], by label; the pixels of all others are void.
      things: bool [256], by label; the others are stuff.
    Returns:
      As `SegmentMap`; instances are the values of the file.
    """
    values = read_gray(path, height, width).astype(np.int32)
    labels = np.where(values < 1000, values, values // 1000)
    if labels.max() > VOID:
        raise ValueError(f"{path}: value {int(values.max())} is of no label 0..{VOID - 1}")
    classes = np.where(kept[labels], labels, VOID).astype(np.uint8)
    return classes, np.where(things[classes] & (classes != VOID), values, 0)


def read_ade20k_map(
    path: pathlib.Path,
    height: int,
    width: int,
    *,
    class_map: pathlib.Path,
    thing_classes: Sequence[int],
    num_classes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """An instance PNG of the ADE20K challenge (R: one of the things, 1, 2, ...; G: number of the instance, 0 none).

    Instances lie on top of stuff; things that have no instance are void.

    Args:
      class_map: the semantic PNG of the image (0 other, class + 1).
      thing_classes: classes (0..K-1) of R = 1, 2, ...
      num_classes: K.
    Returns:
      As `SegmentMap`; instances are 256 R + G.
    """
    instances = _read_colors(path, height, width)
    classes = read_gray(class_map, height, width)
    if classes.max() > num_classes:
        raise ValueError(f"{class_map}: value {int(classes.max())} is of no class 1..{num_classes} (or 0)")
    classes = classes.astype(np.uint8)
    things, numbers = instances[..., 2], instances[..., 1]
    if things.max() > len(thing_classes):
        raise ValueError(f"{path}: red {int(things.max())} is of no thing 1..{len(thing_classes)}")
    classes = classes - np.uint8(1)  # 0 becomes VOID
    classes[np.isin(classes, thing_classes)] = VOID
    is_instance = (numbers > 0) & (things > 0)
    of_things = np.asarray((0, *thing_classes), np.uint8)
    values = np.where(is_instance, things.astype(np.int32) * 256 + numbers, 0)
    return np.where(is_instance, of_things[things], classes), values


def decode(path: pathlib.Path, flags: int, size: tuple[int, int]) -> np.ndarray:
    """The pixels of an image file, in OpenCV's channel order.

    Raises:
      ValueError: it is absent, cut off, no image, or of another size than `size` (height, width).
    """
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ValueError(f"{path}: cannot be read ({error})") from error
    try:
        found = _header_size(io.BytesIO(raw))
    except _UNREADABLE as error:
        raise ValueError(f"{path}: cannot be decoded as an image ({len(raw)} bytes)") from error
    if found != size:  # before memory is asked for its pixels
        raise ValueError(f"{path}: image has size {list(found)}, the annotations say [height, width] = {list(size)}")
    # A JPEG that was cut off decodes to gray pixels with no more than a warning; its end marker tells. (Only the second
    # half is searched: an embedded thumbnail has such a marker too.)
    if raw[:2] == b"\xff\xd8" and raw.find(b"\xff\xd9", len(raw) // 2) < 0:
        raise ValueError(f"{path}: the JPEG is cut off ({len(raw)} bytes, without an end marker)")
    try:
        image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise ValueError(f"{path}: cannot be decoded as an image ({len(raw)} bytes)")
    return image


def _header_size(file: pathlib.Path | io.BytesIO) -> tuple[int, int]:
    """(height, width) from the header; raises what is in _UNREADABLE."""
    with Image.open(file) as image:
        return image.height, image.width
