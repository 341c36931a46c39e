"""DAVIS 2017: a made-up case against the measure written out, and what becomes of malformed files."""

import itertools
import shutil

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.evaluation.benchmarks import benchmark
from tarvis_jax.evaluation.metrics import jf
from tests.evaluation import cases, oracles
from tests.evaluation.benchmarks.mutations import check_refused

EVALUATE = benchmark("davis2017").evaluate


def read(path) -> np.ndarray:
    return np.array(Image.open(path))


def test_made_up_case(tmp_path):
    cases.write_davis(tmp_path, np.random.default_rng(3), num_videos=3, num_frames=5)
    found = EVALUATE(tmp_path / "results", tmp_path / "DAVIS")
    per_frame = found["per_frame (J,F over evaluated frames, i.e. frames 1..T-2)"]
    per_object = found["per_object (M=mean, R=recall, D=decay)"]
    means = {"J": [], "F": []}
    for video, objects in per_frame.items():
        files = sorted((tmp_path / "DAVIS/Annotations/480p" / video).glob("*.png"))
        first = read(files[0])
        assert list(objects) == [str(i) for i in range(1, int(first[first != 255].max()) + 1)]
        pairs = [(read(file), read(tmp_path / "results" / video / file.name)) for file in files[1:-1]]
        for number, scores in objects.items():
            masks = [[each == int(number) for each in pair] for pair in pairs]
            expected_j = [(a & b).sum() / (a | b).sum() if (a | b).any() else 1.0 for a, b in masks]
            expected_f = [oracles.f_measure(a, b) for a, b in masks]
            assert scores["J"] == pytest.approx(expected_j, abs=1e-12)
            assert scores["F"] == pytest.approx(expected_f, abs=1e-12)
            row = per_object[f"{video}_{number}"]
            assert row["JM"] == pytest.approx(np.mean(expected_j)) and row["FM"] == pytest.approx(np.mean(expected_f))
            assert row["JR"] == np.mean([value > 0.5 for value in expected_j])
            means["J"].append(row["JM"])
            means["F"].append(row["FM"])
    assert found["expected"]["J-Mean"] == pytest.approx(np.mean(means["J"]))
    assert found["expected"]["J&F-Mean"] == pytest.approx((np.mean(means["J"]) + np.mean(means["F"])) / 2)
    assert len(means["J"]) > 4 and 0.1 < found["expected"]["F-Mean"] < 0.9
    # The same masks without lists of sequences.
    plain = EVALUATE(tmp_path / "results", tmp_path / "DAVIS/Annotations/480p")
    assert plain == found


def test_boundaries_at_the_border():
    """Masks that touch or fill the frame, where the boundary map has rules of its own."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        shape = tuple(int(side) for side in rng.integers(1, 14, 2))
        masks = []
        for _ in range(2):
            mask = np.zeros(shape, bool)
            top, left = rng.integers(0, shape)
            mask[top : top + rng.integers(1, 15), left : left + rng.integers(1, 15)] = rng.random() < 0.9
            masks.append(mask | (rng.random(shape) < 0.05))
        assert jf.boundary_accuracy(*masks) == pytest.approx(oracles.f_measure(*masks), abs=1e-12)
    assert jf.boundary_accuracy(np.ones((5, 5), bool), np.zeros((5, 5), bool)) == 1.0


@pytest.mark.parametrize("number", [1, 3, 8, 256, 300, 500])
def test_decay(number):
    """The official bounds of the quarters are bytes: beyond 256 frames they are those of other frames."""
    values = np.random.default_rng(number).random(number)
    bounds = [int(b) % 256 for b in np.round(np.linspace(1, number, 5) + 1e-10) - 1]
    first, last = values[bounds[0] : bounds[1] + 1], values[bounds[3] : bounds[4] + 1]
    expected = np.mean(first) - np.mean(last) if len(first) and len(last) else np.nan
    summary = jf.summarize([jf.ObjectScores("video", 1, values, values)])
    assert summary["J-Decay"] == pytest.approx(expected, nan_ok=True)
    assert np.isnan(summary["F-Decay"]) == (number == 300)


GT, FOUND = "DAVIS/Annotations/480p/clip-1/", "results/clip-1/"
LISTING = "DAVIS/ImageSets/2017/val.txt"


def rewrite(change):
    """A mutation of a file that changes its bytes."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


def repaint(change, **options):
    """A mutation of a PNG that changes its values, and maybe its kind."""

    def apply(path):
        image = Image.fromarray(change(read(path)))
        path.unlink()
        image.save(path, **{"format": "PNG"} | options)

    return apply


def lines(*names):
    return lambda path: path.write_text("\n".join(names))


def flip(data: bytes) -> bytes:
    """Another byte in the compressed pixels."""
    place = data.index(b"IDAT") + 10
    return data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]


def claim(data: bytes) -> bytes:
    """A header of 60000 x 60000 pixels."""
    return data[:16] + (60000).to_bytes(4, "big") * 2 + data[24:]


BROKEN_PNGS = [
    rewrite(lambda data: data[: len(data) // 2]),
    rewrite(lambda data: b""),
    rewrite(lambda data: b"no picture" * 30),
    rewrite(flip),
    rewrite(claim),
    rewrite(lambda data: data[:40]),
    repaint(lambda values: values[:-1]),
    repaint(lambda values: values.T.copy()),
    repaint(lambda values: np.stack([values] * 3, axis=-1)),
    repaint(lambda values: values.astype(np.uint16)),
    repaint(lambda values: values > 0),
]
MUTATIONS = [
    *((FOUND + "00001.png", change, FOUND + "00001.png") for change in BROKEN_PNGS),
    *((GT + "00001.png", change, "clip-1/00001.png") for change in BROKEN_PNGS),
    *((GT + "00000.png", change, GT + "00000.png") for change in (BROKEN_PNGS[0], BROKEN_PNGS[1], BROKEN_PNGS[4])),
    (FOUND + "00002.png", lambda path: path.unlink(), "00002.png"),
    (FOUND + "00002.png", lambda path: (path.unlink(), path.mkdir()), "00002.png"),
    (FOUND, shutil.rmtree, "results of sequence 'clip-1'"),
    (FOUND + "00001.png", repaint(lambda values: values | 9), "has id"),
    (FOUND + "00001.png", repaint(lambda values: np.full_like(values, 255)), "has id 255"),
    (GT, shutil.rmtree, "at least 3 masks"),
    (GT + "00000.png", lambda path: [each.unlink() for each in sorted(path.parent.iterdir())[2:]], "at least 3 masks"),
    (LISTING, lambda path: path.unlink(), "val.txt: cannot be read"),
    (LISTING, lines("clip-0", "clip-1", "clip-1"), "val.txt: sequence 'clip-1' is listed twice"),
    (LISTING, lines("clip-0", "clip-7"), "clip-7"),
    (LISTING, lines("../../../results/clip-1"), "val.txt: path '../../../results/clip-1' leaves"),
    (LISTING, lines("/etc"), "val.txt: path '/etc' leaves"),
    (LISTING, lines("clip\0"), "val.txt: expected a relative path"),
    (LISTING, rewrite(lambda data: b"\xff\xfe"), "val.txt: cannot be read"),
    (LISTING, lines(""), "no sequence has an object"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    cases.write_davis(folder, np.random.default_rng(0), num_videos=2, size=(24, 32), num_frames=4, num_objects=2)
    return folder


@pytest.mark.parametrize("file, change, message", MUTATIONS, ids=itertools.count())
def test_mutation(tiny, tmp_path, file, change, message):
    shutil.copytree(tiny, tmp_path / "case")
    change(tmp_path / "case" / file)
    check_refused(lambda: EVALUATE(tmp_path / "case/results", tmp_path / "case/DAVIS"), message)
