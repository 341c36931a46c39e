"""The files of a prepared dataset: where they lie, what the index of videos says, and whether they are complete."""

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from input_pipeline import workspace
from input_pipeline.config import DatasetConfig
from input_pipeline.shards import records

BUILDER = "tarvis_frames"
VERSION = "1.0.0"
_RECORDS_AT_ONCE = 64
_THREADS = 16  # that check shards: an answer of a bucket takes time, but no work
# What of a dataset's config decides what its records hold.
_PREPARED_FIELDS = ("name", "task", "num_classes", "thing_classes", "min_mask_area")


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of records.

    Attributes:
      file: its name, without folder.
      records: their number.
      size: of the file, in bytes.
      sha256: of all records in order, see `checksum`.
    """

    file: str
    records: int
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Index:
    """What `videos-<split>.array_record` holds, in JSON as its only record.

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


def require_disk(folder: Any) -> None:
    """Raises ValueError if shards are to be written to a folder that is not on a disk; None is on one."""
    if "://" in str(folder):
        raise ValueError(
            f"{folder}: expected a folder on a disk, found a bucket; shards are prepared on a disk and then copied "
            f"(gcloud storage rsync --recursive SHARDS {folder})"
        )


def index_name(split: str) -> str:
    return f"videos-{split}.array_record"


def prepared_fields(dataset: DatasetConfig) -> dict[str, Any]:
    """The fields of a dataset's config that decide what its records hold, as JSON gives them back."""
    return json.loads(json.dumps({name: getattr(dataset, name) for name in _PREPARED_FIELDS}))


def write_index(folder: Any, split: str, index: Index) -> None:
    from array_record.python import array_record_module

    content = {
        "prepared": index.prepared,
        "shards": [dataclasses.asdict(shard) for shard in index.shards],
        "videos": index.videos,
    }
    writer = array_record_module.ArrayRecordWriter(str(path_of(folder) / index_name(split)), "group_size:1")
    writer.write(json.dumps(content).encode())
    writer.close()


def read_index(folder: Any, split: str) -> Index:
    """The index of a split, checked to be one.

    Raises:
      ValueError: it is absent, damaged, cannot be read in time, or is not of this form.
    """
    path = str(path_of(folder) / index_name(split))
    try:
        (raw,) = records.read_records(records.open_records(path), path, [0])
        content = json.loads(raw)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path}: cannot be read ({error}); expected a prepared dataset (see python -m input_pipeline.shards)"
        ) from error
    where = path
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
    """SHA-256, as text, of the records of a file, each after its length in eight bytes; OSErrors as in `records`."""
    path = str(path)
    reader = records.open_records(path)
    digest, count = hashlib.sha256(), reader.num_records()
    for first in range(0, count, _RECORDS_AT_ONCE):
        for record in records.read_records(reader, path, list(range(first, min(first + _RECORDS_AT_ONCE, count)))):
            digest.update(len(record).to_bytes(8, "little"))
            digest.update(record)
    return digest.hexdigest()


def check_shards(folder: Any, index: Index, *, contents: bool) -> None:
    """Raises ValueError unless all shards are there in full: by the number of their records, which stands at the end of
    each file, with `contents` also by their checksums."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(lambda shard: _problem(folder, shard, contents), index.shards))
    problems = [f"{shard.file}: {problem}" for shard, problem in zip(index.shards, found, strict=True) if problem]
    if problems:
        raise ValueError(
            f"{folder}: {len(problems)} of {len(index.shards)} shards are damaged: " + "; ".join(problems[:5])
        )


def _problem(folder: Any, shard: Shard, contents: bool) -> str:
    path = str(path_of(folder) / shard.file)
    try:
        count = records.open_records(path).num_records()
        if count != shard.records:
            return f"expected {shard.records} records, found {count}"
        if contents and checksum(path) != shard.sha256:
            return f"the checksum is not {shard.sha256}"
    except TimeoutError as error:  # nor will the other shards be there
        raise ValueError(f"{path}: cannot be read ({error})") from error
    except OSError as error:
        return f"expected {shard.records} records, cannot be read ({error})"
    return ""
