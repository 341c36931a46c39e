"""Masks drawn over a frame: one stable color per id, contours, labels, and what the user pointed at."""

import colorsys
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import VideoResult

_GOLDEN = 0.61803398875  # steps of this much of the circle of hues never come close to one another soon
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def color(identity: int | str) -> tuple[int, int, int]:
    """RGB 0..255 of an id, the same in every frame and run; any two of ids 1..20 differ clearly."""
    if isinstance(identity, str):
        identity = zlib.crc32(identity.encode())  # `hash` differs from run to run
    hue = (0.02 + identity * _GOLDEN) % 1
    saturation = (0.9, 0.55)[identity // 8 % 2]
    value = (1.0, 0.75)[identity // 12 % 2]
    return tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, saturation, value))


def draw_overlay(
    frame: np.ndarray,
    masks: Mapping[int | str, np.ndarray],
    *,
    labels: Mapping[int | str, str] | None = None,
    semantic: np.ndarray | None = None,
    targets: Sequence[Target] = (),
    alpha: float = 0.5,
    scale: int = 1,
) -> np.ndarray:
    """A new frame with the masks over it, uint8 RGB [H * scale, W * scale, 3].

    Args:
      frame: uint8 RGB [H, W, 3].
      masks: id -> bool [H, W]; where they overlap, the later one is on top.
      labels: id -> text beside the mask, for instance "3 dog 0.91"; None writes none.
      semantic: classes, int [H, W], tinted under the masks; 255 is left as it is.
      targets: what was given in this frame: a point becomes a cross in a ring, a mask a white outline.
      alpha: opacity of a mask, 0..1.
      scale: small frames are enlarged by this whole number before lines and text are drawn.
    Raises:
      ValueError: a frame that is not uint8 [H, W, 3], or a mask of another size.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frame: expected uint8 [H, W, 3], found {frame.dtype} {frame.shape}")
    maps = {f"mask of id {i}": mask for i, mask in masks.items()} | {"semantic map": semantic}
    maps |= {f"target {target.id}": target.mask for target in targets}
    for name, each in maps.items():
        if each is not None and each.shape != frame.shape[:2]:
            raise ValueError(f"{name}: expected size {frame.shape[:2]} as the frame, found {each.shape}")

    image = frame.astype(np.float32)
    if semantic is not None:
        classes = np.unique(semantic)
        table = np.array([color(1000 + int(c)) for c in classes], np.float32)
        tint = np.where((semantic != 255)[..., None], table[np.searchsorted(classes, semantic)], image)
        image += 0.6 * alpha * (tint - image)
    for identity, mask in masks.items():
        image[mask] += alpha * (np.asarray(color(identity), np.float32) - image[mask])
    image = _enlarge(np.round(image).astype(np.uint8), scale)

    thickness = max(1, round(min(image.shape[:2]) / 400))
    for identity, mask in masks.items():
        _outline(image, mask, color(identity), thickness, scale)
    for target in targets:
        if target.mask is not None:
            _outline(image, target.mask, (255, 255, 255), 2 * thickness, scale)
        else:
            _cross(image, target.point_yx, color(target.id), thickness, scale)
    for identity, text in (labels or {}).items():
        if identity in masks and masks[identity].any():
            _write(image, text, masks[identity], color(identity), thickness, scale)
    return image


def draw_result(
    frame: np.ndarray,
    result: VideoResult,
    index: int,
    *,
    class_names: Mapping[int, str] | None = None,
    min_score: float = 0.0,
    targets: Sequence[Target] = (),
    alpha: float = 0.5,
    scale: int = 1,
) -> np.ndarray:
    """`draw_overlay` of frame number `index` of a result: its tracks of `min_score` or more, the best on top.

    Args:
      class_names: class id (as in `Track.class_id`) -> name; labels show the number where it is absent.
      targets: of the whole video; those of this frame are drawn.
    """
    shown = sorted((t for t in result.tracks if t.score >= min_score and t.segmentations[index]), key=lambda t: t.score)
    labels = {}
    for track in shown:
        labels[track.id] = str(track.id)
        if track.class_id is not None:
            name = (class_names or {}).get(track.class_id, str(track.class_id))
            labels[track.id] += f" {name} {track.score:.2f}"
    return draw_overlay(
        frame,
        {track.id: rle.decode(track.segmentations[index]) for track in shown},
        labels=labels,
        semantic=None if result.semantic is None else result.semantic_map(index),
        targets=[target for target in targets if target.frame == index],
        alpha=alpha,
        scale=scale,
    )


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)


def _outline(image: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int], thickness: int, scale: int) -> None:
    contours, _ = cv2.findContours(_enlarge(mask.astype(np.uint8), scale), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, rgb, thickness)


def _cross(image: np.ndarray, point_yx: tuple[float, float], rgb: tuple[int, int, int], thickness: int, scale: int):
    y, x = (round((p + 0.5) * scale - 0.5) for p in point_yx)
    radius = 4 * thickness + 1
    cv2.circle(image, (x, y), radius, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius, (0, 0, 0), thickness, cv2.LINE_AA)
    cv2.drawMarker(image, (x, y), rgb, cv2.MARKER_CROSS, radius, thickness)


def _write(image, text: str, mask: np.ndarray, rgb: tuple[int, int, int], thickness: int, scale: int) -> None:
    """Text on a plate of the id's color at the mask's upper left corner, moved to stay inside the image."""
    size = 0.4 * thickness
    (width, height), below = cv2.getTextSize(text, _FONT, size, thickness)
    ys, xs = np.nonzero(mask)
    x = int(np.clip(xs.min() * scale, 0, max(0, image.shape[1] - width - 2)))
    y = int(np.clip(ys.min() * scale, height + below, max(height + below, image.shape[0] - 1)))
    cv2.rectangle(image, (x, y - height - below), (x + width + 1, y), rgb, -1)
    is_light = np.dot(rgb, (0.299, 0.587, 0.114)) > 128
    ink = (0, 0, 0) if is_light else (255, 255, 255)
    cv2.putText(image, text, (x + 1, y - below // 2 - 1), _FONT, size, ink, thickness, cv2.LINE_AA)
