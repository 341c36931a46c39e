"""The compiled functions of inference: clips through the network, and logits to pixels of the original frame."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import nnx

from kernels.aot.chips import memory_of
from tarvis_jax.compiled import Programs, network_compiler_options, shapes_of
from tarvis_jax.inference import network
from tarvis_jax.inference.clips import Clip, Geometry
from tarvis_jax.inference.host_memory import reuse_freed_memory
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.model.config import PYRAMID_STRIDES, ModelConfig
from tarvis_jax.model.extent import Extent, repeat_border
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import abstract_model, fill, flatten

MASKS_PER_CALL = 8  # masks are gathered and brought to pixels in groups of this many: one shape, one compilation
MAX_CLIPS = 8  # that go through the network at once, unless the user says more
EMPTY_LOGIT = -1e4  # mask logit of padded rows

_SHARE_OF_FREE_MEMORY = 0.9  # that a batch may take: allocators leave gaps


@dataclasses.dataclass(frozen=True)
class ClassClip:
    """A clip of VIS or VPS, with L >= T frames of which the first T are the clip.

    Attributes:
      class_logits: float32 numpy [Q, 1 + K], column 0 = background.
      mask_logits: float32 [Q, L, H/4, W/4], still on the device (see Predictor.take_masks).
      semantic_logits: float32 [K, L, H/4, W/4], still on the device (see Predictor.semantic_logits).
      num_frames: T.
    """

    class_logits: np.ndarray
    mask_logits: jax.Array
    semantic_logits: jax.Array
    num_frames: int


class FrameMemory:
    """Features of the frames that the next clip of a video shares with the last one; one for each pass over a video.

    They stay on the device.
    """

    def __init__(self) -> None:
        self.first = -1  # frame that `maps` begin with, -1 where they are of no frames
        self.maps: network.Pyramid | None = None


@dataclasses.dataclass(frozen=True)
class ClipPlace:
    """Where a clip lies, in its video and in the arrays of the programs.

    Attributes:
      first: number of its first frame.
      length: frames of the arrays, L; those after the clip's own change nothing.
      overlap: frames that successive clips of the video share, below `length`.
      extent: see `Geometry`.
      memory: of the video.
    """

    first: int
    length: int
    overlap: int
    extent: tuple[int, int] | None
    memory: FrameMemory

    @classmethod
    def of(cls, clip: Clip, geometry: Geometry, memory: FrameMemory) -> "ClipPlace":
        return cls(clip.first, clip.length, clip.overlap, geometry.extent, memory)

    @classmethod
    def alone(cls, num_frames: int) -> "ClipPlace":
        """Of a clip that shares nothing with others."""
        return cls(0, num_frames, 0, None, FrameMemory())


class Predictor:
    """Owns the variables and the compiled functions.

    A function is compiled once per combination of shapes: that of a whole clip (features; shared by all tasks) and how
    many go at once, the number of classes or of objects (rounded up, see `object_bucket`), the original frame size.
    `programs` counts them.

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
        self._no_maps = self._jit(lambda images: _no_maps(images, config.hidden_size, config.compute_dtype))
        self._features = self._jit(self._on_model(network.next_clips_features))
        self._classes = self._jit(self._on_model(_decode_clips))
        self._has_room: dict[tuple, bool] = {}
        self._objects = self._jit(self._on_model(network.decode_objects))
        self._take = self._jit(lambda logits, indices: logits[indices])
        self._upsample_masks = self._jit(_upsample_masks)

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

    def release_variables(self) -> None:
        """Lets go of the arrays, whose memory is wanted; `set_variables` comes before the next use."""
        self._variables = None

    @property
    def _device(self) -> jax.Device:
        return self.device or jax.local_devices()[0]

    @property
    def variables(self) -> dict[str, jax.Array]:
        """All variables by their flat names, on the device."""
        return flatten(nnx.merge(self._graphdef, self._variables))

    def segment_classes(self, images: np.ndarray, dataset: str, place: ClipPlace | None = None) -> ClassClip:
        """Segments a clip of VIS or VPS.

        Args:
          images: uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor.
          dataset: whose classes to find.
          place: in its video; None: a clip alone.

        Raises:
          ValueError: the model has no classes of that dataset.
        """
        (clip,) = self.segment_clips(images, dataset, ClipPlace.alone(len(images)) if place is None else place)
        return clip

    def segment_clips(self, images: np.ndarray, dataset: str, place: ClipPlace) -> list[ClassClip]:
        """Segments successive whole clips of VIS or VPS, all at once.

        Args:
          images: uint8 RGB [O + B (L - O), H, W, 3], the frames of B clips of length L and overlap O; or fewer than L,
            of one clip.
          dataset, place: as in `segment_classes`; `place` of the first one.

        Raises:
          ValueError: the model has no classes of that dataset.
        """
        queries = self._queries_of(dataset)

        def run() -> list[tuple[jax.Array, jax.Array, jax.Array]]:
            pyramid, extent = self._clip_features(images, place)
            return self._classes(self._variables, pyramid, queries, extent)

        num_frames = min(len(images), place.length)
        return [ClassClip(np.asarray(clip[0]), clip[1], clip[2], num_frames) for clip in self._timed(run)]

    @property
    def most_clips(self) -> int:
        """Clips that may go through the network at once, if there is memory; 1 where no limit is known, as on CPUs."""
        return 1 if memory_of(self._device) is None else MAX_CLIPS

    def has_room(self, num_clips: int, size: tuple[int, int], dataset: str, place: ClipPlace) -> bool:
        """Whether the device has memory for so many clips at once, by the compiler's figures for their programs.

        Of clips of the same shape, it is found out once.

        Args:
          num_clips: B, of `segment_clips`.
          size: (height, width) of the network's input.
          dataset, place: as in `segment_clips`.
        """
        queries = self._queries_of(dataset)
        key = (num_clips, size, len(queries), place.length, place.overlap, place.extent is None)
        if key not in self._has_room:
            free = memory_of(self._device) - (self._device.memory_stats() or {}).get("bytes_in_use", 0)
            needs = self._bytes_of(num_clips, size, queries, place)
            self._has_room[key] = needs is not None and needs <= _SHARE_OF_FREE_MEMORY * free
            logging.info(
                "%d clips of %d frames at once: need %s of %.2f GiB",
                *(num_clips, place.length, "more" if needs is None else f"{needs / 2**30:.2f}", free / 2**30),
            )
        return self._has_room[key]

    def _bytes_of(self, num_clips: int, size: tuple[int, int], queries: np.ndarray, place: ClipPlace) -> int | None:
        """Memory that so many clips take besides the variables; None if the compiler says that there is too little."""
        step = place.length - place.overlap
        shape = (place.length, *size)
        images = jax.ShapeDtypeStruct((place.overlap + num_clips * step, *size, 3), np.uint8)
        extent = self._extent(place.length, place.extent, shape)
        maps = self._no_maps.shapes(jax.ShapeDtypeStruct((place.overlap, *size, 3), np.uint8))
        features = (self._variables, images, maps, np.int32(0), extent)
        try:
            found = [self._features.compiled(*features).memory_analysis()]
            pyramid, _ = self._features.shapes(*features)
            found.append(self._classes.compiled(self._variables, pyramid, queries, extent).memory_analysis())
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None
        temporaries = max(each.temp_size_in_bytes for each in found)
        # The outputs of the batch before are there until its frames are handed out.
        outputs = found[0].output_size_in_bytes + 2 * found[1].output_size_in_bytes
        return math.prod(images.shape) + temporaries + outputs

    def _queries_of(self, dataset: str) -> np.ndarray:
        if dataset not in self._semantic_queries:
            raise ValueError(f"dataset {dataset!r} has no classes in this model; {sorted(self._semantic_queries)} have")
        return self._semantic_queries[dataset]

    def segment_objects(self, images: np.ndarray, inputs: ExemplarInputs, place: ClipPlace | None = None) -> np.ndarray:
        """Segments the given objects in a clip.

        Args:
          images: uint8 RGB [T, H, W, 3], sides multiples of config.size_divisor.
          inputs: N objects.
          place: in its video; None: a clip alone.

        Returns:
          Mask logits float32 [N, T, H/4, W/4].
        """
        num_objects, num_frames = len(inputs.ids), len(images)
        bucket = object_bucket(num_objects)
        length = num_frames if place is None else place.length
        more = [(0, bucket - num_objects)]
        arguments = (
            np.pad(inputs.masks, [*more, (0, length - num_frames), (0, 0), (0, 0)]),
            np.pad(inputs.points_yx, [*more, (0, 0)]),
            np.pad(inputs.point_frames, more),
            np.pad(inputs.is_point, more),
            np.arange(bucket) < num_objects,
            np.pad(inputs.valid_frames, (0, length - num_frames)),
        )

        def run() -> jax.Array:
            pyramid, extent = self._clip_features(images, place)
            return self._objects(self._variables, pyramid, *arguments, extent)

        return np.asarray(self._timed(run))[:num_objects, :num_frames]

    def take_masks(self, clip: ClassClip, indices: np.ndarray) -> np.ndarray:
        """Mask logits of some queries: int [N] -> float32 numpy [N, T, H/4, W/4]."""
        taken = [
            np.asarray(self._take(clip.mask_logits, _fill(indices[i : i + MASKS_PER_CALL], MASKS_PER_CALL, 0)))
            for i in range(0, len(indices), MASKS_PER_CALL)
        ]
        if not taken:
            return np.zeros((0, clip.num_frames, *clip.mask_logits.shape[2:]), np.float32)
        return np.concatenate(taken)[: len(indices), : clip.num_frames]

    def upsample_masks(self, logits: np.ndarray, extent: tuple[int, int] | None = None) -> np.ndarray:
        """float32 [N, T, h, w] -> bool [N, T, 4h, 4w]: bilinear x4, above 0; `extent` as in `Geometry`."""
        filled = _fill(logits, mask_bucket(len(logits)), EMPTY_LOGIT)
        _, num_frames, height, width = logits.shape
        where = self._extent(num_frames, extent, (num_frames, 4 * height, 4 * width))
        return np.asarray(self._upsample_masks(filled, where))[: len(logits)]

    def _on_model(self, function: Callable) -> Callable:
        """function(model, ...) as a pure function of the model's variables."""
        return lambda variables, *args: function(nnx.merge(self._graphdef, variables), *args)

    def _clip_features(self, images: np.ndarray, place: ClipPlace | None) -> tuple[network.Pyramid, Extent]:
        """The pyramid of successive clips, the first at `place`, in arrays of L frames, and what of them is a clip."""
        place = ClipPlace.alone(len(images)) if place is None else place
        memory, (height, width) = place.memory, images.shape[1:3]
        is_shared = memory.maps is not None and memory.first == place.first
        if memory.maps is None:
            memory.maps = self._no_maps(_fill(images[: place.overlap], place.overlap, 0))
        extent = self._extent(min(len(images), place.length), place.extent, (place.length, height, width))
        num_shared = np.int32(place.overlap if is_shared else 0)
        is_whole = len(images) >= place.length
        images = images if is_whole else _fill(images, place.length, 0)
        pyramid, memory.maps = self._features(self._variables, images, memory.maps, num_shared, extent)
        memory.first = place.first + len(images) - place.overlap if is_whole else -1
        return pyramid, extent

    def _extent(self, num_frames: int, size: tuple[int, int] | None, shape: tuple[int, int, int]) -> Extent:
        return Extent.of(num_frames, size, shape, self.config.hidden_size)

    def _jit(self, function: Callable) -> "_Function":
        """jax.jit with the compilations counted and timed apart from the runs."""
        platform = jax.default_backend() if self.device is None else self.device.platform
        jitted = jax.jit(function, compiler_options=network_compiler_options(platform))

        def compiled(*args) -> Callable:
            def lower() -> jax.stages.Lowered:
                with jax.default_matmul_precision(self._matmul_precision), jax.default_device(self.device):
                    return jitted.lower(*args)

            return self.programs.get((function, shapes_of(args)), lower)

        return _Function(compiled, jitted.eval_shape)

    def _timed(self, call: Callable[[], Any]) -> Any:
        """Runs the network; the compilation, if there is one, is not counted."""
        start, compile_seconds = time.perf_counter(), self.programs.compile_seconds
        outputs = jax.block_until_ready(call())
        self.model_seconds += time.perf_counter() - start - (self.programs.compile_seconds - compile_seconds)
        return outputs


@dataclasses.dataclass(frozen=True)
class _Function:
    """A function that is compiled once for each combination of shapes.

    Attributes:
      compiled: arguments, or their shapes -> its program.
      shapes: the same -> the shapes of its results.
    """

    compiled: Callable
    shapes: Callable

    def __call__(self, *args):
        return self.compiled(*args)(*args)


def object_bucket(num_objects: int) -> int:
    """Number of object slots that are compiled for: the next of 4, 8, 16, 24, 32, 40, ...

    An empty slot costs a thousandth of a clip (docs/benchmarks.md), and a program takes seconds or minutes to compile.
    """
    return max(4, mask_bucket(num_objects))


def mask_bucket(num_masks: int) -> int:
    """Number of masks of a frame's size that are compiled for: the next of 1, 2, 4, 8, 16, 24, 32, 40, ..."""
    if num_masks > 16:
        return -(-num_masks // 8) * 8
    return 1 << max(0, num_masks - 1).bit_length()


def _fill(array: np.ndarray, size: int, value) -> np.ndarray:
    """Pads the first axis to `size`."""
    return np.pad(array, [(0, size - len(array))] + [(0, 0)] * (array.ndim - 1), constant_values=value)


def _decode_clips(model: TarViS, *args: Any) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """What `network.decode_classes` says of each clip, in arrays of its own: they live as long as its frames need."""
    return list(zip(*map(list, network.decode_classes(model, *args)), strict=True))


def _no_maps(images: jax.Array, hidden_size: int, dtype: str) -> network.Pyramid:
    """Frame features in the shapes of those of `images` [T, H, W, 3]."""
    T, H, W, _ = images.shape
    return {s: jnp.zeros((1, T, H // s, W // s, hidden_size), dtype) for s in PYRAMID_STRIDES}


def _upsample_masks(logits: jax.Array, extent: Extent) -> jax.Array:
    N, T, h, w = logits.shape
    logits = repeat_border(logits.reshape(N * T, h, w, 1), extent).reshape(logits.shape)
    masks = jax.image.resize(logits, (N, T, 4 * h, 4 * w), "bilinear") > 0
    return masks if extent.size is None else masks & extent.inside(4 * h, 4 * w)
