"""Masks drawn over a frame: one stable color per id, contours, labels, and what the user pointed at."""

import functools
import zlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import TargetId, VideoResult

# Okabe and Ito's palette (2008): told apart by people with any of the common kinds of color blindness.
_PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
_SHADES = ((0.0, 0), (0.3, 255), (0.4, 0))  # (share, gray) mixed into the palette: as it is, lighter, darker
NUM_COLORS = len(_PALETTE) * len(_SHADES)
_SMALLEST_FONT = 11  # pixels
_FONT_SHARE = 0.027  # of the image's shorter side
_STUFF_LABEL_SHARE = 0.02  # of the frame: smaller regions of a stuff class are not named
_MAX_LABEL_SHARE = 0.6  # of the image's width
_GAP = "  "  # between a name and its score

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are outside


def color(identity: TargetId) -> tuple[int, int, int]:
    """RGB 0..255 of an id, the same in every frame and run; ids 1..21 have 21 colors."""
    if isinstance(identity, str):
        identity = zlib.crc32(identity.encode())  # `hash` differs from run to run
    row, column = divmod((identity - 1) % NUM_COLORS, len(_PALETTE))
    share, gray = _SHADES[row]
    return tuple(round((1 - share) * c + share * gray) for c in _PALETTE[column])


def draw_overlay(
    frame: np.ndarray,
    masks: Mapping[TargetId, np.ndarray],
    *,
    labels: Mapping[TargetId, str] | None = None,
    semantic: np.ndarray | None = None,
    semantic_labels: Mapping[int, str] | None = None,
    targets: Sequence[Target] = (),
    alpha: float = 0.5,
    scale: float = 1.0,
) -> np.ndarray:
    """A new frame with the masks over it, uint8 RGB [round(H * scale), round(W * scale), 3].

    Labels stand on a plate beside their mask, inside the image, and avoid one another where there is room. The size of
    text and lines follows that of the image.

    Args:
      frame: uint8 RGB [H, W, 3].
      masks: id -> bool [H, W]; where they overlap, the later one is on top.
      labels: id -> text beside the mask, for instance "dog 3  .91"; None writes none.
      semantic: classes, int [H, W], tinted under the masks; 255 is left as it is.
      semantic_labels: class in `semantic` -> its name, written into its largest region that no mask covers.
      targets: what was given in this frame: a point becomes a cross in a ring, a mask a white outline.
      alpha: opacity of a mask, 0..1.
      scale: lines and text are drawn at this multiple of the frame's size: a whole number, for small frames, or a
        fraction below 1, for large ones.
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
    if scale < 1:
        frame, masks, semantic, targets = _reduced(frame, masks, semantic, targets, scale)
        scale = 1
    scale = int(scale)

    image = frame.astype(np.float32)
    if semantic is not None:
        classes = np.unique(semantic)
        table = np.array([stuff_color(int(c)) for c in classes], np.float32)
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
    regions = _stuff_regions(semantic, masks, semantic_labels or {}) if semantic is not None else []
    plates = [(text, masks[i], color(i)) for i, text in (labels or {}).items() if i in masks and masks[i].any()]
    return _write_labels(image, plates, regions, scale) if plates or regions else image


def draw_result(
    frame: np.ndarray,
    result: VideoResult,
    index: int,
    *,
    class_names: Mapping[int, str] | None = None,
    min_score: float = 0.0,
    targets: Sequence[Target] = (),
    alpha: float = 0.5,
    scale: float = 1.0,
) -> np.ndarray:
    """`draw_overlay` of frame number `index` of a result: its tracks of `min_score` or more, the best on top.

    Tracks with a class are labeled with its name, their id and their score ("car 3  .97"), others with their id.

    Args:
      class_names: class id (as in `Track.class_id`) -> name; a class without one is called "class 11".
      targets: of the whole video; those of this frame are drawn.
    """
    shown = sorted((t for t in result.tracks if t.score >= min_score and t.segmentations[index]), key=lambda t: t.score)
    names = class_names or {}
    labels = {}
    for track in shown:
        labels[track.id] = str(track.id)
        if track.class_id is not None:
            labels[track.id] = f"{_name(names, track.class_id)} {track.id}{_GAP}{_score_text(track.score)}"
    return draw_overlay(
        frame,
        {track.id: rle.decode(track.segmentations[index]) for track in shown},
        labels=labels,
        semantic=None if result.semantic is None else result.semantic_map(index),
        semantic_labels={class_id - 1: name for class_id, name in names.items()},
        targets=[target for target in targets if target.frame == index],
        alpha=alpha,
        scale=scale,
    )


def _name(class_names: Mapping[int, str], class_id: int) -> str:
    return class_names.get(class_id, f"class {class_id}")


def _score_text(score: float) -> str:
    """Two decimals without a leading zero: .97"""
    return f"{score:.2f}".removeprefix("0")


def stuff_color(class_id: int) -> tuple[int, int, int]:
    """As `color`, but grayer: stuff stays behind things."""
    return tuple(round(0.6 * c + 0.4 * 128) for c in color(class_id + 1))


def _reduced(frame, masks, semantic, targets, scale: float):
    """Frame, masks, semantic map and targets at a fraction of their size."""
    size = tuple(max(1, round(side * scale)) for side in reversed(frame.shape[:2]))

    def nearest(each: np.ndarray) -> np.ndarray:
        kind = np.uint8 if each.dtype == bool else np.int32
        return cv2.resize(each.astype(kind), size, interpolation=cv2.INTER_NEAREST).astype(each.dtype)

    targets = [
        Target(t.frame, t.id, mask=nearest(t.mask))
        if t.mask is not None
        else Target(t.frame, t.id, point_yx=tuple((p + 0.5) * scale - 0.5 for p in t.point_yx))
        for t in targets
    ]
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    return frame, {i: nearest(m) for i, m in masks.items()}, None if semantic is None else nearest(semantic), targets


def _enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    return image if scale == 1 else image.repeat(scale, axis=0).repeat(scale, axis=1)


def _outline(image: np.ndarray, mask: np.ndarray, rgb: tuple[int, int, int], thickness: int, scale: int) -> None:
    contours, _ = cv2.findContours(_enlarge(mask.astype(np.uint8), scale), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, rgb, thickness)


def _cross(image: np.ndarray, point_yx: tuple[float, float], rgb: tuple[int, int, int], thickness: int, scale: int):
    y, x = (round((p + 0.5) * scale - 0.5) for p in point_yx)
    radius = 4 * thickness + 1
    cv2.circle(image, (x, y), radius, (255, 255, 255), -1, cv2.LINE_AA)
    cv2.circle(image, (x, y), radius, (0, 0, 0), thickness, cv2.LINE_AA)
    cv2.drawMarker(image, (x, y), rgb, cv2.MARKER_CROSS, radius, thickness)


def _stuff_regions(
    semantic: np.ndarray, masks: Mapping[TargetId, np.ndarray], names: Mapping[int, str]
) -> list[tuple[str, tuple[int, int]]]:
    """(name, (x, y) of the most inner pixel) of the classes that cover enough of the frame beside the masks."""
    free = np.ones(semantic.shape, bool)
    for mask in masks.values():
        free &= ~mask
    regions = []
    for class_id, pixels in enumerate(np.bincount(semantic[free], minlength=1)):
        if class_id in names and pixels > _STUFF_LABEL_SHARE * semantic.size:
            region = free & (semantic == class_id)
            # The padding makes the frame's edge an edge of the region.
            depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
            y, x = np.unravel_index(depth.argmax(), depth.shape)
            regions.append((names[class_id], (int(x), int(y))))
    return regions


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _write_labels(
    image: np.ndarray,
    plates: Sequence[tuple[str, np.ndarray, tuple[int, int, int]]],
    regions: Sequence[tuple[str, tuple[int, int]]],
    scale: int,
) -> np.ndarray:
    """The image with each text on a plate at its mask, and each region's name at its point with an outline."""
    height, width = image.shape[:2]
    font = _font(max(_SMALLEST_FONT, round(_FONT_SHARE * min(height, width))))
    padding = max(1, round(font.size / 6))
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    taken: list[Box] = []
    ascent, descent = font.getmetrics()

    def place(text: str, candidates) -> tuple[str, Box]:
        text = _fitted(text, font, round(_MAX_LABEL_SHARE * width) - 2 * padding)
        size = (round(font.getlength(text)) + 2 * padding, ascent + descent + padding)
        box = _best_box(candidates, size, (width, height), taken)
        taken.append(box)
        return text, box

    for text, mask, rgb in reversed(plates):  # what lies on top is placed first
        text, box = place(text, _around(mask, scale))
        ink, edge = ((0, 0, 0), (255, 255, 255)) if _is_light(rgb) else ((255, 255, 255), (0, 0, 0))
        pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=rgb, outline=edge if font.size > 14 else None)
        pen.text((box[0] + padding, box[1] + padding / 2), text, fill=ink, font=font)
    for text, (x, y) in regions:
        text, box = place(
            text, lambda w, h, x=x, y=y: [(scale * x - w // 2, scale * y - h // 2 + d) for d in (0, h, -h)]
        )
        pen.text(
            (box[0] + padding, box[1] + padding / 2),
            text,
            fill=(255, 255, 255),
            font=font,
            stroke_width=max(1, round(font.size / 10)),
            stroke_fill=(0, 0, 0),
        )
    return np.array(canvas)


def _is_light(rgb: tuple[int, int, int]) -> bool:
    """Whether black has more contrast with a color than white, as WCAG 2 defines contrast: at least 4.5 either way."""
    value = np.array(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
    return (luminance + 0.05) ** 2 > 0.05 * 1.05


def _around(mask: np.ndarray, scale: int):
    """Where a label of a mask may stand: (width, height) of it -> upper left corners (x, y), the best first."""
    ys, xs = np.nonzero(mask.any(1))[0] * scale, np.nonzero(mask.any(0))[0] * scale
    top, bottom, left, right = ys[0], ys[-1] + scale, xs[0], xs[-1] + scale
    middle = (left + right) // 2

    def corners(width: int, height: int) -> list[tuple[int, int]]:
        across = (left, middle - width // 2, right - width)
        down = (top - height, bottom, top, bottom - height, (top + bottom - height) // 2)
        beside = [(x, y) for x in (right, left - width) for y in (top, (top + bottom - height) // 2)]
        return [(x, down[0]) for x in across] + [(x, y) for y in down[1:] for x in across] + beside

    return corners


def _best_box(candidates, size: tuple[int, int], image_size: tuple[int, int], taken: Sequence[Box]) -> Box:
    """The first candidate, moved into the image, that covers no box in `taken`; else the one that covers least."""
    best, least = None, None
    for x, y in candidates(*size):
        left, top = (
            max(0, min(int(at), outer - inner)) for at, inner, outer in zip((x, y), size, image_size, strict=True)
        )
        box = (left, top, left + size[0], top + size[1])
        covered = sum(_overlap(box, other) for other in taken)
        if least is None or covered < least:
            best, least = box, covered
        if covered == 0:
            break
    return best


def _overlap(a: Box, b: Box) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _fitted(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its name shortened until it fits; id and score stay."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    head, gap, score = text.rpartition(_GAP)
    name, space, number = head.rpartition(" ")
    name, end = (name, space + number + gap + score) if gap else (text, "")
    for length in range(min(len(name), 200), 0, -1):
        shortened = (name if length == len(name) else name[:length] + "...") + end
        if font.getlength(shortened) <= width:
            return shortened
    return end.strip()
