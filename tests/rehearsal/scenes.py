"""Drawn videos of any size: things move over bands of stuff. Cheap to draw and small on disk."""

import dataclasses
import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

VOID = 255  # in `Scene.stuff_map`: of no class


@dataclasses.dataclass(frozen=True)
class Thing:
    """An object; lengths and places are shares of the frame.

    Attributes:
      kind: its class, as the dataset's files count classes.
      center: (y, x) in frame 0.
      size: (height, width).
      frames: where it is seen; None: everywhere.
      crowd: it stands for a group.
    """

    kind: int
    center: tuple[float, float]
    size: tuple[float, float]
    frames: tuple[int, ...] | None = None
    crowd: bool = False


@dataclasses.dataclass(frozen=True)
class Scene:
    """A video whose thing i is the value i + 1 of the id maps; later things hide earlier ones.

    Attributes:
      height, width: of the frames, in pixels.
      num_frames: T.
      things: what moves.
      stuff: classes of the horizontal bands behind them, from top to bottom.
      seed: of the colors.
      void: share of the width, at the left, that is of no class and shows no thing.
    """

    height: int
    width: int
    num_frames: int
    things: tuple[Thing, ...]
    stuff: tuple[int, ...] = (0,)
    seed: int = 0
    void: float = 0.0

    def visible(self, t: int) -> list[int]:
        """Ids (1..N) of the things that frame t shows."""
        return [i for i, thing in enumerate(self.things, 1) if thing.frames is None or t in thing.frames]

    def id_map(self, t: int, only: Sequence[int] | None = None) -> np.ndarray:
        """uint16 [H, W]: 0 where there is no thing. With `only`, as if there were no others."""
        ids = np.zeros((self.height, self.width), np.uint16)
        for i in self.visible(t):
            if only is None or i in only:
                self._draw(ids, i, t, i)
        ids[:, : int(self.void * self.width)] = 0
        return ids

    def stuff_map(self, t: int) -> np.ndarray:
        """uint8 [H, W]: the bands' classes; their borders move down by a row per frame."""
        stuff = np.empty((self.height, self.width), np.uint8)
        bounds = [round(k * self.height / len(self.stuff)) + t for k in range(len(self.stuff))] + [self.height]
        bounds[0] = 0
        for kind, top, bottom in zip(self.stuff, bounds, bounds[1:], strict=False):
            stuff[top:bottom] = kind
        stuff[:, : int(self.void * self.width)] = VOID
        return stuff

    def class_map(self, t: int) -> np.ndarray:
        """uint8 [H, W]: the things' classes over the bands'; `VOID` at the left."""
        kinds = np.array([0, *(thing.kind for thing in self.things)], np.uint8)
        ids = self.id_map(t)
        return np.where(ids > 0, kinds[ids], self.stuff_map(t))

    def picture(self, t: int) -> np.ndarray:
        """uint8 BGR [H, W, 3]."""
        image = _background(self.height, self.width, self.seed).copy()
        for i in self.visible(t):
            self._draw(image, i, t, [(53 * i) % 256, (97 * i + 80) % 256, (151 * i + 160) % 256])
        return image

    def _draw(self, image: np.ndarray, i: int, t: int, color: int | list[int]) -> None:
        thing = self.things[i - 1]
        y, x = ((c + 0.01 * t) * side for c, side in zip(thing.center, (self.height, self.width), strict=True))
        h, w = (max(2.0, s * side) for s, side in zip(thing.size, (self.height, self.width), strict=True))
        if i % 2:
            cv2.ellipse(image, (round(x), round(y)), (round(w / 2), round(h / 2)), 0, 0, 360, color, -1)
        else:
            cv2.rectangle(image, (round(x - w / 2), round(y - h / 2)), (round(x + w / 2), round(y + h / 2)), color, -1)


def spread(
    kinds: Sequence[int],
    seen: dict[int, Sequence[int]] | None = None,
    crowds: Sequence[int] = (),
    scale: float = 0.6,
    rows: int | None = None,
) -> tuple[Thing, ...]:
    """One thing per entry of `kinds`, side by side in a grid.

    Args:
      kinds: their classes.
      seen: number (0..N-1) -> frames that show it, for those that are not in all of them.
      crowds: numbers of those that stand for groups.
      scale: size of a thing, as a share of its place in the grid.
      rows: of the grid; None: as many as columns.
    """
    rows = rows or max(1, math.floor(math.sqrt(len(kinds))))
    columns = math.ceil(len(kinds) / rows)
    return tuple(
        Thing(
            kind,
            ((n // columns + 0.45) / rows, (n % columns + 0.5) / columns),
            (scale / rows, scale / columns),
            tuple((seen or {})[n]) if n in (seen or {}) else None,
            n in crowds,
        )
        for n, kind in enumerate(kinds)
    )


@functools.lru_cache(maxsize=4)
def _background(height: int, width: int, seed: int) -> np.ndarray:
    """A gradient of few levels, which PNG and JPEG pack well."""
    corners = np.random.default_rng(seed).integers(40, 200, (3, 4, 3)).astype(np.uint8)
    small = cv2.resize(corners, (max(2, width // 8), max(2, height // 8)), interpolation=cv2.INTER_LINEAR) & 0xF0
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
