"""Every way in which data can be bad: one error that names file and record, or one thing less to train on, counted.

    TARVIS_MUTATION_TABLE=FILE pytest tests/input_pipeline/test_mutations.py

writes the table of what came of each to FILE.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import resource
import shutil
import time

import numpy as np
import pytest

from input_pipeline import batches, mixture, samples
from input_pipeline.bad_records import LeftOut
from input_pipeline.config import DataConfig
from tests.input_pipeline.bad_files import DATASETS, FILE, MUTATIONS, NOTHING, READERS, RECORD, SAMPLE, Mutation

STEPS, BATCH = 6, 4
SECONDS = 2  # of one core
MEMORY = 300 * 2**20
# Threads of libraries reserve addresses that they never use.
RESERVED = 400 * 2**20


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """Name of a dataset -> folder with its good files, each written once; and what is read from them."""
    folders, found = {}, {}

    def get(name):
        write, config_of, _ = DATASETS[name]
        if write not in folders:
            folders[write] = tmp_path_factory.mktemp("good")
            write(folders[write])
        if name not in found:
            data = data_config(config_of(folders[write]), folders[write], "error")
            found[name] = {video.id: content(video, folders[write]) for video in batches.read_videos(data)[0]}
        return folders[write], found[name]

    return get


@pytest.fixture(scope="session")
def table():
    """Rows of the table; written at the end if a file is asked for."""
    rows = []
    yield rows
    path = os.environ.get("TARVIS_MUTATION_TABLE")
    if path:
        head = ("mutation", "reader", '"error"', '"skip"')
        lines = [head, ("---",) * 4, *rows]
        pathlib.Path(path).write_text("".join("| " + " | ".join(line) + " |\n" for line in lines))


def data_config(dataset, root: pathlib.Path, on_bad_record: str) -> DataConfig:
    return DataConfig(
        datasets=(dataclasses.replace(dataset, weight=1.0),),
        workspace=str(root),
        batch_size=BATCH,
        chunk_steps=1,
        num_parallel=1,
        on_bad_record=on_bad_record,
    )


def content(video, root: pathlib.Path) -> dict:
    """What a record says, with paths below `root`."""
    fields = {field.name: getattr(video, field.name) for field in dataclasses.fields(video)}
    del fields["read_panoptic"], fields["source"]
    for name in ("frame_paths", "panoptic_maps"):
        fields[name] = fields[name] and tuple(str(path.relative_to(root)) for path in fields[name])
    return fields


def train(data: DataConfig, left_out: LeftOut) -> tuple[list, set]:
    """Reads the annotations and makes the samples of some steps; (records, ids of videos that samples are of)."""
    videos = batches.read_videos(data, left_out)
    plans = mixture.Mixture(data, videos)
    loader = samples.SampleLoader(data, videos, left_out)
    seen = set()
    for step in range(STEPS):
        for row in range(BATCH):
            plan = plans.plan(step)
            sample = loader.load(plan, row)
            assert sample["valid_instances"].any() and np.isfinite(sample["images"].mean())
            seen.add(loader.draw(plan, row).video.id)
    return videos[0], seen


@contextlib.contextmanager
def bounded():
    """Little time, little memory: what is asked for beyond it is a MemoryError, which no code of ours expects."""
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    started = time.process_time()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY + RESERVED, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert time.process_time() - started < SECONDS


def error_of(case: Mutation, data: DataConfig, root: pathlib.Path) -> str:
    """The error of a training; it has to be a ValueError of one line that names dataset, file and record."""
    with pytest.raises(ValueError, match=case.message) as caught, bounded():
        train(data, LeftOut())
    text = str(caught.value)
    assert f"dataset {data.datasets[0].name}" in text and "\n" not in text
    assert str(root) in text or case.file in text
    return text


@pytest.mark.parametrize("case", MUTATIONS)
def test_mutation(case, good, table, tmp_path):
    mutation = MUTATIONS[case]
    if os.geteuid() == 0 and "not readable" in case:
        pytest.skip("the superuser can read every file")
    source, expected = good(mutation.dataset)
    root = tmp_path / "data"
    shutil.copytree(source, root)
    dataset = DATASETS[mutation.dataset][1](root)
    mutation.damage(root / mutation.file)
    strict, lenient = (data_config(dataset, root, policy) for policy in ("error", "skip"))

    if mutation.outcome == NOTHING:
        for data in (strict, lenient):
            left_out = LeftOut()
            with bounded():
                videos, _ = train(data, left_out)
            assert {video.id for video in videos} == set(expected) and not left_out.counts()
        outcomes = ("trains", "trains, nothing left out")
    elif mutation.outcome == FILE:
        for data in (strict, lenient):
            error_of(mutation, data, root)
        outcomes = ("ValueError", "ValueError")
    else:
        error = error_of(mutation, strict, root)
        left_out = LeftOut()
        with bounded():
            videos, seen = train(lenient, left_out)
        lost = {mutation.lost} if mutation.outcome == RECORD else set()
        found = {video.id: content(video, root) for video in videos}
        assert set(found) == set(expected) - lost and seen <= set(found) and seen
        if mutation.outcome == RECORD:
            assert left_out.counts() == {dataset.name: (1, 0)}
            assert re.search(mutation.message, left_out.take_new()[0].error)
            assert found == {name: expected[name] for name in found}, "what remains is as it was"
            outcomes = ("ValueError", "1 video or image left out")
        else:
            ((left, again),) = left_out.counts().values()
            assert left == 0 and again >= 1 and error in {record.error for record in left_out.take_new()}
            outcomes = ("ValueError", "samples drawn again")
    table.append((case, READERS.get(mutation.dataset, mutation.dataset), *outcomes))


def test_there_are_enough():
    assert len(MUTATIONS) >= 50 and {m.dataset for m in MUTATIONS.values()} == set(DATASETS)
    assert {m.outcome for m in MUTATIONS.values()} == {RECORD, SAMPLE, FILE, NOTHING}
