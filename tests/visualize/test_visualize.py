"""Overlays, videos and curves: what is drawn lies where it should, and the files play."""

import json
import logging

import av
import cv2
import numpy as np
import pytest

from tarvis_jax.masks import rle
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import Track, VideoResult, encode_semantic
from tarvis_jax.visualize import video
from tarvis_jax.visualize.curves import write_curves
from tarvis_jax.visualize.overlay import color, draw_overlay, draw_result
from tarvis_jax.visualize.video import write_video


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros((64, 96), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_colors_are_stable_and_distinct():
    colors = np.array([color(i) for i in range(1, 13)], float)
    assert color(3) == color(3)
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + 1e3 * np.eye(12)
    assert distances.min() > 40
    assert colors.min() >= 0 and colors.max() <= 255


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
    labeled = draw_overlay(frame, masks, labels={1: "1 dog 0.91"}, scale=4)
    changed = np.nonzero((plain != labeled).any(-1))
    assert changed[0].min() >= 90 and changed[0].max() <= 121 and changed[1].min() >= 118, "above the mask"
    pointed = draw_overlay(frame, masks, targets=[Target(0, 1, point_yx=(40, 40))], scale=4)
    ys, xs = np.nonzero((plain != pointed).any(-1))
    assert abs(ys.mean() - 161.5) < 1.5 and abs(xs.mean() - 161.5) < 1.5
    outlined = draw_overlay(frame, {}, targets=[Target(0, 1, mask=square(30, 30))])
    assert (outlined[30, 30:50] == 255).all() and not outlined[35:45, 35:45].any()


def test_labels_stay_inside_the_frame():
    frame = np.zeros((64, 96, 3), np.uint8)
    for top, left in ((0, 0), (44, 76)):
        image = draw_overlay(frame, {1: square(top, left)}, labels={1: "12 thing 0.5"})
        assert image.shape == frame.shape and image.any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"found float64 \(64, 96, 3\)"):
        draw_overlay(np.zeros((64, 96, 3)), {})
    with pytest.raises(ValueError, match=r"mask of id 4: expected size \(64, 96\)"):
        draw_overlay(np.zeros((64, 96, 3), np.uint8), {4: np.zeros((3, 3), bool)})


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


def frames(height: int, width: int):
    for t in range(6):
        image = np.full((height, width, 3), 40, np.uint8)
        image[:, 8 * t : 8 * t + 8] = (250, 20, 20)
        yield image


@pytest.mark.parametrize("size, written", [((64, 96), (64, 96)), ((45, 71), (46, 72))])
def test_mp4_plays(tmp_path, size, written):
    path = write_video(tmp_path / "a" / "clip.mp4", frames(*size), fps=12.5)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == 12.5
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 6 and decoded[0].shape == (*written, 3)
    reader = cv2.VideoCapture(str(path))
    assert reader.isOpened() and reader.read()[1].shape == (*written, 3)
    for t, image in enumerate(decoded):
        red = image[10, :, 0].astype(int) - image[10, :, 2]
        assert abs(np.nonzero(red > 100)[0].mean() - (8 * t + 3.5)) < 1.5


def test_without_pyav_opencv_writes_and_the_log_says_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(video, "av", None)
    with caplog.at_level(logging.WARNING):
        path = write_video(tmp_path / "clip.mp4", frames(45, 71))
    assert "PyAV is not installed" in caplog.text
    reader = cv2.VideoCapture(str(path))
    shapes = []
    while (image := reader.read())[0]:
        shapes.append(image[1].shape)
    assert shapes == [(46, 72, 3)] * 6


def test_video_errors(tmp_path):
    with pytest.raises(ValueError, match="no frame to write"):
        write_video(tmp_path / "clip.mp4", [])
    with pytest.raises(ValueError, match="frame 1: expected uint8"):
        write_video(tmp_path / "clip.mp4", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)])
    with pytest.raises(ValueError, match="fps should be above 0"):
        write_video(tmp_path / "clip.mp4", frames(8, 8), fps=0)


def test_curves(tmp_path):
    lines = [json.dumps({"step": s, "loss": 5 * 0.97**s, "lr": 1e-4, "gap": None}) for s in range(100)]
    path = write_curves(tmp_path / "curves.png", [json.loads(line) for line in lines])
    image = cv2.imread(str(path))
    assert image.shape == (220, 3 * 360, 3)
    loss = image[30:194, 2 * 0 + 360 + 58 : 2 * 360 - 12]  # second of gap, loss, lr
    dark = (np.abs(loss.astype(int) - (190, 80, 40)).sum(-1) < 60).nonzero()
    left, right = dark[0][dark[1] < 60].mean(), dark[0][dark[1] > 220].mean()
    assert right - left > 60, "the curve falls"
    with pytest.raises(ValueError, match=r"no values of \['los'\].*known are \['gap', 'loss', 'lr'\]"):
        write_curves(tmp_path / "x.png", [json.loads(line) for line in lines], ["los"])
    with pytest.raises(ValueError, match="no values of anything in 0 entries"):
        write_curves(tmp_path / "x.png", [])
