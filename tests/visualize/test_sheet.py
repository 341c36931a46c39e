import numpy as np
import pytest

from tarvis_jax.visualize.sheet import contact_sheet, fit_scale


def test_every_image_is_whole_in_the_sheet():
    sizes = [[(10, 20), (14, 30)], [(8, 40)]]
    images = [
        [np.full((*size, 3), 10 * (r + 2 * c), np.uint8) for c, size in enumerate(row)] for r, row in enumerate(sizes)
    ]
    sheet = contact_sheet(images)
    assert sheet.shape == (14 + 4 + 8, 20 + 4 + 30, 3)
    assert (sheet[:10, :20] == 0).all() and (sheet[:14, 24:] == 20).all() and (sheet[18:, :40] == 10).all()
    assert (sheet[14:18] == 255).all()


def test_no_image():
    with pytest.raises(ValueError, match=r"found \[1, 0\]"):
        contact_sheet([[np.zeros((2, 2, 3), np.uint8)], []])


@pytest.mark.parametrize("width, expected", [(96, 4.0), (240, 1.0), (400, 1.0), (1920, 400 / 1920)])
def test_scale(width, expected):
    assert fit_scale(width) == expected
