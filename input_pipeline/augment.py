"""Augmentation of a clip: images and masks move together, and every frame alike.

A clip here is `images` uint8 [T, H, W, 3] (RGB), the masks of its targets as `IdLayers`, and `semantic` uint8 [T, H, W]
(classes, 255 = ignore) or None. Every function draws from the generator it is given and changes none of its arguments.
"""

import dataclasses

import cv2
import numpy as np

from input_pipeline.id_layers import IdLayers, mirrored, resize_classes


@dataclasses.dataclass(frozen=True)
class Clip:
    images: np.ndarray
    masks: IdLayers
    semantic: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.images.shape[1:3]


def jitter_colors(
    images: np.ndarray,
    rng: np.random.Generator,
    *,
    hue_saturation: int,
    contrast: tuple[float, float],
    brightness: int,
) -> np.ndarray:
    """Shifts hue and saturation, scales contrast about 127, shifts brightness: the same for all frames.

    Args:
      images: uint8 [T, H, W, 3].
      hue_saturation: largest shift of either, in 8-bit units (a full circle of hue is 256 of them).
      contrast: range of the factor.
      brightness: largest shift, in 8-bit units.

    Differs from the reference: brightness shifts all three channels equally; there a random color space decides which
    channel is the brightness.
    """
    hue, saturation = rng.integers(-hue_saturation, hue_saturation + 1, size=2).tolist()
    alpha = rng.uniform(*contrast)
    shift = int(rng.integers(-brightness, brightness + 1))
    hue = int(hue / 255 * 180)  # OpenCV's 8-bit hue has 180 steps; on the way back it takes them modulo 180
    lower_hue = ((np.arange(256) + hue) % 180).astype(np.uint8)
    # Contrast rounds down, which is the nearest integer of half a level less; the rest decides what is halfway.
    offset = 127 - alpha * 127 + shift - 0.5 + 2**-10
    result = np.empty(images.shape, np.uint8)
    for frame, out in zip(images, result, strict=True):
        if hue or saturation:
            hsv = cv2.cvtColor(frame, cv2.COLOR_RGB2HSV)
            if hue < 0:
                cv2.insertChannel(cv2.LUT(cv2.extractChannel(hsv, 0), lower_hue), hsv, 0)
            # Adding saturates at 0 and 255, and takes a tenth of the time of a table of three channels.
            cv2.add(hsv, (max(hue, 0), saturation, 0, 0), dst=hsv)
            frame = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=out)
        cv2.addWeighted(frame, alpha, frame, 0, offset, dst=out)
        # What contrast takes beyond 0 and 255 is cut off before brightness shifts it.
        if alpha > 1 and shift > 0:
            cv2.max(out, (shift,) * 4, dst=out)
        if alpha > 1 and shift < 0:
            cv2.min(out, (255 + shift,) * 4, dst=out)
    return result


def flip(clip: Clip) -> Clip:
    """Mirrors left and right."""
    semantic = None if clip.semantic is None else mirrored(clip.semantic)
    images = np.empty(clip.images.shape, np.uint8)
    for image, out in zip(clip.images, images, strict=True):
        cv2.flip(image, 1, dst=out)
    return Clip(images, clip.masks.flip(), semantic)


def crop(clip: Clip, top: int, left: int, height: int, width: int) -> Clip:
    """The window [top, top + height) x [left, left + width)."""
    rows, columns = slice(top, top + height), slice(left, left + width)
    semantic = None if clip.semantic is None else clip.semantic[:, rows, columns]
    return Clip(clip.images[:, rows, columns], clip.masks.crop(rows, columns), semantic)


def crop_size(size: tuple[int, int], shares: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a crop, in pixels."""
    return max(1, round(size[0] * shares[0])), max(1, round(size[1] * shares[1]))


def containing_crop(
    masks: np.ndarray, size: tuple[int, int], rng: np.random.Generator, *, min_coverage: float = 0.25, tries: int = 10
) -> tuple[tuple[int, int] | None, bool]:
    """A random window that keeps at least `min_coverage` of the objects' pixels.

    Args:
      masks: bool [N, T, H, W]; the share is that of their union over objects and frames.
      size: of the window, at most [H, W].
    Returns:
      (top, left) of the first of `tries` windows that touch the objects' box and keep enough, and true; where none
      does, the one that keeps the most, and false; None and false where there is no object.
    """
    union = np.logical_or.reduce(masks, (0, 1))
    box = _bounding_box(union)
    if box is None:
        return None, False
    needed = max(1, int(np.count_nonzero(union) * min_coverage))
    # Windows that overlap the box in at least one pixel.
    lows = [max(0, box[axis] - size[axis] + 1) for axis in (0, 1)]
    highs = [min(union.shape[axis] - size[axis], box[axis + 2] - 1) for axis in (0, 1)]
    best, most = None, -1
    for _ in range(tries):
        left = int(rng.integers(lows[1], highs[1] + 1))
        top = int(rng.integers(lows[0], highs[0] + 1))
        kept = np.count_nonzero(union[top : top + size[0], left : left + size[1]])
        if kept >= needed:
            return (top, left), True
        if kept > most:
            best, most = (top, left), kept
    return best, False


def preserving_crop(masks: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int] | None:
    """A random window that keeps every pixel of every object.

    Args:
      masks: bool [N, H, W], of the reference frame.
      size: of the window, at most [H, W].
    Returns:
      (top, left), or None where the objects' box is not smaller than the window.
    """
    union = masks.any(0)
    box = _bounding_box(union)
    if box is None or box[2] - box[0] >= size[0] or box[3] - box[1] >= size[1]:
        return None
    lows = [max(0, box[axis + 2] - size[axis]) for axis in (0, 1)]
    highs = [min(union.shape[axis] - size[axis], box[axis]) for axis in (0, 1)]
    left = int(rng.integers(lows[1], highs[1] + 1))
    top = int(rng.integers(lows[0], highs[0] + 1))
    return top, left


def fitted_size(size: tuple[int, int], bucket: tuple[int, int]) -> tuple[int, int]:
    """`size`, shrunk (keeping the aspect) as far as needed to fit in `bucket`."""
    scale = min(1.0, bucket[0] / size[0], bucket[1] / size[1])
    return max(1, min(bucket[0], round(scale * size[0]))), max(1, min(bucket[1], round(scale * size[1])))


def resize(clip: Clip, size: tuple[int, int]) -> Clip:
    """Images bilinear; masks bilinear with threshold 0.5; class maps nearest neighbor.

    Differs from the reference: it resizes the mask of each class bilinearly, which leaves gaps between classes.
    """
    if clip.size == size:
        return clip
    images = np.empty((len(clip.images), *size, 3), np.uint8)
    for image, result in zip(clip.images, images, strict=True):
        cv2.resize(image, (size[1], size[0]), dst=result, interpolation=cv2.INTER_LINEAR)
    semantic = None
    if clip.semantic is not None:
        semantic = np.stack([resize_classes(classes, size) for classes in clip.semantic])
    return Clip(images, clip.masks.resize(size), semantic)


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right), the last two exclusive; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return None
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
