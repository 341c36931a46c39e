"""A tracker whose network follows colors (tests/inference/color_network.py), and a video for it."""

import types

import numpy as np

from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.session import Session
from tarvis_jax.serve.tracker import Tracker
from tests.inference.color_network import SIZE, ColorNetwork

CLIP_LENGTH = 3


def make_model() -> types.SimpleNamespace:
    """What a Tracker needs of a tarvis_jax.Model."""
    network = ColorNetwork()

    def session(task, dataset, **settings):
        return Session(network, dataset or "DAVIS", config=InferenceConfig(**settings))

    return types.SimpleNamespace(session=session, predictor=network)


def make_tracker() -> Tracker:
    return Tracker(make_model(), "DAVIS", clip_length=CLIP_LENGTH)


def moving_squares(num_frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Two squares, red 100 that goes right and red 200 that goes down and is away in frame 4: frames and [T, 2, H, W].

    They keep to the cells of 4 x 4 pixels that the network answers for.
    """
    frames, masks = [], np.zeros((num_frames, 2, *SIZE), bool)
    for t in range(num_frames):
        masks[t, 0, 8:24, 4 * t : 4 * t + 12] = True
        if t != 4:
            masks[t, 1, 28 + 4 * t : 40 + 4 * t, 44:56] = True
        frame = np.zeros((*SIZE, 3), np.uint8)
        frame[masks[t, 0], 0], frame[masks[t, 1], 0] = 100, 200
        frames.append(frame)
    return frames, masks


def is_same(found: np.ndarray, mask: np.ndarray) -> bool:
    """Whether a square was found: interpolation of the logits rounds off its four corners."""
    return (found != mask).sum() <= 4
