"""Where the files of the datasets lie, and one clear error for each way in which they can be missing or malformed.

All data live under one folder, `$TARVIS_WORKSPACE_DIR` (the tree is in docs/data.md of the project and in the released
readme of TarViS); a config may name another folder, or absolute paths. Names that come out of a dataset's own files
are not trusted: they may not leave the folder they belong to.
"""

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from input_pipeline import frame_limits

WORKSPACE_VARIABLE = "TARVIS_WORKSPACE_DIR"  # `run_config.settle` puts it into a config that names no folder

_LONGEST_PATH = 4096  # characters
# Names in the original's later readme -> in its earlier one.
_SPELLINGS = (
    ("dataset_annotations/", "dataset_annotation/"),
    ("training/kitti_step.json", "training/kitti_step_train.json"),
    ("training/cityscapes_vps.json", "training/cityscapes_vps_train.json"),
)


def workspace_root(workspace: str = "") -> pathlib.Path:
    """The workspace folder of a config.

    Raises:
      ValueError: it is empty, or the folder does not exist.
    """
    if not workspace:
        raise ValueError(
            f"workspace: not set; expected a folder with dataset_images/ and dataset_annotations/, given by "
            f"config.data.workspace or by the environment variable {WORKSPACE_VARIABLE}"
        )
    root = pathlib.Path(workspace).expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"workspace: {root} (from config.data.workspace) is not an existing folder")
    return root


def resolve(path: str, workspace: str, *, dataset: str, key: str, kind: str) -> pathlib.Path:
    """A path of a config as an absolute path that exists.

    Args:
      path: absolute, or relative to the workspace.
      workspace: see `workspace_root`; not looked at when `path` is absolute.
      dataset, key: named in errors (the key of the dataset's config that holds the path).
      kind: "file" or "folder".
    Raises:
      ValueError: empty, absent, of the other kind, or a relative path that leaves the workspace.
    """
    where = f"dataset {dataset}, {key}"
    if not path:
        raise ValueError(f"{where}: no path given, expected a {kind}")
    candidates = _candidates(path, workspace, where)
    full = next((each for each in candidates if each.exists()), candidates[0])
    present = full.is_file() if kind == "file" else full.is_dir()
    if not present:
        found = "it does not exist" if not full.exists() else f"it is not a {kind}"
        others = f" (nor {', '.join(map(str, candidates[1:]))})" if len(candidates) > 1 and not full.exists() else ""
        raise ValueError(f"{where}: expected a {kind} at {full}, but {found}{others}")
    return full


def find(path: str, workspace: str) -> pathlib.Path | None:
    """The path of a config as `resolve` gives it; None if it is empty or nothing is there."""
    candidates = _candidates(path, workspace, path) if path else []
    return next((each for each in candidates if each.exists()), None)


def _candidates(path: str, workspace: str, where: str) -> list[pathlib.Path]:
    """Where a path of a config may be: under its name and, in the workspace, under those of the earlier readme."""
    if os.path.isabs(path):
        return [pathlib.Path(path)]
    root, names = workspace_root(workspace), [path]
    for later, earlier in _SPELLINGS:
        names += [name.replace(later, earlier) for name in names if later in name]
    return [join(root, name, where) for name in names]


def join(root: pathlib.Path, name: Any, where: str) -> pathlib.Path:
    """`root / name`, for a name read from a file; a ValueError if it is no relative path inside `root`."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_PATH or "\0" in name:
        raise ValueError(f"{where}: expected a relative path, found {name!r:.80}")
    normal = os.path.normpath(name)
    # Only the text is checked, so that links inside the folder may point to another disk.
    if os.path.isabs(normal) or normal == os.pardir or normal.startswith(os.pardir + os.sep):
        raise ValueError(f"{where}: path {name!r} leaves its root {root}")
    return root / normal


def load_text(path: pathlib.Path) -> str:
    """The text of a file in UTF-8; a ValueError if there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def load_json(path: pathlib.Path, *, with_runs: bool = False) -> Any:
    """Parsed JSON; a ValueError with path and position if it is no JSON.

    Args:
      with_runs: the file holds masks as lists of runs. Such lists become int32 arrays if they are long: as Python's
        integers, those of YouTube-VIS would need many gigabytes and five times as long. Every value of a key that is a
        list of more than 16 integers from 1 to 2^31 - 1, of which the first may also be 0, counts as a list of runs.
    """
    try:
        content = path.read_bytes()
        found = _parse_runs_apart(content) if with_runs and _NOT_A_NUMBER not in content else None
        return _parse(content) if found is None else found
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number of too many digits, nested too deep
        raise ValueError(f"{path}: not valid JSON ({error})") from error


_NOT_A_NUMBER = b"NaN"
_RUNS = re.compile(rb":W\[W((?:0,W)?+(?:[1-9][0-9]*+,W){16,}+[1-9][0-9]*+)W\]".replace(b"W", rb"[ \t\r\n]*+"))


def _parse_runs_apart(content: bytes) -> Any:
    """A file without NaN; None if it is wrong, or if something within a text looks like a list of runs.

    NumPy parses the lists of runs. JSON's parser gets the rest, in which a NaN stands for each of them.
    """
    lists = []

    def take(match: re.Match[bytes]) -> bytes:
        array = np.fromstring(match[1], np.int64, sep=",")  # larger numbers become the largest of 64 bits
        if array.max() >= 2**31:
            return match[0]
        lists.append(array.astype(np.int32))
        return b":" + _NOT_A_NUMBER

    rest = _RUNS.sub(take, content)
    left = iter(lists)
    try:
        found = _parse(rest, lambda name: float(name) if name.endswith("Infinity") else next(left))
    except (ValueError, RecursionError):  # whose message has to name the place in the file
        return None
    return found if next(left, None) is None else None


def _parse(content: bytes, parse_constant: Callable[[str], Any] | None = None) -> Any:
    text = content.decode("utf-8-sig")  # with or without the mark that some tools write first
    return json.loads(text, object_pairs_hook=_object, parse_constant=parse_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"an object has two values of key {next(key for key in keys if keys.count(key) > 1)!r:.80}")
    return mapping


def get(mapping: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """`mapping[key]`, checked to be of type `kind`; `where` names the file and the place in it."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    names = "/".join(k.__name__ for k in kinds)
    if not isinstance(mapping, dict):
        raise ValueError(f"{where}: expected an object with key {key!r}, found {type(mapping).__name__}")
    if key not in mapping:
        raise ValueError(f"{where}: key {key!r} is missing, expected a value of type {names}")
    value = mapping[key]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        value = value.tolist() if isinstance(value, np.ndarray) else value
        raise ValueError(f"{where}: key {key!r} should be of type {names}, found {type(value).__name__} {value!r:.80}")
    return value


def get_size(mapping: Any, where: str) -> tuple[int, int]:
    """`height` and `width` of `mapping`, in pixels, checked to be those of an image that can be worked on."""
    height, width = (get(mapping, key, int, where) for key in ("height", "width"))
    frame_limits.check_size(height, width, where)
    return height, width


def check_items(values: Iterable[Any], kind: type, where: str) -> None:
    """Raises ValueError unless all values of a list are of type `kind`."""
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise ValueError(
                f"{where}[{i}]: expected a value of type {kind.__name__}, found {type(value).__name__} {value!r:.80}"
            )


def to_id(value: Any, where: str) -> int:
    """An instance or class id that JSON may hold as text."""
    if type(value) is int or isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,18}", value):
        return int(value)
    raise ValueError(f"{where}: expected an integer id, found {value!r:.80}")


def check_files(paths: list[pathlib.Path], where: str) -> None:
    """One ValueError that names the first absent files and their number."""
    missing = [path for path in paths if not os.path.isfile(path)]  # false, too, for names that no file can have
    if missing:
        shown = ", ".join(str(path) for path in missing[:3])
        raise ValueError(f"{where}: {len(missing)} of {len(paths)} files do not exist: {shown}")
