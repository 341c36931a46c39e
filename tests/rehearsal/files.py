"""Pictures, masks and JSON as files."""

import json
import os
import pathlib
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tarvis_jax.masks.palette import palette

_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 40]
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1]


def write_picture(path: pathlib.Path, image: np.ndarray) -> None:
    """BGR [H, W, 3] or gray [H, W], uint8 or uint16, as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image, _JPEG if path.suffix == ".jpg" else _PNG):
        raise OSError(f"{path}: could not be written")


def write_ids(path: pathlib.Path, ids: np.ndarray) -> None:
    """Ids [H, W] as RGB PNG: id = R + 256 G + 65536 B."""
    ids = ids.astype(np.uint32)
    write_picture(path, np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1).astype(np.uint8))


def write_palette(path: pathlib.Path, ids: np.ndarray) -> None:
    """uint8 ids [H, W] as PNG with a palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(ids, mode="P")
    image.putpalette(palette().tobytes())
    image.save(path, compress_level=1)


def write_json(path: pathlib.Path, content: Any) -> None:
    write_text(path, json.dumps(content))


def write_text(path: pathlib.Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def same_file(path: pathlib.Path, existing: pathlib.Path) -> None:
    """A second name for a file, without its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(existing, path)


def runs(label_map: np.ndarray) -> dict[int, list[int]]:
    """Label -> counts of the uncompressed RLE (column-major, zeros first) of every label in [H, W]."""
    flat = label_map.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts, ends = np.append(0, edges), np.append(edges, flat.size)
    labels = flat[starts]
    result = {}
    for label in np.unique(labels).tolist():
        chosen = labels == label
        bounds = np.stack([starts[chosen], ends[chosen]], axis=1).ravel()
        counts = np.diff(np.concatenate(([0], bounds, [flat.size])))
        result[label] = counts[: len(counts) - (counts[-1] == 0)].tolist()
    return result


def to_text(counts: list[int], height: int, width: int) -> str:
    """Counts of the compressed RLE."""
    return coco_mask.frPyObjects({"counts": counts, "size": [height, width]}, height, width)["counts"].decode()


def area(counts: list[int]) -> int:
    return sum(counts[1::2])


def box(mask: np.ndarray) -> list[int]:
    """x, y, width, height of the pixels of [H, W] that are not zero."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
