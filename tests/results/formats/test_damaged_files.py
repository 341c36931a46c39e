"""Readers take damaged files as one ValueError: every value of every JSON is replaced by others, in turn."""

import copy
import json
import random

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.masks import rle
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options
from tests.results.formats.test_formats import case

JSONS = {
    "ytvis": "results.json",
    "burst": "results.json",
    "cityscapes_vps": "pred.json",
    "vipseg": "pred.json",
    "coco_video": "annotations.json",
    "datumaro": "annotations/default.json",
}
OTHERS = (None, -1, 0, 2**70, 1.5, True, "", "../x", [], [1], {}, {"id": 1})


def read_all(name, folder, options):
    for video in formats.module(name).read(folder, options):
        video.load()


def places(value, path=()):
    """Every value in a JSON, of long lists the first two entries alone."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(content, path, value):
    content = copy.deepcopy(content)
    if not path:
        return value
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if value is KeyError:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return content


@pytest.mark.parametrize("name", JSONS)
def test_json(name, tmp_path):
    videos, options, _ = case(name, tmp_path)
    formats.module(name).write(tmp_path / "out", videos, options)
    file = tmp_path / "out" / JSONS[name]
    content = json.loads(file.read_text())
    rng = random.Random(0)
    every = [
        (path, other) for path in places(content) for other in (*OTHERS, KeyError) if path or other is not KeyError
    ]
    refused = 0
    for path, other in rng.sample(every, min(len(every), 60)):
        file.write_text(json.dumps(changed(content, path, other)))
        try:
            read_all(name, tmp_path / "out", options)
        except ValueError as error:
            refused += 1
            assert str(tmp_path / "out") in str(error) or "video" in str(error), error
    assert refused > 20
    for text in ("", "{", "[" * 100_000, '{"a": "\ud800"}'.encode("utf-8", "surrogatepass")):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match="not a JSON file that can be read"):
            read_all(name, tmp_path / "out", options)


@pytest.mark.parametrize("name", ["cvat_video", "mots_txt"])
def test_text(name, tmp_path):
    """Single characters are replaced, lines removed and doubled."""
    videos, options, _ = case(name, tmp_path)
    formats.module(name).write(tmp_path / "out", videos[:1], options)
    (file,) = (path for path in (tmp_path / "out").rglob("*") if path.is_file())
    text = file.read_text()
    rng, refused = random.Random(0), 0
    for i in range(60):
        at = rng.randrange(len(text))
        lines = text.splitlines(keepends=True)
        line = rng.randrange(len(lines))
        choices = (
            text[:at] + rng.choice('0-9.<>"& x/') + text[at + 1 :],
            text[:at],
            "".join(lines[:line] + lines[line + 1 :]),
            "".join(lines[: line + 1] + lines[line:]),
        )
        file.write_text(choices[i % 4])
        try:
            read_all(name, tmp_path / "out", options)
        except ValueError as error:
            refused += 1
            assert str(file) in str(error), error
    assert refused > 15


PNGS = ("davis2017", "mose", "youtube_vos", "kitti_step", "vspw", "mots", "vipseg", "cityscapes_vps")


@pytest.mark.parametrize("name", PNGS)
def test_bytes_of_pngs(name, tmp_path):
    """Single bytes are replaced, and the end is cut off."""
    videos, options, _ = case(name, tmp_path)
    formats.module(name).write(tmp_path / "out", videos[:1] if name != "cityscapes_vps" else videos, options)
    file = sorted((tmp_path / "out").rglob("*.png"))[1]
    content = file.read_bytes()
    rng, refused = random.Random(0), 0
    for i in range(36):
        at = rng.randrange(len(content))
        file.write_bytes(content[:at] + (b"" if i % 3 == 0 else bytes([rng.randrange(256)]) + content[at + 1 :]))
        try:
            read_all(name, tmp_path / "out", options)
        except ValueError as error:
            refused += 1
            assert file.name in str(error) and "\n" not in str(error), error
    assert refused > 15


@pytest.mark.parametrize("name", ["davis2017", "youtube_vos", "kitti_step", "vspw", "mots", "vipseg"])
def test_pngs(name, tmp_path):
    videos, options, _ = case(name, tmp_path)
    formats.module(name).write(tmp_path / "out", videos, options)
    file = sorted((tmp_path / "out").rglob("*.png"))[1]
    content = file.read_bytes()
    for damaged in (b"", content[:50], b"GIF89a" + content[6:], content[: len(content) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=file.name):
            read_all(name, tmp_path / "out", options)
    Image.fromarray(np.zeros((3, 4, 4), np.uint8)).save(file)
    with pytest.raises(ValueError, match=rf"{file.name}: expected a PNG of kind"):
        read_all(name, tmp_path / "out", options)
    pixels = np.asarray(Image.open(sorted((tmp_path / "out").rglob("*.png"))[0]))
    Image.fromarray(np.zeros((3, 5, *pixels.shape[2:]), pixels.dtype)).save(file)
    with pytest.raises(ValueError, match=rf"{file.name}: expected 24 x 40 pixels as before"):
        read_all(name, tmp_path / "out", options)
    with pytest.raises(ValueError, match="expected a folder for each video|not a JSON file"):
        read_all(name, tmp_path / "nowhere", options)


def test_work_is_bounded(tmp_path):
    """A few lines may not ask for a list of a million frames for each of thousands of tracks."""
    counts = rle.encode(np.zeros((4, 4)))["counts"]
    lines = [f"999999 {1000 + i} 1 4 4 {counts}\n" for i in range(999)]
    (tmp_path / "a.txt").write_text("".join(lines))
    with pytest.raises(ValueError, match=r"a.txt: 999 tracks of 1000000 frames; expected at most"):
        read_all("mots_txt", tmp_path, Options())


def test_doctype_is_refused(tmp_path):
    videos, options, _ = case("cvat_video", tmp_path)
    formats.module("cvat_video").write(tmp_path / "out", videos[:1], options)
    file = tmp_path / "out" / videos[0].id / "annotations.xml"
    file.write_text(file.read_text().replace("<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>', 1))
    with pytest.raises(ValueError, match="expected XML without a document type"):
        read_all("cvat_video", tmp_path / "out", options)
