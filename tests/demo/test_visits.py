"""Visitors' folders: each their own, limited, and gone however the visit or the server ends."""

import contextlib
import fcntl
import json
import os
import pathlib
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import PIL.Image
import pytest

from tarvis_jax.demo.visits import VisitLimits, Visits

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_visitors_do_not_mix(tmp_path):
    with Visits(tmp_path) as visits:
        first, second = visits.folder("first"), visits.folder("second")
        assert first != second and visits.folder("first") == first
        assert first.parent == second.parent == visits.path and visits.path.parent == tmp_path
        for folder in (visits.path, first, second):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (first / "a").write_text("1")
        (second / "a").write_text("2")
        visits.close("first")
        assert not first.exists() and (second / "a").read_text() == "2"
        assert visits.folder("first") not in (first, second)  # who comes again starts anew
        visits.close("nobody")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["../../x", "/etc", "", "a" * 5000, "a\0b", "\n", ".", "tarvis-demo-"])
def test_keys_are_no_paths(tmp_path, key):
    with Visits(tmp_path) as visits:
        folder = visits.folder(key)
        assert folder.parent == visits.path and folder.name.startswith("visit-") and len(folder.name) < 30
        visits.close(key)
        assert os.listdir(visits.path) == ["lock"]


def test_number_of_visitors(tmp_path):
    with Visits(tmp_path, VisitLimits(max_visitors=2)) as visits:
        visits.folder("a"), visits.folder("b")
        with pytest.raises(
            ValueError, match="The server has 2 visitors, and its limit is 2. Try again later, or close"
        ):
            visits.folder("c")
        assert visits.folder("a")  # who is in stays in
        visits.close("b")
        assert visits.folder("c")


def test_disk_of_all_visitors(tmp_path):
    mark = 16  # bytes of the lock file
    with Visits(tmp_path, VisitLimits(max_bytes=2**20 + mark)) as visits:
        assert visits.free_bytes() == 2**20
        (visits.folder("a") / "clip").mkdir()
        (visits.folder("a") / "clip" / "0.jpg").write_bytes(bytes(2**19))
        assert visits.free_bytes() == 2**19
        (visits.folder("b") / "0.jpg").write_bytes(bytes(2**19))
        message = "The files on the server take 1 MiB, and its limit is 1 MiB. Try again later."
        for ask in (visits.free_bytes, lambda: visits.folder("c")):
            with pytest.raises(ValueError, match=message):
                ask()
        assert visits.folder("a")
        visits.close("a")
        assert visits.free_bytes() == 2**19 and visits.folder("c")
        (visits.path / "uploads").mkdir()
        (visits.path / "uploads" / "a.mp4").write_bytes(bytes(1000))  # of a page, not yet taken
        assert visits.free_bytes() == 2**19 - 1000


def test_idle_visitors_leave(tmp_path):
    """Every call of `folder` and of `use` counts as use; the page is told who left."""
    left = []
    with Visits(tmp_path, VisitLimits(max_idle_seconds=0.4), on_close=left.append) as visits:
        idle = visits.folder("idle")
        kept = visits.folder("busy")
        deadline = time.monotonic() + 10
        while not left:
            visits.use("busy")
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert left == ["idle"] and not idle.exists() and visits.folder("busy") == kept
        visits.use("idle")  # too late: it makes no folder
        assert [path for path in visits.path.iterdir() if path.is_dir()] == [kept]
    assert left == ["idle", "busy"]


def test_a_page_that_fails_at_the_end_of_a_visit_stops_no_other(tmp_path):
    def fail(key):
        raise RuntimeError(key)

    with Visits(tmp_path, on_close=fail) as visits:
        visits.folder("a"), visits.folder("b")
    assert not list(tmp_path.iterdir())


def test_links_in_folders_go_and_their_targets_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("1")
    (tmp_path / "root").mkdir()
    with Visits(tmp_path / "root") as visits:
        for folder in (visits.path, visits.folder("a")):
            (folder / "folder").symlink_to(tmp_path / "mine")
            (folder / "file").symlink_to(tmp_path / "mine" / "file")
        visits.folder("b")
    assert not list((tmp_path / "root").iterdir()) and (tmp_path / "mine" / "file").read_text() == "1"


def test_many_threads(tmp_path):
    """Visitors who come and go at once: never more than the limit, and nothing stays."""
    problems, inside = [], set()

    def visit(number: int) -> None:
        for _ in range(20):
            try:
                (visits.folder(f"{number}") / "a").write_text("1")
                inside.add(number)
                time.sleep(0.002)  # so that others come meanwhile
                visits.free_bytes()
                if len(inside) > 4:  # folders that are being removed come on top of these
                    problems.append("too many")
                inside.remove(number)
                visits.close(f"{number}")
            except ValueError:
                pass  # full
            except Exception as error:
                problems.append(error)

    with Visits(tmp_path, VisitLimits(max_visitors=4)) as visits:
        threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert not problems and os.listdir(visits.path) == ["lock"]


def test_nobody_comes_after_the_end(tmp_path):
    with Visits(tmp_path) as visits:
        visits.folder("a")
    with pytest.raises(ValueError, match="The server is about to end."):
        visits.folder("a")
    visits.end()
    assert not list(tmp_path.iterdir())


# Servers that end, one way or another

SERVER = """
import os, pathlib, sys, time
from tarvis_jax.demo.visits import Visits

def serve(visits):
    folder = visits.folder("a")
    (folder / "clip").mkdir()
    (folder / "clip" / "000000.jpg").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read(1)

visits = Visits(pathlib.Path(sys.argv[1]))
if sys.argv[2] == "with":
    with visits:
        serve(visits)
else:
    serve(visits)
if sys.argv[2] == "fork" and os.fork() == 0:
    sys.exit()
if sys.argv[2] == "fork":
    os.wait()
    print(visits.folder("a").exists())
"""


def _hear_signals() -> None:
    """What nohup and shells make a command in the background ignore, which its children would, too."""
    for each in (signal.SIGHUP, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)


class Server:
    def __init__(self, root: pathlib.Path, way: str = "with"):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(root), way],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=_hear_signals,
        )
        self.folder = pathlib.Path(self.process.stdout.readline().strip())
        assert (self.folder / "clip" / "000000.jpg").is_file()

    def end(self, which: int | None = None) -> int:
        if which is not None:
            self.process.send_signal(which)
        self.process.communicate("x" if which is None else None, timeout=20)
        return self.process.returncode


@pytest.mark.parametrize(
    "way, which, status",
    [
        ("with", None, 0),
        ("without", None, 0),
        ("with", signal.SIGTERM, 128 + signal.SIGTERM),
        ("with", signal.SIGHUP, 128 + signal.SIGHUP),
        ("with", signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_server_that_ends_leaves_nothing(tmp_path, way, which, status):
    assert Server(tmp_path, way).end(which) == status
    assert not list(tmp_path.iterdir())


def test_a_forked_copy_leaves_the_folders_alone(tmp_path):
    server = Server(tmp_path, "fork")
    assert server.process.communicate("x", timeout=20)[0].split() == ["True"]
    assert not list(tmp_path.iterdir())


def test_the_next_start_removes_what_a_killed_server_left_and_nothing_else(tmp_path):
    killed, alive = Server(tmp_path), Server(tmp_path)
    assert killed.end(signal.SIGKILL) == -signal.SIGKILL
    assert killed.folder.is_dir()

    def folder(name: str, mark: bytes | None, mode: int = 0o700) -> pathlib.Path:
        path = tmp_path / name
        path.mkdir(mode=mode)
        path.chmod(mode)
        (path / "file").write_text("1")
        if mark is not None:
            (path / "lock").write_bytes(mark)
        return path

    mark = (alive.folder.parent / "lock").read_bytes()
    ours = folder("tarvis-demo-ours", mark)
    foreign = [
        folder("tarvis-demo-unlocked", None),
        folder("tarvis-demo-empty", b""),  # or a server that starts at this moment
        folder("tarvis-demo-other", mark + b"x"),
        folder("tarvis-demo-open", mark, 0o755),
        folder("other", mark),
    ]
    (tmp_path / "tarvis-demo-file").write_bytes(mark)
    (tmp_path / "tarvis-demo-link").symlink_to(tmp_path / "other")
    (tmp_path / "tarvis-demo-none").symlink_to(tmp_path / "nothing")
    (tmp_path / "tarvis-demo-linked").mkdir(mode=0o700)
    (tmp_path / "tarvis-demo-linked" / "lock").symlink_to(tmp_path / "other" / "lock")
    (tmp_path / "tarvis-demo-pipe").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "tarvis-demo-pipe" / "lock")
    before = set(tmp_path.iterdir())
    with Visits(tmp_path) as visits:
        assert before - set(tmp_path.iterdir()) == {killed.folder.parent, ours}
        assert all((path / "file").read_text() == "1" for path in foreign)
        visits.sweep()  # spares its own folder
        assert visits.path.is_dir() and (alive.folder / "clip" / "000000.jpg").is_file()
    assert alive.end() == 0
    assert set(tmp_path.iterdir()) == before - {killed.folder.parent, ours, alive.folder.parent}


def test_a_sweep_that_was_interrupted_is_finished_by_the_next(tmp_path, monkeypatch):
    """The lock file goes last."""
    server = Server(tmp_path)
    server.end(signal.SIGKILL)
    removed = []

    def interrupted(path):
        removed.append(path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tarvis_jax.demo.visits._remove", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Visits(tmp_path)
    assert removed == [server.folder]
    with Visits(tmp_path):
        assert not server.folder.parent.exists()


def test_what_another_server_removes_at_the_moment_is_left_to_it(tmp_path):
    server = Server(tmp_path)
    server.end(signal.SIGKILL)
    with open(server.folder.parent / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with Visits(tmp_path):
            assert server.folder.is_dir()
    with Visits(tmp_path):
        assert not server.folder.exists()


def test_signal_handlers(tmp_path):
    """Those of others stay, as that of `nohup`; ours go."""
    before = {which: signal.signal(which, signal.SIG_DFL) for which in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with Visits(tmp_path):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


PAGE = """
import pathlib, sys, threading
from tarvis_jax.demo.page import Page
from tests.demo.color_model import ColorModel

root, clip = map(pathlib.Path, sys.argv[1:3])
with Page(ColorModel(), {"Sample": [clip]}, root=root) as page:
    print(page.launch("127.0.0.1", int(sys.argv[3])), flush=True)
    threading.Event().wait()
"""


@contextlib.contextmanager
def served_page(root: pathlib.Path, clip: pathlib.Path) -> Iterator[subprocess.Popen]:
    """The page in a process of its own, with a visitor who has opened it and got the sample clip."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-c", PAGE, str(root), str(clip), str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().strip() + "gradio_api/queue/join"
            message = json.dumps({"fn_index": 0, "data": [], "session_hash": "visitor"}).encode()  # the page is opened
            urllib.request.urlopen(
                urllib.request.Request(address, message, {"Content-Type": "application/json"})
            ).close()
            deadline = time.monotonic() + 60
            while not list(root.glob("*/visit-*/clip-*/000002.jpg")):
                assert time.monotonic() < deadline, "the visitor has got no clip"
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


@pytest.mark.long
def test_a_page_that_is_killed_while_a_visitor_has_a_clip(tmp_path):
    """What it leaves is removed by the next one, which leaves nothing when it is ended."""
    pytest.importorskip("gradio", reason="needs Gradio (pip install gradio)")
    root, clip = tmp_path / "root", tmp_path / "clip.gif"
    root.mkdir()
    images = [PIL.Image.new("RGB", (64, 48), (80 * index, 0, 0)) for index in range(3)]
    images[0].save(clip, save_all=True, append_images=images[1:])
    with served_page(root, clip):
        pass  # and killed
    (left,) = root.iterdir()
    with served_page(root, clip) as process:
        assert not left.exists() and len(list(root.iterdir())) == 1
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(root.iterdir())
