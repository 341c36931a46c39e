"""Worker processes give what the caller's own process gives, tell their errors, and leave nothing behind."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from input_pipeline import batches, mixture, readers, workers

ROOT = pathlib.Path(__file__).resolve().parents[2]


def take(config, count, **options):
    return list(itertools.islice(batches.train_batches(config, **options), count))


def is_running(pid: int) -> bool:
    status = pathlib.Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(condition) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def spied_pools(monkeypatch):
    """A list of all pools that are made from here on."""
    pools, start = [], workers.WorkerPool.__init__

    def spy(self, *args):
        start(self, *args)
        pools.append(self)

    monkeypatch.setattr(workers.WorkerPool, "__init__", spy)
    return pools


@pytest.fixture
def pool(make_config, make_dataset):
    """(pool of two workers, mixture); closed at the end."""
    config = make_config(datasets=(make_dataset("YOUTUBE_VIS"),), num_parallel=2)
    videos = [readers.training_videos(dataset, config.workspace) for dataset in config.datasets]
    plans = mixture.Mixture(config, videos)
    pool = workers.WorkerPool(config, plans.pools, videos)
    yield pool, plans
    pool.close()


def test_batches_are_those_of_one_process(make_config):
    """In order, from a later step, as the share of a host; with the same bits."""
    own, others = make_config(seed=1), make_config(seed=1, num_parallel=3, cache_records=True)
    for options in ({}, {"start_step": 3, "rows": [2, 3]}):
        for expected, found in zip(take(own, 6, **options), take(others, 6, **options), strict=True):
            assert expected[0] == found[0] and expected[1].keys() == found[1].keys()
            for key in expected[1]:
                assert found[1][key].dtype == expected[1][key].dtype
                np.testing.assert_array_equal(found[1][key], expected[1][key], err_msg=key)


def test_workers_end_with_the_iterator(make_config, monkeypatch):
    pools = spied_pools(monkeypatch)
    iterator = batches.train_batches(make_config(num_parallel=2))
    next(iterator)
    pids = pools[0].process_ids
    assert len(pids) == 2 and all(is_running(pid) for pid in pids)
    iterator.close()
    assert not any(is_running(pid) for pid in pids)
    assert all(worker.process.returncode is not None for worker in pools[0]._workers)  # no zombies


def test_an_error_of_the_data_is_the_same(own_workspace, make_config, make_dataset):
    config = make_config(workspace=str(own_workspace), datasets=(make_dataset("DAVIS"),), num_parallel=2)
    for path in (own_workspace / "dataset_images/training/davis").rglob("*.jpg"):
        if path.stem != "00000":  # whose header is read with the annotations
            path.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"dataset DAVIS, video '000[01]', frame \d: .*\.jpg: cannot be decoded"):
        take(config, 1)


def test_a_worker_that_is_killed_is_one_clear_error(pool):
    pool, plans = pool
    assert pool.load(plans.plan(0), 0)["images"].shape[0] == 3
    for pid in pool.process_ids:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(workers.WorkerError, match=r"was killed \(signal 9\), as the system does when memory runs out"):
        pool.load(plans.plan(0), 1)


def test_a_killed_worker_ends_the_iterator(make_config, monkeypatch):
    pools = spied_pools(monkeypatch)
    iterator = batches.train_batches(make_config(num_parallel=2))
    next(iterator)
    os.kill(pools[0].process_ids[0], signal.SIGKILL)
    with pytest.raises(workers.WorkerError, match="was killed"):
        for _ in range(100):
            next(iterator)
    assert not any(is_running(pid) for pid in pools[0].process_ids)


def test_a_bug_in_a_worker_comes_with_its_traceback(pool):
    pool, plans = pool
    with pytest.raises(workers.WorkerError, match="(?s)Traceback.*IndexError"):
        pool.load(plans.plan(0), 1000)
    assert "images" in pool.load(plans.plan(0), 0)  # and the worker goes on


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(end, workspace):
    """A parent that is killed, or interrupted, leaves no process; its main module has no guard."""
    program = f"""
        from input_pipeline import batches, config, mixture, readers, workers
        from tests.input_pipeline.conftest import small

        data = config.DataConfig(datasets=(small("DAVIS"),), workspace={str(workspace)!r}, batch_size=2, num_parallel=2)
        videos = [readers.training_videos(data.datasets[0], data.workspace)]
        plans = mixture.Mixture(data, videos)
        pool = workers.WorkerPool(data, plans.pools, videos)
        print(*pool.process_ids, flush=True)
        step = 0
        while True:
            pool.load(plans.plan(step), 0)
            step += 1
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2 and all(is_running(pid) for pid in pids)
        time.sleep(0.5)
        process.send_signal(end)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))
    assert printed.count("Traceback") == (1 if end == signal.SIGINT else 0)  # the parent's own


def test_workers_import_neither_jax_nor_tensorflow():
    program = "import sys, input_pipeline.workers; print([m for m in ('jax', 'tensorflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
