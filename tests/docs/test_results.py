"""docs/results.md: its commands and its Python run, and its tables have every format."""

import dataclasses
import re

import numpy as np

from tarvis_jax.masks import rle
from tarvis_jax.results import formats
from tarvis_jax.results.tracks import Track, VideoResult, write_tracks
from tests.docs.snippets import ROOT, run_page


def test_page(tmp_path, capsys):
    masks = [rle.encode(np.eye(4, 6)), None]
    objects = VideoResult("cat", "DAVIS", (4, 6), 2, [Track(3, masks)])
    write_tracks(tmp_path / "out" / "tracks.json", objects)
    animals = dataclasses.replace(objects, tracks=[Track(5, masks, class_id=2)])
    for name in ("dog", "fox"):
        write_tracks(tmp_path / "runs" / "tracks" / f"{name}.json", animals)
    frames = tmp_path / "DAVIS" / "JPEGImages" / "480p" / "cat"
    frames.mkdir(parents=True)
    for name in ("a.jpg", "b.jpg"):
        (frames / name).touch()
    module = {"-m tarvis_jax.results ": "-m tarvis_jax.results.__main__ "}
    run_page("docs/results.md", tmp_path, module, in_process=True)
    assert capsys.readouterr().out.split("\n")[:4] == ["submission", "submission.zip", "dog [5]", "fox [5]"]
    assert [path.name for path in sorted((tmp_path / "submission" / "cat").iterdir())] == ["a.png", "b.png"]


def test_tables_have_every_format():
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/results.md").read_text(), re.MULTILINE)
    assert sorted(name.strip("`") for row in rows for name in row.split(", ")) == sorted(formats.FORMATS)
