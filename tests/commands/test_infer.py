"""The command line's inference goes through the same model and session as the Python interface."""

import json

import cv2
import numpy as np
import pytest

from tarvis_jax.commands.infer import read_targets, segment_input
from tarvis_jax.masks import rle
from tarvis_jax.results.tracks import read_tracks
from tests import tiny


def test_a_shared_model_with_named_targets(tmp_path):
    model = tiny.make_model()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "frames").mkdir()
    frames = tiny.noise_video(2)
    for t, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"frames/{t}.png"), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    mask = np.zeros(tiny.SIZE, bool)
    mask[10:30, 10:30] = True
    targets = [
        {"id": "dog", "frame": 1, "mask": rle.encode(~mask)},  # corrects the one after
        {"id": "dog", "frame": 0, "mask": rle.encode(mask)},
        {"id": 7, "frame": 1, "point_yx": [5, 6]},
    ]
    (tmp_path / "targets.json").write_text(json.dumps(targets))
    segment_input(
        str(tmp_path / "model"),
        str(tmp_path / "frames"),
        str(tmp_path / "out"),
        "DAVIS",
        str(tmp_path / "targets.json"),
    )
    session = model.session("vos")
    session.add_target(0, "dog", mask=mask)
    session.correct_target(1, "dog", mask=~mask)
    session.add_target(1, 7, point_yx=(5, 6))
    list(session.run(frames))
    assert read_tracks(tmp_path / "out/tracks.json").tracks == session.result().tracks
    assert not (tmp_path / "out/masks").exists()  # a palette PNG cannot hold "dog"
    (tmp_path / "targets.json").write_text(json.dumps([targets[1], targets[1]]))
    with pytest.raises(ValueError, match="target 'dog': given twice in frame 0"):
        segment_input(
            str(tmp_path / "model"),
            str(tmp_path / "frames"),
            str(tmp_path / "out"),
            "DAVIS",
            str(tmp_path / "targets.json"),
        )
    with pytest.raises(ValueError, match="--dataset=COCO: expected one of .*'DAVIS'"):
        segment_input(str(tmp_path / "model"), str(tmp_path / "frames"), str(tmp_path / "out"), "COCO")


def test_bad_targets(tmp_path):
    path = tmp_path / "targets.json"
    for content, message in (
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list of targets, found dict"),
        ('[{"id": 1}]', r"\[0\]: expected keys id, frame and either mask or point_yx"),
        ('[{"id": 1, "frame": 0, "point_yx": [1, 2], "color": 3}]', r"unknown keys \['color'\]"),
        (
            '[{"id": 1, "frame": "0", "point_yx": [1, 2]}]',
            r"\[0\]: frame: expected a whole number .*found '0'",
        ),
        ('[{"id": [1], "frame": 0, "point_yx": [1, 2]}]', r"id: expected a whole number or a text, found \[1\]"),
        ('[{"id": 1, "frame": 0, "point_yx": [1]}]', r"point_yx: expected two numbers \[y, x\], found \[1\]"),
        ('[{"id": 1, "frame": 0, "mask": 3}]', "mask: expected an image file or an RLE, found 3"),
        ('[{"id": 1, "frame": 0, "mask": "../a.png"}]', "mask: expected a file in .* or below, found '../a.png'"),
        ('[{"id": 1, "frame": 0, "mask": {"size": [9, 0], "counts": "a"}}]', r"size of the mask: .*found \[9, 0\]"),
        ('[{"id": 1, "frame": 0, "mask": {"size": [9, 9], "counts": "5"}}]', "runs of the RLE add up to 5 pixels"),
        ('[{"id": 1, "frame": 0, "mask": "nowhere.png"}]', "nowhere.png cannot be read as an image"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_targets(path)
