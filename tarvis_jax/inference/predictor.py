"""The compiled functions of inference: one clip through the network, and logits to pixels of the original frame."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tarvis_jax.compiled import Programs, shapes_of
from tarvis_jax.inference import network
from tarvis_jax.inference.clips import Geometry
from tarvis_jax.inference.host_memory import reuse_freed_memory
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import abstract_model, fill, flatten

MASKS_PER_CALL = 8  # masks are gathered and brought to pixels in groups of this many: one shape, one compilation
EMPTY_LOGIT = -1e4  # mask logit of padded rows


@dataclasses.dataclass(frozen=True)
class ClassClip:
    """A clip of VIS or VPS.

    Attributes:
      class_logits: float32 numpy [Q, 1 + K], column 0 = background.
      mask_logits: float32 [Q, T, H/4, W/4], still on the device (see Predictor.take_masks).
      semantic_logits: float32 [K, T, H/4, W/4], still on the device.
    """

    class_logits: np.ndarray
    mask_logits: jax.Array
    semantic_logits: jax.Array


class Predictor:
    """Owns the variables and the compiled functions. Everything it takes and gives is of one clip or one frame.

    A function is compiled once per combination of shapes: that of the clip (features; shared by all tasks), the number
    of classes or of objects (rounded up to a power of two), the original frame size. `programs` counts them.

    Attributes:
      config: the model's.
      programs: what is compiled; counts and times it.
      model_seconds: wall time of `segment_*`, without compiling.
    """

    def __init__(
        self,
        config: ModelConfig,
        variables: Mapping[str, Any],
        matmul_precision: str | None = None,
        device: jax.Device | None = None,
    ):
        """Args:
        config: architecture and compute dtype of the model.
        variables: its values, a flat dict as `tarvis_jax.model.variables.flatten(model)` gives.
        matmul_precision: see `jax.default_matmul_precision`; "highest" for parity, None for the device's default.
        device: where the variables lie and the network runs; None: JAX's default device.
        """
        self.config = config
        self.device = device
        self._matmul_precision = matmul_precision
        self.set_variables(variables)
        if jax.default_backend() == "cpu":
            reuse_freed_memory()
        self.programs = Programs()
        self.model_seconds = 0.0
        self._features = self._jit(self._on_model(network.clip_features))
        self._classes = self._jit(self._on_model(network.decode_classes))
        self._objects = self._jit(self._on_model(network.decode_objects))
        self._take = self._jit(lambda logits, indices: logits[indices])
        self._upsample_masks = self._jit(_upsample_masks)
        self._pixel_masks = self._jit(_pixel_masks)
        self._pixel_classes = self._jit(_pixel_classes)
        self._pixel_objects = self._jit(_pixel_objects)

    @classmethod
    def from_model(cls, model: TarViS, matmul_precision: str | None = None) -> "Predictor":
        """A predictor with the variables of `model` (which it does not follow afterwards)."""
        return cls(model.config, flatten(model), matmul_precision)

    def set_variables(self, variables: Mapping[str, Any]) -> None:
        """Other values for the same architecture, as in `__init__`; what is compiled stays."""
        with jax.default_device(self.device):
            self._graphdef, self._variables = nnx.split(fill(abstract_model(self.config), variables))
        if self.device is not None:
            self._variables = jax.device_put(self._variables, self.device)
        table = np.asarray(variables[SEMANTIC_TABLE])
        rows_of = semantic_rows(self.config.semantic_classes)
        self._semantic_queries = {dataset: table[slice(*rows)] for dataset, rows in rows_of.items()}

    @property
    def variables(self) -> dict[str, jax.Array]:
        """All variables by their flat names, on the device."""
        return flatten(nnx.merge(self._graphdef, self._variables))

    def segment_classes(self, images: np.ndarray, dataset: str) -> ClassClip:
        """Segments a clip of VIS or VPS: images uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor.

        ValueError when the model has no classes of that dataset.
        """
        if dataset not in self._semantic_queries:
            raise ValueError(f"dataset {dataset!r} has no classes in this model; {sorted(self._semantic_queries)} have")
        queries = self._semantic_queries[dataset]
        outputs = self._timed(lambda: self._classes(self._variables, self._clip_features(images), queries))
        return ClassClip(np.asarray(outputs[0]), outputs[1], outputs[2])

    def segment_objects(self, images: np.ndarray, inputs: ExemplarInputs) -> np.ndarray:
        """Segments the given objects in a clip: images uint8 RGB [T, H, W, 3] -> float32 [N, T, H/4, W/4]."""
        num_objects = len(inputs.ids)
        bucket = object_bucket(num_objects)
        pad = lambda x: np.pad(x, [(0, bucket - num_objects)] + [(0, 0)] * (x.ndim - 1))  # noqa: E731
        arguments = (
            pad(inputs.masks),
            pad(inputs.points_yx),
            pad(inputs.point_frames),
            pad(inputs.is_point),
            np.arange(bucket) < num_objects,
            inputs.valid_frames,
        )
        logits = self._timed(lambda: self._objects(self._variables, self._clip_features(images), *arguments))
        return np.asarray(logits)[:num_objects]

    def take_masks(self, clip: ClassClip, indices: np.ndarray) -> np.ndarray:
        """Mask logits of some queries: int [N] -> float32 numpy [N, T, H/4, W/4]."""
        taken = [
            np.asarray(self._take(clip.mask_logits, _fill(indices[i : i + MASKS_PER_CALL], MASKS_PER_CALL, 0)))
            for i in range(0, len(indices), MASKS_PER_CALL)
        ]
        if not taken:
            return np.zeros((0, *clip.mask_logits.shape[1:]), np.float32)
        return np.concatenate(taken)[: len(indices)]

    def upsample_masks(self, logits: np.ndarray) -> np.ndarray:
        """float32 [N, T, h, w] -> bool [N, T, 4h, 4w]: bilinear x4, above 0."""
        filled = _fill(logits, object_bucket(len(logits)), EMPTY_LOGIT)
        return np.asarray(self._upsample_masks(filled))[: len(logits)]

    def pixel_masks(self, logits: np.ndarray, geometry: Geometry) -> np.ndarray:
        """float32 [N, h, w] of one frame -> bool [N, H, W] at the original size (tracks may overlap)."""
        rows, columns = _upsampling(geometry)
        masks = [
            np.asarray(
                self._pixel_masks(_fill(logits[i : i + MASKS_PER_CALL], MASKS_PER_CALL, EMPTY_LOGIT), rows, columns)
            )
            for i in range(0, len(logits), MASKS_PER_CALL)
        ]
        return np.concatenate(masks)[: len(logits)] if masks else np.zeros((0, *geometry.original), bool)

    def pixel_classes(self, logits: np.ndarray, geometry: Geometry) -> np.ndarray:
        """float32 [K, h, w] of one frame -> int [H, W] at the original size: the greatest logit's index."""
        return np.asarray(self._pixel_classes(logits, *_upsampling(geometry)))

    def pixel_objects(self, logits: np.ndarray, geometry: Geometry) -> np.ndarray:
        """float32 [N, h, w] of one frame -> int [H, W] at the original size: 1 + the greatest's index, 0 if below 0."""
        filled = _fill(logits, object_bucket(len(logits)), EMPTY_LOGIT)
        return np.asarray(self._pixel_objects(filled, *_upsampling(geometry)))

    def _on_model(self, function: Callable) -> Callable:
        """function(model, ...) as a pure function of the model's variables."""
        return lambda variables, *args: function(nnx.merge(self._graphdef, variables), *args)

    def _clip_features(self, images: np.ndarray) -> network.Pyramid:
        return self._features(self._variables, images)

    def _jit(self, function: Callable) -> Callable:
        """jax.jit with the compilations counted and timed apart from the runs."""
        jitted = jax.jit(function)

        def call(*args):
            def lower() -> jax.stages.Lowered:
                with jax.default_matmul_precision(self._matmul_precision), jax.default_device(self.device):
                    return jitted.lower(*args)

            return self.programs.get((function, shapes_of(args)), lower)(*args)

        return call

    def _timed(self, call: Callable[[], Any]) -> Any:
        """Runs the network; the compilation, if there is one, is not counted."""
        start, compile_seconds = time.perf_counter(), self.programs.compile_seconds
        outputs = jax.block_until_ready(call())
        self.model_seconds += time.perf_counter() - start - (self.programs.compile_seconds - compile_seconds)
        return outputs


def object_bucket(num_objects: int) -> int:
    """Number of object slots that are compiled for: the next power of two."""
    return 1 << max(0, num_objects - 1).bit_length()


def _fill(array: np.ndarray, size: int, value) -> np.ndarray:
    """Pads the first axis to `size`."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1), constant_values=value)


@functools.lru_cache(maxsize=8)
def _upsampling(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    return geometry.upsampling()


def _upsample_masks(logits: jax.Array) -> jax.Array:
    *leading, h, w = logits.shape
    return jax.image.resize(logits, (*leading, 4 * h, 4 * w), "bilinear") > 0


def _to_pixels(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    # Highest precision: coarser products would move the zero crossing that draws the mask's border.
    return jnp.einsum("yh,nhw,xw->nyx", rows, logits, columns, precision="highest")


def _pixel_masks(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return _to_pixels(logits, rows, columns) > 0


def _pixel_classes(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    return jnp.argmax(_to_pixels(logits, rows, columns), axis=0)


def _pixel_objects(logits: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    pixels = _to_pixels(logits, rows, columns)
    return jnp.where(pixels.max(axis=0) > 0, 1 + jnp.argmax(pixels, axis=0), 0)
