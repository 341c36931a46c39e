"""docs/own_data.md: its commands train a tiny model on real video (made-up where there is none); its files are read."""

import json
import pathlib

import cv2
import jax
import numpy as np
import pytest

from input_pipeline import readers
from input_pipeline.own_videos import own_dataset
from tarvis_jax.api import load
from tests import tiny
from tests.conftest import ROOT, SHARED
from tests.docs.snippets import read_snippets, run_page

PAGE = "docs/own_data.md"
VIDEOS = {"dog": "animal", "libby": "animal", "car-roundabout": "vehicle"}
NUM_FRAMES, SIZE = 4, (60, 106)


def write_videos(root: pathlib.Path) -> None:
    """Three videos of DAVIS, made small, or moving rectangles; with classes.json."""
    for v, video in enumerate(VIDEOS):
        for t in range(NUM_FRAMES):
            frame, ids = _frame_of_davis(video, t) if (SHARED / "samples/davis240").is_dir() else _drawn(v, t)
            for kind, suffix, image in (("frames", "jpg", frame), ("masks", "png", ids)):
                path = root / kind / video / f"{t:05d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), image)
    objects = {video: {"1": name} for video, name in VIDEOS.items()}
    (root / "classes.json").write_text(json.dumps({"classes": ["animal", "vehicle"], "objects": objects}))


def _frame_of_davis(video: str, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Every tenth frame and the ids of its object, a quarter of the size."""
    root, name = SHARED / "samples/davis240", f"{video}/{10 * t:05d}"
    frame = cv2.imread(str(root / f"JPEGImages/480p/{name}.jpg"))
    color = cv2.imread(str(root / f"Annotations/480p/{name}.png"))  # through its palette
    small = [cv2.resize(image, SIZE[::-1], interpolation=cv2.INTER_NEAREST) for image in (frame, color)]
    return small[0], small[1].any(-1).astype(np.uint8)


def _drawn(v: int, t: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.zeros(SIZE, np.uint8)
    ids[20 : 35 + 5 * v, 10 + 5 * t : 40 + 5 * t] = 1
    return np.where(ids[..., None], (40, 200, 90 * v), 60).astype(np.uint8), ids


@pytest.mark.slow
def test_page(tmp_path, capsys, compiled_once):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_videos(tmp_path / "data" / "my_videos")
    tiny.make_model().save_pretrained(tmp_path / "checkpoint")
    writer = cv2.VideoWriter(str(tmp_path / "new.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, SIZE[::-1])
    for t in range(NUM_FRAMES):
        writer.write(cv2.imread(str(tmp_path / f"data/my_videos/frames/dog/{t:05d}.jpg")))
    writer.release()
    smaller = {
        "root=data/my_videos --finetune": "root=data/my_videos,steps=2,batch=2 --config.model.compute_dtype=float32 "
        "--config.train.tensorboard=false --config.train.demo_videos=0 --finetune"
    }
    with jax.default_prng_impl("unsafe_rbg"):  # its draws compile in half the time
        names = run_page(PAGE, tmp_path, smaller, in_process=True, examples=("json", "xml", "text"))

    printed = capsys.readouterr().out
    assert "3 videos, 12 annotated frames of 60x106 pixels, 3 objects" in printed
    assert "2 classes: animal (2 objects), vehicle (1 objects)" in printed
    run = tmp_path / "runs" / "mine"
    assert (run / "report.html").is_file() and (run / "eval/final/report.html").is_file()
    assert "MINE" in (run / "scores.txt").read_text()
    assert names["model"].config.backbone == "ResNetTiny"
    assert dict(names["model"].config.semantic_classes) == {"MINE": 2}
    assert load(tmp_path / "models/mine").datasets["MINE"].class_names == ("animal", "vehicle")
    card = (tmp_path / "models/mine/README.md").read_text()
    assert "things: " not in card and "2: animal, vehicle" in card and "Not measured" not in card
    assert "by the weights of step" in card and (tmp_path / "models/mine/report.html").is_file()
    assert {each.class_name for each in names["result"].objects} <= {"animal", "vehicle"}
    assert json.loads((tmp_path / "out/tracks.json").read_text())["num_frames"] == NUM_FRAMES
    assert [video.id for video in names["held_out"]] == ["dog"] and len(names["training"]) == 2


# Where the examples of the page lie, in their order, and the pixels of their objects in the two frames.
EXAMPLES = (
    ("classes.json", None),
    ("videos.json", {1: (0, 96)}),
    ("annotations.json", {5: (400, 96)}),
    ("annotations/default.json", {5: (400, 96)}),
    ("annotations.xml", {1: (400, 4)}),
)


def test_examples_are_read(tmp_path):
    snippets = [snippet for snippet in read_snippets(PAGE) if snippet.language in ("json", "xml")]
    for number, (snippet, (name, areas)) in enumerate(zip(snippets, EXAMPLES, strict=True)):
        root = tmp_path / f"{number}"
        frames = root / "images" if name.endswith("xml") else root / "images" / "dog"
        frames.mkdir(parents=True)
        for t in range(2):
            cv2.imwrite(str(frames / f"{t:05d}.jpg"), np.zeros((48, 64, 3), np.uint8))
        if areas is None:  # the classes of masks
            areas = {1: (9, 9), 2: (4, 4)}
            ids = np.zeros((48, 64), np.uint8)
            ids[:3, :3], ids[10:12, 10:12] = 1, 2
            (root / "masks" / "dog").mkdir(parents=True)
            for t in range(2):
                cv2.imwrite(str(root / "masks" / "dog" / f"{t:05d}.png"), ids)
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(snippet.text)
        config = own_dataset(root)
        assert config.class_names[0] == "animal"
        (video,) = readers.training_videos(config)
        assert set(video.instances) == set(areas)
        for instance, expected in areas.items():
            assert tuple(int(video.instance_mask(t, instance).sum()) for t in range(2)) == expected, name
