"""The tracker as a native function of CVAT, for `cvat-cli` (docs/serving.md).

cvat-cli function create-native NAME --function-module=tarvis_jax.serve.cvat_function -p checkpoint=str:PATH
"""

import weakref
from typing import Any

import numpy as np
import PIL.Image

import tarvis_jax
from tarvis_jax.serve import shapes
from tarvis_jax.serve.tracker import Frame, ObjectState, Tracker


class State:
    """An object that is followed; what is known of it after a frame takes the place of what was known before."""

    def __init__(self, number: int, state: ObjectState):
        self.number, self.current = number, state


class TrackingFunction:
    """CVAT's protocol `cvat_sdk.auto_annotation.TrackingFunction`; contexts and shapes are of that package.

    CVAT asks for one object after the other. All objects that are at the same frame go through the network when the
    first of them is asked for; what was found of the others is kept until the next frame.
    """

    def __init__(self, tracker: Tracker):
        import cvat_sdk.auto_annotation as cvataa  # of those who use it

        self._cvataa = cvataa
        self.spec = cvataa.TrackingFunctionSpec(supported_shape_types=shapes.TYPES)
        self._tracker = tracker
        self._num_states = 0
        self._states: weakref.WeakSet[State] = weakref.WeakSet()  # CVAT's agent drops those that are not used
        self._frame: Frame | None = None
        self._found: weakref.WeakKeyDictionary[State, tuple[np.ndarray | None, ObjectState]]
        self._found = weakref.WeakKeyDictionary()

    def preprocess_image(self, context: Any, image: PIL.Image.Image) -> Frame:
        return self._tracker.prepare(np.asarray(image.convert("RGB")))

    def init_tracking_state(self, context: Any, pp_image: Frame, shape: Any) -> State:
        mask = shapes.to_mask(shape.type, list(shape.points), pp_image.geometry.original, "shape")
        state = State(self._num_states, self._tracker.start(pp_image, mask))
        self._num_states += 1
        self._states.add(state)
        return state

    def track(self, context: Any, pp_image: Frame, state: State) -> Any | None:
        if pp_image is not self._frame:
            self._frame = pp_image
            self._found.clear()
        if state not in self._found:
            keys = [frame.key for frame in state.current.frames]
            size = len(state.current.masks)
            beside = [
                each
                for each in sorted(self._states, key=lambda state: state.number)
                if len(each.current.masks) == size and [frame.key for frame in each.current.frames] == keys
            ]
            results = self._tracker.track(pp_image, [each.current for each in beside])
            self._found.update(zip(beside, results, strict=True))
        mask, state.current = self._found.pop(state)
        if mask is None:
            return None
        kind = context.original_shape_type
        return self._cvataa.TrackableShape(type=kind, points=shapes.from_mask(kind, mask))


def create(checkpoint: str, dataset: str = "", clip_length: int = 0, device: str = "", dtype: str = ""):
    """What cvat-cli calls with the values of its `-p name=type:value`; those that are empty or 0 take the defaults."""
    model = tarvis_jax.load(checkpoint, device=device or None, dtype=dtype or None)
    settings = {"clip_length": clip_length} if clip_length else {}
    return TrackingFunction(Tracker(model, dataset or None, **settings))
