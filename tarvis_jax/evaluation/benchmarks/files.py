"""The PNG files of panoptic and semantic benchmarks: which there are, and what they hold. They may come from anyone."""

import collections
import concurrent.futures
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import numpy as np

from tarvis_jax.results.png_files import read_png

T = TypeVar("T")
S = TypeVar("S")

_READERS = 2  # threads; decoding and counting pixels leave Python to the others


def first_that_exists(candidates: Iterable[pathlib.Path]) -> pathlib.Path:
    """The first of some paths that exists; ValueError naming all of them if none does."""
    candidates = list(candidates)
    for path in candidates:
        if path.exists():
            return path
    raise ValueError(f"{candidates[0]}: is missing" + "".join(f"; neither is there {each}" for each in candidates[1:]))


def video_folders(path: pathlib.Path) -> list[pathlib.Path]:
    """The folders in a folder, by name; hidden ones are left out. ValueError if there is none."""
    found = [each for each in _listed(path) if each.is_dir()]
    if not found:
        raise ValueError(f"{path}: expected one folder per video, found none")
    return found


def paired_frames(truth: pathlib.Path, results: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """The PNG files of a video, by name: (truth, result) of each frame. ValueError if not the same frames have one."""
    pairs = [[each for each in _listed(folder) if each.suffix == ".png"] for folder in (truth, results)]
    true_names, result_names = ([file.name for file in files] for files in pairs)
    if not true_names:
        raise ValueError(f"{truth}: expected one PNG file per frame, found none")
    if true_names != result_names:
        differing = sorted(set(true_names) ^ set(result_names))
        raise ValueError(
            f"{results}: expected the {len(true_names)} frames of {truth}, found {len(result_names)}; in one of the "
            f"two only: {', '.join(differing[:3])}"
        )
    return list(zip(*pairs, strict=True))


def read_ahead(read: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`read(item)` of each item in order, a few of them at the same time; raises what the first that fails raises."""
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        waiting: collections.deque[concurrent.futures.Future[T]] = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) > _READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def read_rgb_values(path: pathlib.Path) -> np.ndarray:
    """R + 256 G + 65536 B of an RGB PNG with 8 bits per color (alpha is not looked at): int32 [H, W].

    Raises:
      ValueError: it is absent, broken, or another kind of file; names the file.
    """
    colors = read_png(path, ("RGB", "RGBA"))  # the colors of a palette would be read as ids
    values = np.zeros((*colors.shape[:2], 4), np.uint8)
    values[..., :3] = colors[..., :3]
    return values.view("<i4")[..., 0]


def read_class_values(path: pathlib.Path) -> np.ndarray:
    """The values of a gray PNG with 8 bits, or the palette indices of one with a palette: uint8 [H, W].

    Raises:
      ValueError: it is absent, broken, or another kind of file; names the file.
    """
    return read_png(path, ("P", "L"))


def _listed(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        return sorted(each for each in path.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read as a folder ({error.strerror})") from None
