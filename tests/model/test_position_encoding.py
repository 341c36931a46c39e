"""Sine encodings against a direct evaluation of their definition."""

import math

import numpy as np
import pytest

from tarvis_jax.model.position_encoding import sine_2d, sine_3d


def sine(position: float, feature: int, num_features: int) -> float:
    angle = position / 10000 ** (2 * (feature // 2) / num_features)
    return math.cos(angle) if feature % 2 else math.sin(angle)


def scaled(index: int, length: int) -> float:
    return (index + 1) / (length + 1e-6) * 2 * math.pi


@pytest.mark.parametrize("normalize", [True, False])
def test_sine_2d(normalize):
    height, width, channels = 3, 5, 8
    found = sine_2d(height, width, channels, normalize=normalize)
    expected = np.empty((height, width, channels))
    for y in range(height):
        for x in range(width):
            y_position, x_position = (scaled(y, height), scaled(x, width)) if normalize else (y + 1, x + 1)
            for c in range(4):
                expected[y, x, c] = sine(y_position, c, 4)
                expected[y, x, 4 + c] = sine(x_position, c, 4)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sine_3d_adds_time_over_all_features():
    num_frames, height, width, channels = 4, 2, 3, 8
    found = np.asarray(sine_3d(num_frames, height, width, channels))
    assert found.shape == (num_frames, height, width, channels)
    for t in range(num_frames):
        time = [sine(scaled(t, num_frames), c, channels) for c in range(channels)]
        np.testing.assert_allclose(
            found[t] - sine_2d(height, width, channels), np.broadcast_to(time, (2, 3, 8)), atol=1e-6
        )


def test_odd_channels_are_an_error():
    with pytest.raises(ValueError, match="multiple of 4.*found 6"):
        sine_2d(2, 2, 6)
