"""SIGTERM is noticed, leaves what may be left, and ends the process the second time; test_resume.py ends whole runs."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.train.interruption import Interruption

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def interruption():
    with Interruption(make_mesh(jax.devices()[:1])) as interruption:
        yield interruption


def send_and_wait(interruption) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    end = time.monotonic() + 10
    while not interruption.has_been_asked():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_sigterm_is_noticed_and_nothing_stays(interruption):
    before = signal.getsignal(signal.SIGTERM)
    with Interruption(make_mesh(jax.devices()[:1])) as inner:
        inner.listen()
        assert not inner.has_been_asked() and not inner.all_agree()
        send_and_wait(inner)
        assert inner.all_agree() and not interruption.has_been_asked()
    assert signal.getsignal(signal.SIGTERM) == before and signal.set_wakeup_fd(-1) == -1


def test_sigterm_leaves_what_can_be_done_again(interruption):
    interruption.listen()
    done = []
    with interruption.may_cut_short():
        done.append("begun")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        done.append("not reached")
    assert done == ["begun"] and interruption.has_been_asked()


def test_second_sigterm_ends_the_process_wherever_it_is():
    """Here the main thread waits in a library, where Python handles no signals."""
    program = """
import jax, threading, ctypes
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.train.interruption import Interruption
with Interruption(make_mesh(jax.devices())) as interruption:
    interruption.listen()
    print("listening", flush=True)
    while True:
        ctypes.CDLL(None).pause()
"""
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "listening\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.terminate()
        assert process.wait(20) == 143
    finally:
        process.kill()
