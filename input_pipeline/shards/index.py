"""The files of a prepared dataset: where they lie, what the index of videos says, and whether they are complete."""

import dataclasses
import gzip
import hashlib
import json
import os
import zlib
from typing import Any

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig

BUILDER = "tarvis_frames"
VERSION = "1.0.0"
_READ_BYTES = 2**24
# What of a dataset's config decides what its records hold.
_PREPARED_FIELDS = ("name", "task", "num_classes", "thing_classes", "min_mask_area")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
      file: its name, without folder.
      records: their number.
      size: in bytes.
      sha256: of the whole file, as text.
    """

    file: str
    records: int
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What `videos-<split>.json.gz` holds.

    Attributes:
      prepared: the fields of the dataset's config that decide what the records hold.
      shards: the files, in order.
      videos: one dictionary per video, see `videos.py`.
    """

    prepared: dict[str, Any]
    shards: tuple[Shard, ...]
    videos: tuple[dict[str, Any], ...]


def path_of(path: Any) -> Any:
    """A path on a disk or in a bucket ("gs://bucket/folder")."""
    from etils import epath  # comes with Orbax

    return epath.Path(path)


def folder_of(root: Any, dataset: str) -> Any:
    """The folder in which tensorflow-datasets puts a dataset below `root`."""
    return path_of(root) / BUILDER / dataset.lower() / VERSION


def index_name(split: str) -> str:
    return f"videos-{split}.json.gz"


def prepared_fields(dataset: DatasetConfig) -> dict[str, Any]:
    """The fields of a dataset's config that decide what its records hold, as JSON gives them back."""
    return json.loads(json.dumps({name: getattr(dataset, name) for name in _PREPARED_FIELDS}))


def write_index(folder: Any, split: str, index: Index) -> None:
    content = {
        "prepared": index.prepared,
        "shards": [dataclasses.asdict(shard) for shard in index.shards],
        "videos": index.videos,
    }
    (path_of(folder) / index_name(split)).write_bytes(gzip.compress(json.dumps(content).encode(), mtime=0))


def read_index(folder: Any, split: str) -> Index:
    """The index of a split, checked to be one.

    Raises:
      ValueError: it is absent, damaged, or not of this form.
    """
    path = path_of(folder) / index_name(split)
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        raise ValueError(
            f"{path}: does not exist; expected a prepared dataset (python -m input_pipeline.shards writes one)"
        ) from None
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path}: is damaged ({error}); prepare the dataset once more") from error
    where = str(path)
    shards = []
    for i, entry in enumerate(workspace.get(content, "shards", list, where)):
        place = f"{where}, shards[{i}]"
        name = workspace.get(entry, "file", str, place)
        if os.path.basename(name) != name:
            raise ValueError(f"{place}: expected the name of a file in the same folder, found {name!r}")
        numbers = [workspace.get(entry, key, int, place) for key in ("records", "size")]
        shards.append(Shard(name, *numbers, workspace.get(entry, "sha256", str, place)))
    return Index(
        workspace.get(content, "prepared", dict, where),
        tuple(shards),
        tuple(workspace.get(content, "videos", list, where)),
    )


def checksum(path: Any) -> str:
    """SHA-256 of a file, as text."""
    digest = hashlib.sha256()
    with path_of(path).open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def check_shards(folder: Any, index: Index, *, contents: bool) -> None:
    """Raises ValueError unless all shards are there in full: by their sizes, with `contents` by their checksums."""
    problems = []
    for shard in index.shards:
        path = path_of(folder) / shard.file
        try:
            size = path.stat().length
        except OSError:
            problems.append(f"{shard.file}: does not exist")
            continue
        if size != shard.size:
            problems.append(f"{shard.file}: expected {shard.size} bytes, found {size}")
        elif contents and checksum(path) != shard.sha256:
            problems.append(f"{shard.file}: the checksum is not {shard.sha256}")
    if problems:
        raise ValueError(
            f"{folder}: {len(problems)} of {len(index.shards)} shards are damaged: " + "; ".join(problems[:5])
        )
