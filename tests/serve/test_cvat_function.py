"""The native function by CVAT's own rules: its types, and what its agent does with a function."""

import gc

import numpy as np
import PIL.Image
import pytest

import tarvis_jax
from tests.serve.color_tracker import is_same, make_model, make_tracker, moving_squares

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk (tests/requirements.txt)")
from cvat_sdk.masks import decode_mask, encode_mask  # noqa: E402

from tarvis_jax.serve import cvat_function  # noqa: E402

FRAMES, MASKS = moving_squares(7)
HEIGHT, WIDTH = MASKS.shape[2:]


class Context(cvataa.TrackingFunctionShapeContext):
    original_shape_type = "mask"


class PolygonContext(cvataa.TrackingFunctionShapeContext):
    original_shape_type = "polygon"


@pytest.fixture
def function():
    return cvat_function.TrackingFunction(make_tracker())


def begin(function, frame, masks, kind="mask"):
    image = function.preprocess_image(Context(), PIL.Image.fromarray(frame))
    shapes = [cvataa.TrackableShape(type=kind, points=encode_mask(mask)) for mask in masks]
    return [function.init_tracking_state(Context(), image, shape) for shape in shapes]


def track(function, frame, states):
    image = function.preprocess_image(Context(), PIL.Image.fromarray(frame))
    return [function.track(Context(), image, state) for state in states]


def test_it_is_a_tracking_function(function):
    assert isinstance(function.spec, cvataa.TrackingFunctionSpec)
    assert function.spec.supported_shape_types == {"mask", "polygon"}


def test_two_objects_through_a_video(function):
    states = begin(function, FRAMES[0], MASKS[0])
    network = function._tracker._predictor
    for t in range(1, 7):
        passes = len(network.clips)
        for found, mask in zip(track(function, FRAMES[t], states), MASKS[t], strict=True):
            if mask.any():
                assert isinstance(found, cvataa.TrackableShape) and found.type == "mask"
                assert is_same(decode_mask(found.points, image_width=WIDTH, image_height=HEIGHT), mask)
            else:
                assert found is None
        assert len(network.clips) == passes + 1  # one for all objects


def test_objects_that_nobody_asks_for_fall_behind(function):
    """An object that is not followed any more does not take part in the next frame; nor does one that is dropped."""
    states = begin(function, FRAMES[0], MASKS[0])
    network = function._tracker._predictor
    track(function, FRAMES[1], states)
    for t in (2, 3):
        track(function, FRAMES[t], states[:1])
    assert [len(clip.ids) for clip in network.clips] == [2, 2, 1]
    states = begin(function, FRAMES[0], MASKS[0])
    del states[1]
    gc.collect()
    track(function, FRAMES[1], states)
    assert len(network.clips[-1].ids) == 1 and len(function._states) == 1


def test_polygons(function):
    image = function.preprocess_image(Context(), PIL.Image.fromarray(FRAMES[0]).convert("RGBA"))
    square = cvataa.TrackableShape(type="polygon", points=[44, 28, 56, 28, 56, 40, 44, 40])
    state = function.init_tracking_state(PolygonContext(), image, square)
    after = function.preprocess_image(Context(), PIL.Image.fromarray(FRAMES[1]))
    found = function.track(PolygonContext(), after, state)
    assert found.type == "polygon" and np.reshape(found.points, (-1, 2)).min(0).tolist() == [44, 32]


def test_create(monkeypatch):
    """What cvat-cli calls."""
    calls = []
    monkeypatch.setattr(tarvis_jax, "load", lambda *path, **options: calls.append((path, options)) or make_model())
    function = cvat_function.create(checkpoint="runs/lab", clip_length=4, device="gpu:1")
    assert calls == [(("runs/lab",), {"device": "gpu:1", "dtype": None})]
    assert function._tracker.config.clip_length == 4 and function._tracker.dataset == "DAVIS"
    assert cvat_function.create("runs/lab", dataset="BURST")._tracker.dataset == "BURST"
