"""Reading frames and id maps from files, with errors that name the file."""

import dataclasses
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image

VOID = 255  # id of pixels that count neither as object nor as background (palette PNG), or as no class (class maps)
MAX_SEGMENT_ID = 2**24 - 1  # of a panoptic PNG


def read_frame(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A JPEG or PNG as uint8 RGB [H, W, 3]; a ValueError if it cannot be decoded or has another size."""
    image = decode(path, cv2.IMREAD_COLOR)
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"{path}: image has size {list(image.shape[:2])}, the annotations say [height, width] = {[height, width]}"
        )
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def image_size(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) from the header."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from error


def read_palette(path: pathlib.Path) -> np.ndarray:
    """The palette indices of a PNG as uint8 [H, W]: the objects' ids, 0 background, 255 void."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(f"{path}: expected a palette (mode P) or 8-bit gray PNG, found mode {image.mode}")
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: cannot be decoded as PNG ({error})") from error


def read_id_map(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """The values of a one-channel image as int32 [H, W]: palette indices, or gray of 1, 8 or 16 bits.

    Raises:
      ValueError: no such image, or of another size than height x width.
    """
    try:
        with Image.open(path) as image:
            if (image.height, image.width) != (height, width):  # before its pixels are read
                raise ValueError(
                    f"{path}: mask has size {[image.height, image.width]}, its frame has [height, width] = "
                    f"{[height, width]}"
                )
            if image.mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
                raise ValueError(
                    f"{path}: expected a palette image or gray of 8 or 16 bits, whose values are ids; "
                    f"found mode {image.mode}"
                )
            values = np.asarray(image).astype(np.int32)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be decoded as an image ({error})") from error
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError(f"{path}: expected ids in 0..65535, found {values.min()}..{values.max()}")
    return values


def read_step_map(path: pathlib.Path, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A KITTI-STEP panoptic PNG (R = class, 255 void; instance = 256 G + B).

    Returns:
      classes uint8 [H, W] and instances int32 [H, W] (0 = none).
    """
    image = read_frame(path, height, width)
    return image[..., 0].copy(), image[..., 1].astype(np.int32) * 256 + image[..., 2]


def read_gray(path: pathlib.Path, height: int, width: int) -> np.ndarray:
    """A PNG of one channel, 8 or 16 bits, as uint8 or uint16 [H, W]."""
    values = decode(path, cv2.IMREAD_UNCHANGED)
    if values.shape != (height, width):
        raise ValueError(f"{path}: expected one channel of size {[height, width]}, found shape {list(values.shape)}")
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
    image = decode(path, cv2.IMREAD_COLOR)
    if image.shape[:2] != (height, width):
        raise ValueError(f"{path}: expected size {[height, width]}, found {list(image.shape[:2])}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGBA).view("<i4")[..., 0] & 0xFFFFFF


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
    values = decode(path, cv2.IMREAD_UNCHANGED)
    if values.shape != (height, width):
        raise ValueError(f"{path}: expected one channel of size {[height, width]}, found shape {list(values.shape)}")
    values = values.astype(np.int32)
    labels = np.where(values < 1000, values, values // 1000)
    if labels.max() > VOID:
        raise ValueError(f"{path}: value {int(values.max())} is of no label 0..{VOID - 1}")
    classes = np.where(kept[labels], labels, VOID).astype(np.uint8)
    return classes, np.where(things[classes] & (classes != VOID), values, 0)


def read_ade20k_map(
    path: pathlib.Path, height: int, width: int, *, class_map: pathlib.Path, thing_classes: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """An instance PNG of the ADE20K challenge (R: one of the things, 1, 2, ...; G: number of the instance, 0 none).

    Instances lie on top of stuff; things that have no instance are void.

    Args:
      class_map: the semantic PNG of the image (0 other, class + 1).
      thing_classes: classes (0..K-1) of R = 1, 2, ...
    Returns:
      As `SegmentMap`; instances are 256 R + G.
    """
    instances = decode(path, cv2.IMREAD_COLOR)
    classes = decode(class_map, cv2.IMREAD_UNCHANGED)
    for file, shape in ((path, instances.shape[:2]), (class_map, classes.shape)):
        if shape != (height, width):
            raise ValueError(f"{file}: expected size {[height, width]}, found {list(shape)}")
    things, numbers = instances[..., 2], instances[..., 1]
    if things.max() > len(thing_classes):
        raise ValueError(f"{path}: red {int(things.max())} is of no thing 1..{len(thing_classes)}")
    classes = classes - np.uint8(1)  # 0 becomes VOID
    classes[np.isin(classes, thing_classes)] = VOID
    is_instance = (numbers > 0) & (things > 0)
    of_things = np.asarray((0, *thing_classes), np.uint8)
    values = np.where(is_instance, things.astype(np.int32) * 256 + numbers, 0)
    return np.where(is_instance, of_things[things], classes), values


def decode(path: pathlib.Path, flags: int) -> np.ndarray:
    """The pixels of an image file, in OpenCV's channel order; a ValueError if it is absent, cut off or no image."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    # A JPEG that was cut off decodes to gray pixels with no more than a warning; its end marker tells. (Only the second
    # half is searched: an embedded thumbnail has such a marker too.)
    if raw[:2] == b"\xff\xd8" and raw.find(b"\xff\xd9", len(raw) // 2) < 0:
        raise ValueError(f"{path}: the JPEG is cut off ({len(raw)} bytes, without an end marker)")
    image = cv2.imdecode(np.frombuffer(raw, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION) if raw else None
    if image is None:
        raise ValueError(f"{path}: cannot be decoded as an image ({len(raw)} bytes)")
    return image
