"""Prepared shards: the same batches as from the files, complete or not there at all."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from input_pipeline import batches, mixture
from input_pipeline.shards import __main__ as command
from input_pipeline.shards import index as files
from input_pipeline.shards import records, videos

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
    with pytest.raises(ValueError, match="does not exist; expected a prepared dataset"):
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
        raw[len(raw) // 2] ^= 1
        shard.write_bytes(raw)
        files.check_shards(folder, index, contents=False)
        with pytest.raises(ValueError, match=r"1 of \d+ shards are damaged: .*checksum"):
            files.check_shards(folder, index, contents=True)
        return
    elif damage == "absent":
        shard.unlink()
    else:
        path = pathlib.Path(folder / files.index_name("train"))
        path.write_bytes(path.read_bytes()[:-20])
    expected = {
        "shorter": rf"expected {len(raw)} bytes, found {len(raw) - 10}",
        "absent": "does not exist",
        "index": "is damaged",
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
