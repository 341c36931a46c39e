"""Results in a zip, as servers take them. They may come from anyone."""

import contextlib
import lzma
import pathlib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from input_pipeline.workspace import join

MAX_FILES = 200_000  # an official split has at most some ten thousand frames
MAX_BYTES = 2**34
_BLOCK = 2**20
_NO_RESULTS = "__MACOSX/"  # what the Finder puts beside the files
# What zipfile raises for archives that are broken, encrypted or compressed by a method that it does not know.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError),
    *(OSError, RuntimeError, NotImplementedError, ValueError),
)


@contextlib.contextmanager
def unpacked(results: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary folder with the files of a zip, or its only file.

    ValueErrors that are raised within the context name the zip in place of the folder.

    Raises:
      ValueError: a zip that is broken or encrypted, that has a name which leaves the folder or occurs twice, a zip
        within it, more than `MAX_FILES` files or more than `MAX_BYTES` bytes, or more than the disk has room for.
    """
    with tempfile.TemporaryDirectory(prefix="tarvis_jax-results-") as name:
        folder = pathlib.Path(name)
        _unpack(results, folder)
        files = [each for each in folder.rglob("*") if not each.is_dir()]
        path = files[0] if len(files) == 1 else folder
        try:
            yield path
        except ValueError as error:
            raise ValueError(str(error).replace(str(folder), str(results))) from error


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    try:
        with zipfile.ZipFile(archive) as content:
            entries = [e for e in content.infolist() if not e.is_dir() and not e.filename.startswith(_NO_RESULTS)]
            paths = _paths(entries, archive, folder)
            for entry, path in zip(entries, paths, strict=True):
                _unpack_file(content, entry, path, f"{archive}, {entry.filename!r:.200}")
    except _UNREADABLE as error:
        if isinstance(error, ValueError) and str(error).startswith(str(archive)):
            raise
        raise ValueError(f"{archive}: cannot be read as a zip of results ({error!s:.200})") from error


def _paths(entries: list[zipfile.ZipInfo], archive: pathlib.Path, folder: pathlib.Path) -> list[pathlib.Path]:
    """Where the files go, all of them within the folder; ValueError if they are too much or have wrong names."""
    if not 0 < len(entries) <= MAX_FILES:
        raise ValueError(f"{archive}: expected 1..{MAX_FILES} files, found {len(entries)}")
    num_bytes, free = sum(entry.file_size for entry in entries), shutil.disk_usage(folder).free
    if num_bytes > min(MAX_BYTES, free):
        raise ValueError(
            f"{archive}: expected at most {MAX_BYTES} bytes when unpacked, and at most the {free} that {folder.parent} "
            f"has room for; found {num_bytes}"
        )
    paths: dict[pathlib.Path, None] = {}
    for entry in entries:
        if entry.filename.lower().endswith(".zip"):
            raise ValueError(f"{archive}: has a zip within it, {entry.filename!r:.200}; expected result files alone")
        path = join(folder, entry.filename, str(archive))
        if path in paths:
            raise ValueError(f"{archive}: file {entry.filename!r:.200} occurs twice")
        paths[path] = None
    return list(paths)


def _unpack_file(content: zipfile.ZipFile, entry: zipfile.ZipInfo, path: pathlib.Path, where: str) -> None:
    """Writes an ordinary file, also where the archive says that it is a link; no more bytes than it says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = entry.file_size
    with content.open(entry) as source, path.open("xb") as target:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise ValueError(f"{where}: has more than the {entry.file_size} bytes that the zip says")
            target.write(block)
