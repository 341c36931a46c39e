"""Overlays: what is drawn lies where it should, and what is written can be read."""

import cv2
import numpy as np
import pytest

from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import Track, VideoResult, encode_semantic
from tarvis_jax.visualize import overlay
from tarvis_jax.visualize.overlay import color, draw_overlay, draw_result


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_colors_are_stable_and_distinct():
    colors = np.array([color(i) for i in range(1, 22)], float)
    assert color("dog") == color("dog") and color(3) == color(24)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e3 * np.eye(21)
    assert distances.min() > 40
    assert colors.min() >= 0 and colors.max() <= 255


# Linear RGB as seen without red, green or blue cones (Machado et al., 2009).
CONES_MISSING = {
    "red": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "green": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "blue": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("missing", CONES_MISSING)
def test_the_first_colors_differ_for_the_color_blind(missing):
    value = np.array([color(i) for i in range(1, 8)]) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(CONES_MISSING[missing]).T, 0, 1)
    seen = 255 * np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 1e3 * np.eye(7)
    assert distances.min() > 25


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance 0..1 of sRGB [..., 3], as WCAG 2 defines it."""
    value = np.asarray(rgb) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("first", [1, 8, 15])
def test_names_can_be_read_on_every_color(boxes, first):
    """The contrast of text and plate is at least 4.5 (WCAG 2, level AA)."""
    masks = {first + i: square(8 * (i // 4), 24 * (i % 4), 6) for i in range(7)}
    image = draw_overlay(np.full((64, 96, 3), 128, np.uint8), masks, labels=dict.fromkeys(masks, "HIM"), scale=8)
    for identity, (left, top, right, bottom) in zip(reversed(masks), boxes, strict=True):
        plate = luminance(image[top + 2 : bottom - 2, left + 2 : right - 2]).ravel()
        assert (image[top + 2, left + 2] == color(identity)).all()
        assert (plate.max() + 0.05) / (plate.min() + 0.05) >= 4.5


def test_tracks_of_one_color_have_contours_and_names(texts):
    """Colors repeat, and not everybody sees them: touching tracks are told apart without them."""
    assert color(2) == color(23)
    frame = np.full((64, 96, 3), 60, np.uint8)
    image = draw_overlay(frame, {2: square(20, 20), 23: square(20, 40)}, labels={2: "car 2", 23: "car 23"}, scale=4)
    inside, border = luminance(image[140, 120]), luminance(image[140, 156:164])
    assert (border.max() + 0.05) / (inside + 0.05) > 2, "a line where one ends and the other begins"
    assert texts == [(["car 2", "car 23"], [])]


def test_masks_are_blended_where_they_are():
    frame = np.full((64, 96, 3), 100, np.uint8)
    mask = square(10, 10)
    image = draw_overlay(frame, {5: mask}, alpha=0.25)
    assert (frame == 100).all(), "the frame itself is left alone"
    outside = ~cv2.dilate(mask.view(np.uint8), np.ones((5, 5), np.uint8)).view(bool)
    assert (image[outside] == 100).all()
    np.testing.assert_allclose(image[20, 20], 75 + 0.25 * np.array(color(5)), atol=0.51)
    np.testing.assert_array_equal(image[10, 20], color(5), err_msg="contour")


def test_the_later_mask_is_on_top():
    frame = np.zeros((64, 96, 3), np.uint8)
    image = draw_overlay(frame, {1: square(10, 10), 2: square(20, 20)}, alpha=1.0)
    np.testing.assert_array_equal(image[25, 25], color(2))
    np.testing.assert_array_equal(image[13, 13], color(1))


def test_labels_targets_and_scale():
    frame = np.zeros((64, 96, 3), np.uint8)
    masks = {1: square(30, 30)}
    plain = draw_overlay(frame, masks, scale=4)
    assert plain.shape == (256, 384, 3)
    labeled = draw_overlay(frame, masks, labels={1: "dog 1  .91"}, scale=4)
    changed = np.nonzero((plain != labeled).any(-1))
    assert changed[0].min() >= 90 and changed[0].max() < 120 and changed[1].min() >= 118, "above the mask"
    pointed = draw_overlay(frame, masks, targets=[Target(0, 1, point_yx=(40, 40))], scale=4)
    ys, xs = np.nonzero((plain != pointed).any(-1))
    assert abs(ys.mean() - 161.5) < 1.5 and abs(xs.mean() - 161.5) < 1.5
    outlined = draw_overlay(frame, {}, targets=[Target(0, 1, mask=square(30, 30))])
    assert (outlined[30, 30:50] == 255).all() and not outlined[35:45, 35:45].any()


@pytest.fixture
def boxes(monkeypatch):
    """The places that labels were given, in the order of placement."""
    found = []
    best_box = overlay._best_box
    monkeypatch.setattr(overlay, "_best_box", lambda *a: found.append(best_box(*a)) or found[-1])
    return found


@pytest.mark.parametrize("size", [(64, 96), (480, 854), (1080, 1920)])
def test_labels_are_inside_readable_and_apart(boxes, size):
    height, width = size
    frame = np.full((*size, 3), 90, np.uint8)
    masks = {}
    for i, (y, x) in enumerate([(0, 0), (0.9, 0.9), (0.9, 0), (0, 0.9), (0.5, 0.5), (0.5, 0.52)], start=1):
        masks[i] = np.zeros(size, bool)
        masks[i][int(y * height) : int((y + 0.1) * height), int(x * width) : int((x + 0.1) * width)] = True
    scale = -(-240 // height)
    image = draw_overlay(frame, masks, labels={i: f"car {i}  .9{i}" for i in masks}, scale=scale)
    assert image.shape == (height * scale, width * scale, 3) and len(boxes) == 6
    for k, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]
        assert bottom - top >= max(11, 0.027 * min(image.shape[:2]))
        plate = image[top:bottom, left:right].astype(int).sum(-1)
        assert plate.max() - plate.min() > 250, "ink on the plate"
        assert all(overlay._overlap(boxes[k], other) == 0 for other in boxes[:k])


def test_a_label_longer_than_the_frame_keeps_id_and_score(boxes, monkeypatch):
    written = []
    fitted = overlay._fitted
    monkeypatch.setattr(overlay, "_fitted", lambda *a: written.append(fitted(*a)) or written[-1])
    frame = np.zeros((64, 96, 3), np.uint8)
    draw_overlay(frame, {1: square(30, 30)}, labels={1: "thing" * 1000 + "\n 12  .97"}, scale=4)
    assert written[0].startswith("thing") and written[0].endswith("... 12  .97") and len(written[0]) < 50
    ((left, _, right, _),) = boxes
    assert 0 <= left < right <= 4 * 96


def test_many_labels_in_a_small_frame_still_fit(boxes):
    frame = np.zeros((64, 96, 3), np.uint8)
    image = draw_overlay(frame, {i: square(20, 20) for i in range(1, 41)}, labels={i: f"cat {i}" for i in range(1, 41)})
    assert image.shape == frame.shape and len(boxes) == 40
    assert all(0 <= left < right <= 96 and 0 <= top < bottom <= 64 for left, top, right, bottom in boxes)


def test_large_frames_can_be_drawn_smaller():
    frame = np.full((480, 640, 3), 100, np.uint8)
    mask = np.zeros((480, 640), bool)
    mask[100:300, 200:400] = True
    target = Target(0, 2, point_yx=(400, 100))
    image = draw_overlay(frame, {1: mask}, semantic=np.zeros((480, 640), int), targets=[target], alpha=1.0, scale=0.25)
    assert image.shape == (120, 160, 3)
    np.testing.assert_array_equal(image[50, 75], color(1))
    plain = draw_overlay(frame, {1: mask}, semantic=np.zeros((480, 640), int), alpha=1.0, scale=0.25)
    ys, xs = np.nonzero((image != plain).any(-1))
    assert abs(ys.mean() - 99.6) < 1.5 and abs(xs.mean() - 24.6) < 1.5


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"found float64 \(64, 96, 3\)"):
        draw_overlay(np.zeros((64, 96, 3)), {})
    with pytest.raises(ValueError, match=r"mask of id 4: expected size \(64, 96\)"):
        draw_overlay(np.zeros((64, 96, 3), np.uint8), {4: np.zeros((3, 3), bool)})


@pytest.fixture
def texts(monkeypatch):
    """What is written, as (plates, stuff)."""
    found = []
    write = overlay._write_labels

    def spy(image, plates, regions, scale):
        found.append(([text for text, *_ in plates], [text for text, _ in regions]))
        return write(image, plates, regions, scale)

    monkeypatch.setattr(overlay, "_write_labels", spy)
    return found


def test_labels_carry_class_names(texts):
    tracks = [
        Track(3, [rle.encode(square(5, 5))], [0, 1, 0], 1, 0.973),
        Track(4, [rle.encode(square(30, 60))], [0, 1, 0], 11, 1.0),
    ]
    semantic = [encode_semantic(np.arange(64)[:, None] // 32 * np.ones((64, 96), int))]
    frame = np.full((64, 96, 3), 50, np.uint8)
    draw_result(frame, VideoResult("v", "D", (64, 96), 1, tracks, semantic), 0, class_names={1: "car", 2: "sky"})
    assert texts == [(["car 3  .97", "class 11 4  1.00"], ["car", "sky"])]
    given = VideoResult("v", "DAVIS", (64, 96), 1, [Track("dog", [rle.encode(square(5, 5))])])
    draw_result(frame, given, 0)
    assert texts[1] == (["dog"], [])


def test_draw_result_shows_tracks_and_stuff():
    semantic = np.zeros((64, 96), int)
    semantic[:, 48:] = 1
    tracks = [
        Track(1, [rle.encode(square(5, 5)), None], [0, 1, 0], 1, 0.9),
        Track(2, [rle.encode(square(30, 60)), None], [0, 1, 0], 1, 0.2),
    ]
    result = VideoResult("v", "KITTI_STEP", (64, 96), 2, tracks, [encode_semantic(semantic)] * 2)
    frame = np.full((64, 96, 3), 50, np.uint8)
    image = draw_result(frame, result, 0, class_names={1: "dog"}, min_score=0.5)
    np.testing.assert_array_equal(image[60, 10], image[60, 40])
    assert (image[60, 10] != image[60, 90]).any(), "stuff is tinted by class"
    np.testing.assert_array_equal(image[40, 70], image[60, 90], err_msg="the poor track is not shown")
    assert (image[20, 20] != image[60, 10]).any()
    assert (draw_result(frame, result, 1)[20, 20] == draw_result(frame, result, 1)[60, 10]).all()
