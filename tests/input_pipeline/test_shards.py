"""Prepared shards: the same batches as from the files, complete or not there at all."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from input_pipeline import batches, mixture
from input_pipeline.shards import __main__ as command
from input_pipeline.shards import index as files
from input_pipeline.shards import records, videos
from tests.tools import fake_bucket

pytest.importorskip("tensorflow_datasets", reason="needs tensorflow-datasets")
pytest.importorskip("array_record", reason="needs array_record")

STEPS = 24
NAMES = ("YOUTUBE_VIS", "KITTI_STEP", "VIPSEG", "DAVIS", "BURST")


@pytest.fixture(scope="module")
def config(make_config, make_dataset):
    return make_config(datasets=tuple(make_dataset(name, weight=1.0) for name in NAMES))


@pytest.fixture(scope="module")
def prepared(config, workspace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    for dataset in config.datasets:
        command.prepare(dataset, str(workspace), str(folder), frames_per_shard=8)
    return folder


def test_batches_equal_those_of_the_files(config, prepared):
    from_files = batches.train_batches(config)
    from_shards = batches.train_batches(dataclasses.replace(config, shards=str(prepared), workspace=""))
    seen = set()
    for _ in range(STEPS):
        (info, expected), (found_info, found) = next(from_files), next(from_shards)
        assert info == found_info and expected.keys() == found.keys()
        seen.add(info.dataset)
        for key, value in expected.items():
            np.testing.assert_array_equal(value, found[key], err_msg=f"{info} {key}")
    assert seen == set(NAMES)


def test_a_machine_without_tensorflow_makes_the_same_batches(config, prepared, workspace):
    """From the files and from the shards, with what a GPU machine has and array_record."""
    program = f"""
        import hashlib, sys
        from tests import lean
        sys.modules.update(dict.fromkeys(set(lean.hidden_modules()) - {{"array_record", "importlib_resources"}}))
        from input_pipeline import batches, config
        from tests.input_pipeline.conftest import small
        datasets = tuple(small(name) for name in {NAMES})
        for places in ({{"workspace": {str(workspace)!r}}}, {{"shards": {str(prepared)!r}}}):
            data = config.DataConfig(datasets=datasets, batch_size=4, chunk_steps=1, num_parallel=0, **places)
            stream, digest = batches.train_batches(data), hashlib.sha256()
            for _ in range(5):
                _, batch = next(stream)
                for key, value in batch.items():
                    digest.update(key.encode() + value.tobytes())
            print(digest.hexdigest())
        assert sys.modules["tensorflow"] is None and sys.modules["tensorflow_datasets"] is None
    """
    root = pathlib.Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    from_files, from_shards = done.stdout.split()
    assert from_files == from_shards


def test_records_are_read_as_tensorflow_datasets_reads_them():
    example = {"image": b"\0\xff" * 1000, "map": b"", "targets": b"{}"}
    assert records._fields(records.features().serialize_example(example)) == example
    with pytest.raises(OSError, match="expected a record of bytes"):
        records._fields(records.features().serialize_example(example)[:-1])


def test_records_hold_the_files_as_they_were(config, prepared, workspace):
    for dataset in config.datasets:
        of_files = batches.readers.training_videos(dataset, str(workspace))
        of_shards = videos.training_videos(dataset, str(prepared))
        assert len(of_files) == len(of_shards)
        for expected, found in zip(of_files, of_shards, strict=True):
            assert found.frame_names == expected.frame_names and found.instances == expected.instances
            for t, path in enumerate(expected.frame_paths):
                assert found.frame_paths[t].read_bytes() == path.read_bytes()
                assert dict(found.segmentations[t]) == expected.segmentations[t]


def test_tensorflow_datasets_reads_them(config, prepared, workspace):
    import tensorflow_datasets as tfds

    source = tfds.builder_from_directory(files.folder_of(prepared, "DAVIS")).as_data_source("train")
    video, *_ = batches.readers.training_videos(config.datasets[NAMES.index("DAVIS")], str(workspace))
    assert source[1]["image"] == video.frame_paths[1].read_bytes()


def test_a_step_reads_only_its_frames(config, prepared, monkeypatch):
    dataset = config.datasets[NAMES.index("DAVIS")]
    read = []
    whole = records._record

    def record(shard, num_records, position, process):
        read.append((shard, position))
        return whole(shard, num_records, position, process)

    monkeypatch.setattr(records, "_record", record)
    video = videos.training_videos(dataset, str(prepared))[1]
    mixture.Mixture(dataclasses.replace(config, datasets=(dataset,)), [videos.training_videos(dataset, str(prepared))])
    assert not read  # neither opening nor choosing frames reads a record
    video.load_frame(2)
    video.frame_masks(2, video.visible_ids(2))
    assert set(read) == {(video.frame_paths[2].shard, video.frame_paths[2].position)}


def test_preparing_again_changes_nothing(config, prepared, workspace):
    folder = files.folder_of(prepared, "DAVIS")
    before = {path.name: path.stat().mtime for path in folder.iterdir()}
    command.prepare(config.datasets[NAMES.index("DAVIS")], str(workspace), str(prepared), frames_per_shard=8)
    assert {path.name: path.stat().mtime for path in folder.iterdir()} == before


_INTERRUPTED = """
import os, sys
from input_pipeline.shards import builder, videos
from tests.input_pipeline.conftest import small
whole, left = videos.frame_record, [int(sys.argv[3])]
def record(video, frame):
    left[0] -= 1
    if left[0] < 0:
        os._exit(9)  # as SIGKILL would end it
    print("read", flush=True)
    return whole(video, frame)
builder.conversion.frame_record = record
from input_pipeline.shards.__main__ import prepare
prepare(small("YOUTUBE_VIS"), sys.argv[1], sys.argv[2], frames_per_shard=4)
"""


def test_an_interrupted_preparation_goes_on(workspace, tmp_path, make_dataset):
    dataset = make_dataset("YOUTUBE_VIS")
    folder = files.folder_of(tmp_path, dataset.name)
    total = sum(video.num_frames for video in batches.readers.training_videos(dataset, str(workspace)))

    def run(frames):
        root = pathlib.Path(__file__).parents[2]
        return subprocess.run(
            [sys.executable, "-c", _INTERRUPTED, str(workspace), str(tmp_path), str(frames)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            capture_output=True,
            text=True,
        )

    first = run(total - 1)
    assert first.returncode == 9, first.stderr
    with pytest.raises(ValueError, match="No such file.*expected a prepared dataset"):
        videos.training_videos(dataset, str(tmp_path))
    second = run(total)
    assert second.returncode == 0, second.stderr
    # The complete shards are not made once more.
    assert 0 < second.stdout.count("read") < total
    files.check_shards(folder, files.read_index(folder, "train"), contents=True)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("damage", ["shorter", "other bytes", "absent", "index"])
def test_damaged_shards_are_errors(config, workspace, tmp_path, damage):
    dataset = config.datasets[0]
    command.prepare(dataset, str(workspace), str(tmp_path), frames_per_shard=4)
    folder = files.folder_of(tmp_path, dataset.name)
    index = files.read_index(folder, "train")
    shard = pathlib.Path(folder / index.shards[1].file)
    raw = bytearray(shard.read_bytes())
    if damage == "shorter":
        shard.write_bytes(raw[:-10])
    elif damage == "other bytes":
        raw[1000] ^= 1  # in a record
        shard.write_bytes(raw)
        files.check_shards(folder, index, contents=False)
        with pytest.raises(ValueError, match=r"1 of \d+ shards are damaged: .*hash"):
            files.check_shards(folder, index, contents=True)
        return
    elif damage == "absent":
        shard.unlink()
    else:
        path = pathlib.Path(folder / files.index_name("train"))
        path.write_bytes(path.read_bytes()[:-20])
    expected = {
        "shorter": rf"{shard.name}: expected {index.shards[1].records} records, cannot be read",
        "absent": rf"{shard.name}: expected .* cannot be read .*No such file",
        "index": r"videos-train.array_record: cannot be read .* expected a prepared dataset",
    }
    with pytest.raises(ValueError, match=expected[damage]):
        videos.training_videos(dataset, str(tmp_path))


def test_other_settings_are_an_error(config, prepared):
    other = dataclasses.replace(config.datasets[NAMES.index("BURST")], min_mask_area=7)
    with pytest.raises(ValueError, match="was prepared with .* the config has"):
        videos.training_videos(other, str(prepared))


def test_maps_keep_large_ids():
    instances = np.array([[0, 255, 256], [65_536, 2**24 - 1, 7]], np.int32)
    classes = np.array([[0, 1, 255], [254, 3, 0]], np.uint8)
    raw = videos._encode_map(classes, instances, "here")

    class File:
        def read_bytes(self):
            return raw

    found = videos._read_map(File(), 2, 3)
    np.testing.assert_array_equal(found[0], classes)
    np.testing.assert_array_equal(found[1], instances)
    with pytest.raises(ValueError, match="above 16777215"):
        videos._encode_map(classes, instances + 1, "here")


@pytest.fixture(scope="module")
def bucket(prepared):
    """A bucket that holds the prepared shards."""
    served = fake_bucket.FakeBucket(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", served.endpoint)
        yield served
    for thread in threading.enumerate():  # of requests that were not waited for
        if thread.name.startswith("read gs://"):
            thread.join(10)
    served.close()


def test_batches_from_a_bucket_equal_those_from_a_disk(config, prepared, bucket):
    from_disk, from_bucket = (
        batches.train_batches(dataclasses.replace(config, shards=folder, workspace=""))
        for folder in (str(prepared), "gs://bucket")
    )
    bucket.requests.clear()
    for _ in range(2):
        (info, expected), (found_info, found) = next(from_disk), next(from_bucket)
        assert info == found_info and expected.keys() == found.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(value, found[key], err_msg=f"{info} {key}")
    assert bucket.requests


def test_a_frame_from_a_bucket_is_one_request(bucket, prepared, monkeypatch):
    from array_record.python import array_record_module

    path = prepared / "many.array_record"
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    contents = [np.random.default_rng(i).bytes(100_000) for i in range(80)]
    for content in contents:
        writer.write(content)
    writer.close()
    bucket.requests.clear()
    url = f"gs://bucket/{path.name}"
    reader = records.open_records(url)
    opening = 2**18  # the end of the file, where the places of the records are
    assert reader.num_records() == 80
    assert records.read_records(reader, url, [33]) == [contents[33]]
    reader.close()
    while len(bucket.requests) < 2:
        time.sleep(0.01)
    (_, _, first), (_, start, second) = bucket.requests
    assert first == opening
    assert 33 * 100_000 < start < 34 * 100_000  # the record begins here
    # The client asks for the rest of the file and hangs up when it has the record; what is on the way by then is lost.
    assert 100_000 < second < path.stat().st_size // 4


def test_opening_reads_the_index_and_the_ends_of_the_shards(config, bucket):
    dataset = config.datasets[NAMES.index("DAVIS")]
    bucket.requests.clear()
    video, *_ = videos.training_videos(dataset, "gs://bucket")
    index = files.read_index(files.folder_of("gs://bucket", "DAVIS"), "train")
    names = {pathlib.PurePath(name).name for name, _, _ in bucket.requests}
    assert names == {files.index_name("train")} | {shard.file for shard in index.shards}
    files.check_shards(files.folder_of("gs://bucket", "DAVIS"), index, contents=True)
    assert video.frame_paths[0].shard.startswith("gs://bucket/")


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_bucket_that_does_not_give(config, bucket, status, monkeypatch):
    """The client itself would try for 15 minutes where the status says that trying once more may help."""
    monkeypatch.setattr(records, "PATIENCE", 0.3)
    monkeypatch.setitem(bucket.failures, "davis", status)
    dataset = config.datasets[NAMES.index("DAVIS")]
    expected = "did not answer within 0.3 s" if status == 503 else f"made to answer {status}"
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"gs://bucket/tarvis_frames/davis/.*cannot be read .*{expected}"):
        videos.training_videos(dataset, "gs://bucket")
    assert time.monotonic() - start < 5


def test_a_shard_that_a_bucket_stops_giving(config, bucket, monkeypatch):
    dataset = config.datasets[NAMES.index("DAVIS")]
    records._reader.cache_clear()
    records._record.cache_clear()
    video = videos.training_videos(dataset, "gs://bucket")[0]
    video.load_frame(0)
    monkeypatch.setattr(records, "PATIENCE", 0.3)
    for status, expected in ((403, "made to answer 403"), (503, "did not answer within")):
        monkeypatch.setitem(bucket.failures, "array_record-", status)
        with pytest.raises(ValueError, match=rf"gs://bucket/.*record 1 .*{expected}"):
            video.load_frame(1)
    bucket.failures.clear()
    video.load_frame(1)  # what failed is not kept


@pytest.mark.parametrize("damage", ["absent", "shorter", "index"])
def test_a_copy_in_a_bucket_that_is_not_complete(config, bucket, prepared, damage):
    dataset = config.datasets[NAMES.index("BURST")]
    folder = prepared / "copy" / damage
    shutil.copytree(prepared / "tarvis_frames" / "burst", folder / "tarvis_frames" / "burst")
    index = files.read_index(files.folder_of(folder, "BURST"), "train")
    name = files.index_name("train") if damage == "index" else index.shards[0].file
    path = pathlib.Path(files.folder_of(folder, "BURST")) / name
    path.write_bytes(path.read_bytes()[:-10]) if damage == "shorter" else path.unlink()
    expected = {
        "absent": "404",
        "shorter": f"expected {index.shards[0].records} records, cannot be read",
        "index": "404",
    }
    with pytest.raises(ValueError, match=rf"gs://bucket/copy/.*{name}: .*{expected[damage]}"):
        videos.training_videos(dataset, f"gs://bucket/copy/{damage}")


def test_shards_are_not_written_to_a_bucket(config, workspace):
    with pytest.raises(ValueError, match=r"gs://bucket/new: expected a folder on a disk.*gcloud storage rsync"):
        command.prepare(config.datasets[0], str(workspace), "gs://bucket/new")
