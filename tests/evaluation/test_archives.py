"""Zips of results give the scores of what is in them, and hostile ones are refused."""

import json
import pathlib
import stat
import tempfile
import zipfile

import numpy as np
import pytest

from tarvis_jax.evaluation import archives
from tarvis_jax.evaluation.__main__ import main
from tarvis_jax.evaluation.benchmarks import benchmark
from tarvis_jax.results.formats import files
from tests.evaluation import cases, panoptic_cases

WRITERS = {
    "ytvis": lambda folder, rng: cases.write_tracks(folder, rng, with_occlusion=False),
    "davis2017": cases.write_davis,
    "burst": cases.write_burst,
    "cityscapes_vps": lambda folder, rng: panoptic_cases.write_cityscapes_vps(folder, rng, num_videos=1, size=(9, 12)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_scores_are_those_of_the_files(name, tmp_path, monkeypatch):
    """Of the zips that our writers make of a folder, and nothing is left in the temporary folder."""
    (tmp_path / "case").mkdir()
    (tmp_path / "temporary").mkdir()
    WRITERS[name](tmp_path / "case", np.random.default_rng(0))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    results, gt = (tmp_path / "case" / benchmark(name).CASE[key] for key in ("results", "gt"))
    folder = results
    if results.is_file():
        folder = tmp_path / "alone"
        folder.mkdir()
        (folder / results.name).write_bytes(results.read_bytes())
    archive = files.write_zip(tmp_path / "results.zip", folder)
    for path in (results, archive):
        main([name, "--results", str(path), "--gt", str(gt), "--json", str(tmp_path / f"{path.suffix}.json")])
    expected = json.dumps(json.loads((tmp_path / f"{results.suffix}.json").read_text()))
    assert json.dumps(json.loads((tmp_path / ".zip.json").read_text())) == expected
    assert not list((tmp_path / "temporary").iterdir())


def test_messages_name_the_zip(tmp_path):
    cases.write_davis(tmp_path, np.random.default_rng(0))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/readme.txt").write_text("")
    (tmp_path / "empty/more.txt").write_text("")
    archive = files.write_zip(tmp_path / "results.zip", tmp_path / "empty")
    with pytest.raises(ValueError, match=rf"^{archive}/[^/]*: there is no such folder, expected the results of"):
        main(["davis2017", "--results", str(archive), "--gt", str(tmp_path / "DAVIS")])


def damage(path: pathlib.Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def write(path: pathlib.Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"content of a file")


HOSTILE = {
    "parent": (("../a",), "path '../a' leaves its root"),
    "hidden parent": (("a/../../b",), "path 'a/../../b' leaves its root"),
    "absolute": (("/etc/a",), "path '/etc/a' leaves its root"),
    "only folders": (("a/",), "expected 1..4 files, found 0"),
    "many files": (("a", "b", "c", "d", "e"), "expected 1..4 files, found 5"),
    "many bytes": (("a", "b", "c"), "expected at most 40 bytes when unpacked"),
    "nested": (("a", "b.ZIP"), "has a zip within it, 'b.ZIP'"),
    "the same file": (("a/b", "a/./b"), "file 'a/./b' occurs twice"),
    "file and folder": (("a", "a/b"), "cannot be read as a zip of results"),
    "long name": (("a" * 5000,), "expected a relative path"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_names_and_sizes(what, tmp_path, monkeypatch):
    names, message = HOSTILE[what]
    monkeypatch.setattr(archives, "MAX_FILES", 4)
    monkeypatch.setattr(archives, "MAX_BYTES", 40)
    write(tmp_path / "results.zip", *names)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"content of a file", b"other words here.", "Bad CRC-32"),
        (b"PK\x03\x04", b"PK\x03\x00", "cannot be read as a zip"),
        (b"\x11\0\0\0\x11\0\0\0", b"\x09\0\0\0\x09\0\0\0", "cannot be read as a zip"),
        (b"PK\x01\x02\x14\x03\x14\0\0\0", b"PK\x01\x02\x14\x03\x14\0\x01\0", "encrypted"),
        (b"PK\x01\x02\x14\x03\x14\0\0\0\0\0", b"PK\x01\x02\x14\x03\x14\0\0\0\x63\0", "compression"),
    ],
)
def test_broken_archives(old, new, message, tmp_path):
    write(tmp_path / "results.zip", "a")
    damage(tmp_path / "results.zip", old, new)
    refused(tmp_path, message)


def refused(folder: pathlib.Path, message: str) -> None:
    archive = folder / "results.zip"
    before = sorted(folder.iterdir())
    with pytest.raises(ValueError) as caught, archives.unpacked(archive):
        pass
    assert str(caught.value).startswith(str(archive)) and message in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_links_are_written_as_files(tmp_path):
    """What the archive calls a link to another file is a file with that text."""
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "results.zip", "w") as archive:
        archive.writestr(entry, "/etc/passwd")
        archive.writestr("__MACOSX/._link", "x")
    with archives.unpacked(tmp_path / "results.zip") as path:
        assert path.name == "link" and not path.is_symlink() and path.read_text() == "/etc/passwd"


def test_what_is_no_zip(tmp_path):
    (tmp_path / "results.zip").write_text("[]")
    refused(tmp_path, "File is not a zip file")
    (tmp_path / "results.zip").unlink()
    refused(tmp_path, "No such file")
