"""A stand-in for a trained model, and a clip for it: objects are what has the color under the given mask or point.

It takes the place of the network alone: sessions, clips, stitching and masks at the full size are the real ones.
"""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from tarvis_jax import api, datasets
from tarvis_jax.dataset_info import DatasetInfo
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import ClassClip
from tests.inference.color_network import ColorNetwork

SIZE = (128, 192)
NUM_FRAMES = 24
COLORS = {"red": (220, 40, 40), "green": (30, 180, 50), "blue": (40, 60, 220), "yellow": (235, 220, 40)}
_GRAY = (120, 120, 120)
_LEAST_DISTANCE = 60.0  # in RGB: what is nearer has the same color, also after a lossy encoding
TURNS_YELLOW = 14  # the frame in which the blue object becomes yellow: whoever followed it has lost it


class ColorPredictor(ColorNetwork):
    """Mask logits are above 0 where 4 x 4 pixels have the color in question.

    Attributes:
      seconds: that a clip takes at least.
    """

    def __init__(self, class_names: Mapping[str, Sequence[str]]):
        """class_names: dataset -> its classes 1..K, by the names of `COLORS`, and "gray"."""
        super().__init__()
        self.seconds = self.model_seconds = 0.0
        self._class_names = class_names

    def segment_classes(self, images, dataset, place=None):
        time.sleep(self.seconds)
        names = self._class_names[dataset]
        semantic = np.stack([_logits(images, COLORS.get(name, _GRAY)) for name in names])
        masks = semantic[[row for row, name in enumerate(names) if name in COLORS]]
        classes = np.full((len(masks), 1 + len(names)), -4.0, np.float32)
        for row, mask in enumerate(masks):
            classes[row, 1 + row + len(names) - len(masks) if (mask > 0).any() else 0] = 4
        return ClassClip(classes, masks, semantic, len(images))

    def segment_objects(self, images, inputs, place=None):
        time.sleep(self.seconds)
        colors = []
        for row in range(len(inputs.ids)):
            if inputs.is_point[row]:
                y, x = (inputs.points_yx[row] * images.shape[1:3]).astype(int)
                colors.append(images[inputs.point_frames[row], y, x])
            else:
                last = np.flatnonzero(inputs.masks[row].any((1, 2)))[-1]  # a corrected mask counts, not what was before
                colors.append(np.median(images[last][inputs.masks[row, last]], axis=0))
        return np.stack([_logits(images, color) for color in colors])


class ColorModel(api.Model):
    """All four tasks."""

    def __init__(self):
        inference = InferenceConfig(clip_length=6, overlap=3, min_dim=SIZE[0], score_threshold=0.3)
        names = {"COLORS": tuple(COLORS), "WARM": ("red", "yellow"), "PANOPTIC": ("gray", *COLORS)}
        things = {"PANOPTIC": (1, 2, 3, 4)}
        self.datasets = {
            key: DatasetInfo(
                datasets.DatasetSpec("panoptic" if key in things else "instance", len(each), things.get(key, ())),
                each,
                inference,
            )
            for key, each in names.items()
        }
        for key, kind in (("DAVIS", "mask"), ("BURST", "point")):
            self.datasets[key] = DatasetInfo(datasets.DatasetSpec("exemplar", 0, (), kind), (), inference)
        self.predictor = ColorPredictor(names)


def _logits(images: np.ndarray, color) -> np.ndarray:
    """float32 [T, H/4, W/4]."""
    T, H, W, _ = images.shape
    cells = images.reshape(T, H // 4, 4, W // 4, 4, 3).mean((2, 4))
    return ((_LEAST_DISTANCE - np.linalg.norm(cells - np.asarray(color, float), axis=-1)) / 10).astype(np.float32)


def clip_masks(frame: int) -> dict[str, np.ndarray]:
    """Where the objects are in a frame, bool [H, W] each: red disk, green square, blue (later yellow) bar."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return {
        "red": (y - 36) ** 2 + (x - 24 - 6 * frame) ** 2 <= 16**2,
        "green": (np.abs(y - 35 - 3 * frame) <= 15) & (np.abs(x - 155) <= 15),
        "blue": (np.abs(y - 98) <= 14) & (np.abs(x - 35 - 2 * frame) <= 25),
    }


def clip_frame(frame: int) -> np.ndarray:
    """uint8 RGB [H, W, 3]."""
    image = np.full((*SIZE, 3), _GRAY, np.uint8)
    for name, mask in clip_masks(frame).items():
        image[mask] = COLORS["yellow" if name == "blue" and frame >= TURNS_YELLOW else name]
    return image


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two masks, bool [H, W]."""
    return (a & b).sum() / max(1, (a | b).sum())
