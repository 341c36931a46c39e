"""Small videos drawn from a random seed: textured shapes that move, overlap, enter and leave over textured ground.

What is to be learnt: four kinds of things (`THINGS`), told apart by shape, texture and the hue of one of their two
colors, and three kinds of stuff (`STUFFS`), bands with moving borders. Everything else is random: the number of
objects (1 to 5), size, motion (translation, slight rotation and scaling), depth order, all other colors, the camera's
drift, noise.
"""

import colorsys
import dataclasses

import numpy as np

THINGS = ("circle", "square", "triangle", "cross")  # instance classes 1..4
STUFFS = ("ground", "wall", "sky")  # semantic classes 0..2; things follow as 3..6 in panoptic sets
MAX_OBJECTS = 5
MIN_VISIBLE_SHARE = 0.005  # of the frame: an object that never shows more than this is not drawn

_LEVELS = 64  # steps between a region's two colors
_THING_HUES = (0.0, 0.25, 0.5, 0.8)
_STUFF_HUES = (0.1, 0.05, 0.6)
_CROSSING_SHARE = 0.5  # of the objects but the first: those that enter or leave the frame
_MAX_TRIES = 100


@dataclasses.dataclass(frozen=True)
class SyntheticVideo:
    """A drawn video and its exact ground truth.

    Attributes:
      frames: uint8 RGB [T, H, W, 3].
      id_map: uint8 [T, H, W]: the visible object at each pixel, ids 1..N in order of first appearance; 0 = none.
      stuff_map: uint8 [T, H, W]: index in `STUFFS`, also behind objects.
      classes: for ids 1..N the class 1..4 (`THINGS[c - 1]`).
    """

    frames: np.ndarray
    id_map: np.ndarray
    stuff_map: np.ndarray
    classes: tuple[int, ...]

    @property
    def areas(self) -> np.ndarray:
        """int [T, 1 + N]: visible pixels of each id, column 0 = no object."""
        return np.stack([np.bincount(frame.ravel(), minlength=len(self.classes) + 1) for frame in self.id_map])

    @property
    def min_visible_area(self) -> int:
        """Pixels that an object shows at its best, at least; `MIN_VISIBLE_SHARE` of the frame."""
        return min_visible_area(*self.id_map.shape[1:])


def min_visible_area(height: int, width: int) -> int:
    return max(1, round(MIN_VISIBLE_SHARE * height * width))


def draw_video(seed: int | tuple[int, ...], num_frames: int, height: int, width: int) -> SyntheticVideo:
    """A video that depends on nothing but the arguments; its first frame shows an object of `min_visible_area` or more.

    Raises:
      ValueError: no frame, or frames smaller than 16 x 16.
    """
    if num_frames < 1 or height < 16 or width < 16:
        raise ValueError(
            f"synthetic video: expected at least 1 frame of 16x16 or more, found {num_frames} of {height}x{width}"
        )
    rng = np.random.default_rng(seed)
    for _ in range(_MAX_TRIES):
        shapes = [_Shape(rng, num_frames, height, width, first=k == 0) for k in range(rng.integers(1, MAX_OBJECTS + 1))]
        order, owner = _visible(shapes, min_visible_area(height, width))
        if order and np.bincount(owner[0].ravel(), minlength=2)[1:].max() >= min_visible_area(height, width):
            return _paint(rng, order, owner)
    raise RuntimeError(f"seed {seed}: no scene with a visible object in {_MAX_TRIES} tries")


class _Shape:
    """One moving thing: its masks, and the local coordinates that its texture is drawn in."""

    def __init__(self, rng: np.random.Generator, num_frames: int, height: int, width: int, first: bool):
        self.kind = int(rng.integers(len(THINGS)))
        time = np.arange(num_frames, dtype=np.float32)
        side = min(height, width)
        start_y, start_x = rng.uniform(0.15, 0.85, 2)
        speed = rng.uniform(0.1, 1.0) * 0.03 * width
        heading = rng.uniform(0, 2 * np.pi)
        since = time  # frames since the object was at its start position
        if not first and rng.random() < _CROSSING_SHARE:  # enters or leaves: its center crosses the frame's border
            since = time - rng.uniform(0.25, 0.75) * (num_frames - 1)
            speed = rng.uniform(0.03, 0.06) * width
            edge = int(rng.integers(4))  # right, bottom, left, top
            start_y, start_x = ((start_y, 1.0), (1.0, start_x), (start_y, 0.0), (0.0, start_x))[edge]
            heading = edge * np.pi / 2 + rng.uniform(-0.6, 0.6) + np.pi * rng.integers(2)
        center_y = start_y * height + speed * np.sin(heading) * since
        center_x = start_x * width + speed * np.cos(heading) * since
        radius = rng.uniform(0.13, 0.27) * side * (1 + rng.uniform(-0.02, 0.02)) ** since
        angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.06) * since
        dy = (np.arange(height)[None, :] - center_y[:, None]) / radius[:, None]
        dx = (np.arange(width)[None, :] - center_x[:, None]) / radius[:, None]
        dy, dx = dy.astype(np.float32)[:, :, None], dx.astype(np.float32)[:, None, :]
        cos, sin = (f(angle).astype(np.float32)[:, None, None] for f in (np.cos, np.sin))
        self.u = cos * dx + sin * dy  # [T, H, W]; the shape lies within |u|, |v| <= 1
        self.v = cos * dy - sin * dx
        self.mask = _outline(self.kind, self.u, self.v)

        self.frequency = rng.uniform(1.5, 2.5)
        hue = _THING_HUES[self.kind] + rng.uniform(-0.05, 0.05)
        typical = _rgb(hue, rng.uniform(0.7, 1.0), rng.uniform(0.7, 1.0))
        other = _rgb(rng.random(), rng.uniform(0.0, 0.6), rng.choice([rng.uniform(0.1, 0.3), rng.uniform(0.8, 1.0)]))
        self.colors = _ramp(other, typical)

    def texture(self, where: np.ndarray) -> np.ndarray:
        """Levels 0..63 of the pixels `where` (bool [T, H, W]), in row-major order."""
        u, v = self.u[where], self.v[where]
        f = self.frequency
        if self.kind == 0:  # checker
            on = (np.floor(u * f) + np.floor(v * f)) % 2 == 0
        elif self.kind == 1:  # stripes
            on = np.floor(u * 1.5 * f) % 2 == 0
        elif self.kind == 2:  # dots
            on = (u * 1.5 * f % 1 - 0.5) ** 2 + (v * 1.5 * f % 1 - 0.5) ** 2 > 0.1
        else:  # radial
            on = np.floor(np.arctan2(v, u) * (8 / (2 * np.pi))) % 2 == 0
        shade = 0.12 * np.clip(v, -1, 1)
        return ((np.where(on, 0.86, 0.14) + shade) * (_LEVELS - 1)).astype(np.uint16)


def _outline(kind: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    if kind == 0:
        return u * u + v * v < 0.9
    au = np.abs(u)
    if kind == 2:
        return (v < 0.7) & (v > 1.9 * au - 1.0)
    av = np.abs(v)
    if kind == 1:
        return np.maximum(au, av) < 0.8
    return (np.minimum(au, av) < 0.33) & (np.maximum(au, av) < 1.0)


def _visible(shapes: list[_Shape], min_area: int) -> tuple[list[_Shape], np.ndarray]:
    """The shapes that are ever seen, by first appearance, and at each pixel the one seen (uint8 [T, H, W], from 1)."""
    while True:
        owner = np.zeros(shapes[0].mask.shape, np.uint8)
        for index, shape in enumerate(shapes):  # later shapes lie in front
            owner[shape.mask] = index + 1
        areas = np.stack([np.bincount(frame.ravel(), minlength=len(shapes) + 1)[1:] for frame in owner])  # [T, N]
        seen = areas.max(axis=0) >= min_area
        if seen.all():
            break
        shapes = [shape for shape, keep in zip(shapes, seen, strict=True) if keep]
        if not shapes:
            return [], owner
    order = np.argsort(np.argmax(areas > 0, axis=0), kind="stable")
    new_id = np.zeros(len(shapes) + 1, np.uint8)
    new_id[order + 1] = np.arange(1, len(shapes) + 1)
    return [shapes[i] for i in order], new_id[owner]


def _paint(rng: np.random.Generator, shapes: list[_Shape], owner: np.ndarray) -> SyntheticVideo:
    """Colors: every pixel gets one entry of a color table (region and level), so one gather paints the video."""
    stuff_map, level = _background(rng, *owner.shape)
    table = [
        _ramp(*(_rgb(hue + rng.uniform(-0.08, 0.08), rng.uniform(0.2, 0.5), value) for value in values))
        for hue, values in zip(_STUFF_HUES, rng.uniform((0.2, 0.5), (0.4, 0.8), (len(STUFFS), 2)), strict=True)
    ]
    entry = stuff_map.astype(np.uint16) * _LEVELS + level
    for index, shape in enumerate(shapes):
        where = owner == index + 1
        entry[where] = (len(STUFFS) + index) * _LEVELS + shape.texture(where)
        table.append(shape.colors)
    colors = np.concatenate(table) * rng.uniform(0.8, 1.0)
    # The table leaves room for the noise, so the wrap-around of uint8 addition is that of signed noise.
    noise = (rng.integers(0, 256, (*owner.shape, 3), np.uint8) >> 4) - np.uint8(8)
    frames = np.clip(colors, 8, 247).astype(np.uint8)[entry] + noise
    return SyntheticVideo(frames, owner, stuff_map, tuple(shape.kind + 1 for shape in shapes))


def _background(rng: np.random.Generator, num_frames: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Stuff map uint8 and texture level uint16 (0..63), [T, H, W]; the camera drifts slowly."""
    time = np.arange(num_frames)[:, None, None]
    drift_y, drift_x = rng.normal(0, 0.004, 2) * (height, width)
    y = (np.arange(height)[None, :, None] + drift_y * time).astype(np.float32)  # [T, H, 1]
    x = (np.arange(width)[None, None, :] + drift_x * time).astype(np.float32)  # [T, 1, W]

    def border(low: float, high: float) -> np.ndarray:
        wave = rng.uniform(0.0, 0.06) * np.sin(2 * np.pi * (rng.uniform(0.5, 1.5) * x / width + rng.random()))
        slope = rng.uniform(-0.15, 0.15) * (x / width - 0.5)
        return height * (rng.uniform(low, high) + wave + slope)  # [T, 1, W]

    stuff_map = np.ones((num_frames, height, width), np.uint8)
    stuff_map[y < border(0.15, 0.4)] = STUFFS.index("sky")
    stuff_map[y >= border(0.6, 0.85)] = STUFFS.index("ground")

    scale = min(height, width) / 64
    clouds = 0.5 + 0.25 * np.sin(x * 0.11 / scale + rng.uniform(0, 6)) * np.sin(y * 0.17 / scale + rng.uniform(0, 6))
    sky = clouds + 0.25 * (y / height)
    brick_y, brick_x = rng.uniform(5, 8) * scale, rng.uniform(9, 14) * scale
    row = np.floor(y / brick_y)
    mortar = (y % brick_y < 1.2 * scale) | ((x + (row % 2) * brick_x / 2) % brick_x < 1.2 * scale)
    wall = np.where(mortar, np.float32(0.95), np.float32(0.35))
    grain = rng.random((32, 32), np.float32)
    ground = grain[(np.floor(y / (2 * scale)) % 32).astype(int), (np.floor(x / (3 * scale)) % 32).astype(int)]
    value = np.where(stuff_map == 0, ground, np.where(stuff_map == 1, wall, sky))
    return stuff_map, (np.clip(value, 0, 1) * (_LEVELS - 1)).astype(np.uint16)


def _rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    return 255 * np.asarray(colorsys.hsv_to_rgb(hue % 1, saturation, value))


def _ramp(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """float [64, 3] from one color to the other."""
    return low + np.linspace(0, 1, _LEVELS)[:, None] * (high - low)
