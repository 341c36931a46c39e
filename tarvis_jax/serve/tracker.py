"""Follows given objects one frame at a time, where each object carries all that is known of it (VOS, paper 3.3).

A `Session` belongs to one video. A labeling tool asks for one frame of any of its videos, for some of the objects, goes
back and begins again. So what a session keeps between two frames is a value here, an `ObjectState`: the frames that
the network sees beside the next one, and the object's masks in them. The numbers are those of `Session.step`.
"""

import dataclasses
import hashlib
import threading
from collections.abc import Sequence

import numpy as np

from tarvis_jax.api import Model
from tarvis_jax.datasets import EXEMPLAR
from tarvis_jax.inference.clips import Geometry, plan_geometry
from tarvis_jax.inference.frames import check_frame
from tarvis_jax.inference.pixels import Pixels
from tarvis_jax.inference.predictor import ClipPlace, FrameMemory
from tarvis_jax.inference.targets import ExemplarInputs
from tarvis_jax.masks import rle
from tarvis_jax.masks.rle import Rle


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """A frame as the network takes it.

    Attributes:
      key: 64 hexadecimal digits that no other picture has.
      image: uint8 RGB [H', W', 3], resized and padded.
      geometry: its sizes.
    """

    key: str
    image: np.ndarray
    geometry: Geometry


@dataclasses.dataclass(frozen=True)
class ObjectState:
    """All that is known of an object after a frame.

    Attributes:
      frames: the newest frames that it was followed through, at most clip_length - 1; the oldest first.
      masks: its pixels in frames 0 .. len(masks) - 1 at the padded size [H', W']: the one mask that was given, until
        clip_length frames were seen, and after that what the last clip said of each of `frames`.
    """

    frames: tuple[Frame, ...]
    masks: tuple[Rle, ...]

    @property
    def is_lost(self) -> bool:
        """Whether there is no pixel left to go on from."""
        return not any(rle.area(mask) for mask in self.masks)


class Tracker:
    """Follows objects with a model; its calls may come from several threads."""

    def __init__(self, model: Model, dataset: str | None = None, **settings):
        """Args:
          model: the network.
          dataset: whose way of resizing to use; None: that of the task "vos" (`Model.session`).
          **settings: replace fields of its InferenceConfig; `overlap` plays no part.

        Raises:
          ValueError: as `Model.session`, a dataset whose targets are not given, or clips of less than two frames.
        """
        session = model.session("vos", dataset, **({"overlap": 1} | settings))
        assert session.spec.task == EXEMPLAR
        self.config, self.dataset = session.config, session.dataset
        if self.config.clip_length < 2:
            raise ValueError(f"clip_length: expected at least 2 to follow an object, found {self.config.clip_length}")
        self._predictor = model.predictor
        self._pixels = Pixels(self._predictor.programs, self._predictor.device)
        self._lock = threading.Lock()
        self._memory, self._remembered = FrameMemory(), ()  # the frames of which the memory has features, by key

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """Sizes of the frames of a video whose frames have `size` (height, width)."""
        config, divisor = self.config, self._predictor.config.size_divisor
        return plan_geometry(size, config.min_dim, config.max_dim, divisor, use_table=config.size_table)

    def prepare(self, image: np.ndarray) -> Frame:
        """uint8 RGB [H, W, 3] -> a frame; ValueError for anything else."""
        image = np.ascontiguousarray(image)
        check_frame("image", "image", image, "image", image.shape[:2])
        geometry = self.geometry(image.shape[:2])
        key = hashlib.sha256(f"{image.shape[0]}x{image.shape[1]}:".encode() + image.tobytes()).hexdigest()
        return Frame(key, geometry.prepare_image(image), geometry)

    def start(self, frame: Frame, mask: np.ndarray) -> ObjectState:
        """The state of an object that is given in `frame` by its pixels, bool [H, W] at the original size.

        Raises:
          ValueError: a mask of another size or without a pixel.
        """
        if mask.shape != frame.geometry.original:
            raise ValueError(f"mask: expected the size of its image, {frame.geometry.original}, found {mask.shape}")
        if not mask.any():
            raise ValueError("mask: expected at least one pixel of the object, found none")
        return ObjectState((frame,), (rle.encode(frame.geometry.prepare_mask(mask)),))

    def track(self, frame: Frame, states: Sequence[ObjectState]) -> list[tuple[np.ndarray | None, ObjectState]]:
        """Follows objects to the frame after those of their states.

        Objects that were followed through the same frames go through the network together, and a pixel belongs to one
        of them at most.

        Args:
          frame: the next one.
          states: of the objects.

        Returns:
          For each its pixels in `frame`, bool [H, W] at the original size, or None where it has none; and its state
          after it. An object that is lost (`ObjectState.is_lost`) keeps its state, and is given anew by `start`.

        Raises:
          ValueError: a frame of another size than those of the states.
        """
        groups: dict[tuple, list[int]] = {}
        results: list[tuple[np.ndarray | None, ObjectState]] = [(None, state) for state in states]
        for index, state in enumerate(states):
            expected, found = state.frames[-1].geometry.original, frame.geometry.original
            if found != expected:
                raise ValueError(
                    f"image: expected {expected[0]}x{expected[1]} pixels (height x width) as in the frames before, "
                    f"found {found[0]}x{found[1]}"
                )
            if not state.is_lost:
                key = (len(state.masks), *(each.key for each in state.frames))
                groups.setdefault(key, []).append(index)
        for indices in groups.values():
            for index, result in zip(indices, self._track([states[i] for i in indices], frame), strict=True):
                results[index] = result
        return results

    def _track(self, states: list[ObjectState], frame: Frame) -> list[tuple[np.ndarray | None, ObjectState]]:
        """`track` of objects with the same frames, none of them lost."""
        frames, geometry = (*states[0].frames, frame), frame.geometry
        is_whole = len(frames) == self.config.clip_length
        with self._lock:
            logits = self._segment(frames, self._inputs(states, len(frames), geometry), is_whole)
            labels = self._pixels.owners(logits[:, -1], geometry)
            if is_whole:
                masks = self._predictor.upsample_masks(logits[:, 1:], geometry.extent)
        results = []
        for row, state in enumerate(states):
            found = labels == row + 1
            if is_whole:
                after = ObjectState(frames[1:], tuple(rle.encode(mask) for mask in masks[row]))
            else:
                after = ObjectState(frames, state.masks)
            results.append((found if found.any() else None, after))
        return results

    @staticmethod
    def _inputs(states: list[ObjectState], num_frames: int, geometry: Geometry) -> ExemplarInputs:
        known = len(states[0].masks)
        masks = np.zeros((len(states), num_frames, *geometry.padded), bool)
        for row, state in enumerate(states):
            for place, encoded in enumerate(state.masks):
                masks[row, place] = rle.decode(encoded)
        return ExemplarInputs(
            ids=list(range(len(states))),
            masks=masks,
            points_yx=np.zeros((len(states), 2), np.float32),
            point_frames=np.zeros(len(states), np.int32),
            is_point=np.zeros(len(states), bool),
            valid_frames=np.arange(num_frames) < known,
        )

    def _segment(self, frames: tuple[Frame, ...], inputs: ExemplarInputs, is_whole: bool) -> np.ndarray:
        """Mask logits, float32 [N, T, H'/4, W'/4]; features of frames that the last whole clip had are used again."""
        keys, length = tuple(each.key for each in frames), self.config.clip_length
        if keys[:-1] != self._remembered:
            self._memory = FrameMemory()
        first = max(self._memory.first, 0)
        self._remembered = ()
        place = ClipPlace(first, length, length - 1, frames[0].geometry.extent, self._memory)
        logits = self._predictor.segment_objects(np.stack([each.image for each in frames]), inputs, place)
        if is_whole:
            self._remembered = keys[1:]
        return logits
