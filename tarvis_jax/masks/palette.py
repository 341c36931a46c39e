"""The colors of id maps in PASCAL VOC's and DAVIS's palette PNGs."""

import numpy as np


def palette() -> np.ndarray:
    """The 256 colors, uint8 [256, 3]: an id's bits spread over R, G, B, high bits first."""
    ids = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors
