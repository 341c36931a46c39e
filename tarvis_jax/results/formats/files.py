"""Files and folders of results: written under a temporary name, read as untrusted."""

import contextlib
import io
import json
import os
import pathlib
import platform
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

_DATE = (1980, 1, 1, 0, 0, 0)  # of the entries of a zip, so that equal results make equal files
_MAX_BYTES = 2**32  # of a JSON


@contextlib.contextmanager
def whole_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to write to, which becomes `output` if all goes well and is removed if not.

    What a killed process has left of such a folder is removed by the next one that writes the same.

    Raises:
      ValueError: `output` is there and has a file that the new folder has not, which would be lost; or is no folder.
    """
    output = pathlib.Path(output)
    if output.name in ("", "..") or (output.exists() and not output.is_dir()):
        found = "a file" if output.is_file() else "no name of its own"
        raise ValueError(f"{output}: expected a folder for result files, found {found}")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(output)
    partial.mkdir()
    try:
        yield partial
        other = sorted(set(_files_in(output)) - set(_files_in(partial))) if output.is_dir() else []
        if other:
            raise ValueError(
                f"{output}: the folder has {len(other)} files that are none of these results, such as {other[0]}; "
                "choose another folder or empty it"
            )
        if output.is_dir():
            shutil.rmtree(output)
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file to write to, which becomes `path` if all goes well and is removed if not."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _partial(path: pathlib.Path) -> pathlib.Path:
    """The temporary name of `path`, which is free; removes what processes of this machine that are dead had of it."""
    start, number = f"{path.name}.partial-{platform.node()}-", str(os.getpid())
    for other in path.parent.iterdir():
        process = other.name.removeprefix(start)
        if process == other.name or not re.fullmatch("[1-9][0-9]{0,9}", process):
            continue
        if process == number or not _is_running(int(process)):
            if other.is_dir() and not other.is_symlink():
                shutil.rmtree(other, ignore_errors=True)
            else:
                other.unlink(missing_ok=True)
    return path.with_name(start + number)


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def write_zip(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Writes `path` with everything in `folder`, by names relative to it and in their order."""
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w") as archive:
        for name in _files_in(folder):
            # PNGs are compressed already.
            kind = zipfile.ZIP_STORED if name.endswith(".png") else zipfile.ZIP_DEFLATED
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type, entry.external_attr = kind, 0o644 << 16
            with (folder / name).open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
    return path


def zip_beside(output: pathlib.Path) -> pathlib.Path:
    """`output`.zip."""
    return output.with_name(f"{output.name}.zip")


def write_json_list(path: pathlib.Path, key: str, entries: Iterable[Any], rest: dict[str, Any]) -> None:
    """Writes {`key`: [entries], **rest} without holding the entries; `rest` is looked at after the last of them."""
    with path.open("w") as file:
        file.write(f"{{{json.dumps(key)}: ")
        write_list(file, entries)
        for name, value in rest.items():
            file.write(f", {json.dumps(name)}: {json.dumps(value)}")
        file.write("}")


def write_list(file: io.TextIOBase, entries: Iterable[Any]) -> None:
    """Writes a JSON list, one entry after the other."""
    file.write("[")
    for i, entry in enumerate(entries):
        file.write((",\n" if i else "") + json.dumps(entry, allow_nan=False))
    file.write("]")


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON; ValueError for a file that is none."""
    path = pathlib.Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"{path}: expected at most {_MAX_BYTES} bytes, found {path.stat().st_size}")
        return json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file that can be read ({error})") from error


def get(entry: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`entry[key]`; ValueError unless `entry` is a dictionary that has it, of this type (bools are no ints)."""
    found = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(found, kind) or isinstance(found, bool):
        names = kind.__name__ if isinstance(kind, type) else " or ".join(each.__name__ for each in kind)
        shown = f"{key} = {found!r}" if isinstance(entry, dict) else repr(entry)
        raise ValueError(f"{where}: expected {key} of type {names}, found {shown:.100}")
    return found


def check_name(name: str, where: str) -> None:
    """Raises ValueError for what is no name of a file or folder, or leads out of the folder that it is meant for."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ValueError(f"{where}: expected a name, or names with / between them, found {name!r:.80}")


def inside(folder: pathlib.Path, name: str, where: str) -> pathlib.Path:
    """A path below `folder` by a name that a file says; ValueError for one that leads out of it."""
    check_name(name, where)
    return folder / name


def video_folders(root: pathlib.Path, depth: int = 1) -> list[tuple[str, list[pathlib.Path]]]:
    """(Name of the video, its PNGs in order) of every folder with PNGs at a depth below `root`; ValueError for none."""
    root = pathlib.Path(root)
    pattern = "/".join("*" * depth)
    found = []
    for folder in sorted(root.glob(pattern)) if root.is_dir() else ():
        names = sorted(folder.glob("*.png")) if folder.is_dir() else []
        if names:
            found.append((folder.relative_to(root).as_posix(), names))
    if not found:
        raise ValueError(f"{root}: expected a folder for each video with a PNG for each frame, found none")
    return found


def _files_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
