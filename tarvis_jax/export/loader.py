"""Runs an exported model: needs JAX and NumPy, nothing else of this project (it is copied into every export).

    model = load("export")
    output = model.classes("YOUTUBE_VIS", images)
    masks = output["mask_logits"] > 0

An export is of one clip size: T frames of H x W pixels and N object slots (`model.clip`). Frames are uint8 RGB; smaller
ones are padded on the right and at the bottom with the value 128 (`pad`), as in training. Output maps have a quarter of
the sides.
"""

import json
import pathlib

import jax
import numpy as np
from jax import export

PAD_VALUE = 128


def load(folder, device=None):
    """Opens an export.

    Args:
      folder: what `main.py --mode=export` wrote.
      device: a jax.Device to run on; None: JAX's default. Its platform must be among those exported for.

    Returns:
      ExportedModel.
    """
    return ExportedModel(pathlib.Path(folder), device)


class ExportedModel:
    """The functions of an export with their weights.

    Attributes:
      manifest: content of manifest.json: platforms, functions with their inputs and outputs, datasets and class names.
      clip: {"length": T, "height": H, "width": W, "num_objects": N}.
    """

    def __init__(self, folder, device=None):
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.clip = self.manifest["clip"]
        self._device = device or jax.devices()[0]
        with np.load(folder / self.manifest["weights"]) as weights:
            self._variables = {name: jax.device_put(weights[name], self._device) for name in weights.files}
            self._semantic = weights[self.manifest["semantic_table"]]
        self._functions = {}
        for name, function in self.manifest["functions"].items():
            exported = export.deserialize((folder / function["file"]).read_bytes())
            self._functions[name] = jax.jit(exported.call)

    def classes(self, dataset, images):
        """Finds the classes of a dataset (VIS, VPS) in a clip.

        Args:
          dataset: one of manifest["datasets"].
          images: uint8 RGB [T, H, W, 3].

        Returns:
          numpy: class_logits [Q, 1 + K] (column 0 = background), mask_logits [Q, T, H/4, W/4],
          semantic_logits [K, T, H/4, W/4].
        """
        known = self.manifest["datasets"]
        if dataset not in known:
            raise ValueError(f"dataset: expected one of {sorted(known)}, found {dataset!r}")
        first, end = known[dataset]["rows"]
        return self._call(known[dataset]["function"], images, self._semantic[first:end])

    def objects(self, images, masks=None, points_yx=None, point_frames=None):
        """Follows objects given by masks or points (VOS, PET) through a clip.

        Args:
          images: uint8 RGB [T, H, W, 3].
          masks: bool [N1, T, H, W]: the objects in the frames they are given in, all false elsewhere.
          points_yx: float [N2, 2], (y, x) in 0..1 of the image; N1 + N2 at most clip["num_objects"].
          point_frames: int [N2], frame of each point; None: the first.

        Returns:
          numpy: mask_logits [N1 + N2, T, H/4, W/4], mask objects first. A pixel belongs to the object with the greatest
          logit if that is above 0.
        """
        length, height, width = (self.clip[key] for key in ("length", "height", "width"))
        slots = self.clip["num_objects"]
        masks = np.zeros((0, length, height, width), bool) if masks is None else np.asarray(masks, bool)
        points_yx = np.zeros((0, 2), np.float32) if points_yx is None else np.asarray(points_yx, np.float32)
        frames = np.zeros(len(points_yx), np.int32) if point_frames is None else np.asarray(point_frames, np.int32)
        num_masks, num_objects = len(masks), len(masks) + len(points_yx)
        if not 0 < num_objects <= slots:
            raise ValueError(f"objects: expected 1..{slots} masks and points, found {num_objects}")
        index = np.arange(slots)
        is_point = (index >= num_masks) & (index < num_objects)
        all_masks = np.zeros((slots, length, height, width), bool)
        all_points, all_frames = np.zeros((slots, 2), np.float32), np.zeros(slots, np.int32)
        all_masks[:num_masks] = masks
        all_points[num_masks:num_objects], all_frames[num_masks:num_objects] = points_yx, frames
        valid_frames = all_masks.any(axis=(0, 2, 3))
        valid_frames[frames] = True
        output = self._call(
            "objects", images, all_masks, all_points, all_frames, is_point, index < num_objects, valid_frames
        )
        return {"mask_logits": output["mask_logits"][:num_objects]}

    def pad(self, frames):
        """uint8 [T, h, w, 3] with h <= H and w <= W -> [T, H, W, 3]."""
        bottom, right = self.clip["height"] - frames.shape[1], self.clip["width"] - frames.shape[2]
        if bottom < 0 or right < 0:
            raise ValueError(
                f"frames: expected at most {self.clip['height']}x{self.clip['width']}, found {frames.shape}"
            )
        return np.pad(frames, ((0, 0), (0, bottom), (0, right), (0, 0)), constant_values=PAD_VALUE)

    def _call(self, name, *inputs):
        function = self.manifest["functions"][name]
        for value, wanted in zip(inputs, function["inputs"], strict=True):
            if list(value.shape) != wanted["shape"] or str(value.dtype) != wanted["dtype"]:
                raise ValueError(
                    f"{wanted['name']}: expected {wanted['dtype']} {wanted['shape']}, found {value.dtype} {value.shape}"
                )
        with jax.default_device(self._device):
            outputs = self._functions[name](self._variables, *inputs)
        names = [output["name"] for output in function["outputs"]]
        return dict(zip(names, map(np.asarray, outputs), strict=True))
