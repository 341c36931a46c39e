"""Temporary folders of the visitors of the demo: one each, limited in number and size, and gone when they are.

A server has one folder `tarvis-demo-...` with a file `lock` that it holds locked while it lives, and in it a folder for
each visitor. That goes when the tab closes or after a while without use, and all of them go when the server ends. A
server that was killed cannot clean up; the system has dropped its lock, and the next server that starts removes what
it left.
"""

import atexit
import contextlib
import dataclasses
import fcntl
import logging
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tarvis_jax.demo.uploads import amount
from tarvis_jax.fields import Range, check_fields

_PREFIX = "tarvis-demo-"
_LOCK = "lock"
_MARK = b"tarvis_jax.demo\n"  # in the lock file: the folder is ours, and complete
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # end a process without a word; SIGINT raises KeyboardInterrupt already


@dataclasses.dataclass(frozen=True)
class VisitLimits:
    """What all visitors together may take.

    Attributes:
      max_visitors: folders at a time.
      max_bytes: of all files of the server: those of all visitors, and uploads that are not yet decoded.
      max_idle_seconds: a visitor who does nothing for longer is gone.
    """

    max_visitors: Annotated[int, Range(1, 10_000)] = 16
    max_bytes: Annotated[int, Range(1, 2**50)] = 16 * 2**30
    max_idle_seconds: Annotated[float, Range(0, 10**7, above_low=True)] = 3600.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass
class _Visit:
    folder: Path
    last_used: float  # of time.monotonic()


class Visits:
    """The folders of one server's visitors. All methods may be called from any thread.

        with Visits() as visits:
            serve(...)  # visits.folder(key) in every event of a visitor, visits.close(key) when the tab closes

    Leaving the block removes everything, also on SIGTERM and SIGHUP: where the block is entered in the main thread and
    nobody else handles them, they become SystemExit. Without the block the end of the interpreter does it.

    Attributes:
      path: the folder of this server (mode 0700). Whatever else the server keeps for a while belongs into it, too (the
        copies that Gradio makes of uploads), so that it is removed in the same ways.
    """

    def __init__(
        self,
        root: Path | None = None,
        limits: VisitLimits | None = None,
        on_close: Callable[[str], None] = lambda key: None,
    ):
        """Removes what killed servers left in `root`, and makes the folder of this one.

        Args:
          root: where the folders of servers lie; exists. By default the system's folder for temporary files.
          limits: by default those of `VisitLimits`.
          on_close: called with the key of every visitor whose folder was removed, however it came to that.
        """
        self.limits = limits or VisitLimits()
        self._root = Path(tempfile.gettempdir() if root is None else root)
        self._on_close = on_close
        self._visits: dict[str, _Visit] = {}
        self._guard = threading.RLock()
        self._ended = threading.Event()
        self._former_handlers: dict[int, object] = {}
        self.sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._root)).absolute()
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.write(self._lock, _MARK)  # after the lock: another server that sweeps in between sees no mark
        self._owner = os.getpid()
        atexit.register(self.end)
        threading.Thread(target=self._close_idle_ones, name="visits", daemon=True).start()

    def folder(self, key: str) -> Path:
        """The folder of a visitor, made at the first call. Every call counts as use.

        Args:
          key: anything that tells visitors apart. It never becomes part of a path.

        Raises:
          ValueError: a new visitor, while there are as many as may be or no space is left. The message is for them.
        """
        with self._guard:
            if self._ended.is_set():
                raise ValueError("The server is about to end.")
            if key not in self._visits:
                if len(self._visits) >= self.limits.max_visitors:
                    raise ValueError(
                        f"The server has {len(self._visits)} visitors, and its limit is {self.limits.max_visitors}. "
                        "Try again later, or close another tab."
                    )
                self.free_bytes()
                folder = Path(tempfile.mkdtemp(prefix="visit-", dir=self.path))
                self._visits[key] = _Visit(folder, time.monotonic())
            visit = self._visits[key]
            visit.last_used = time.monotonic()
            return visit.folder

    def use(self, key: str) -> None:
        """Counts as use of a folder that is there; of another visitor it makes none."""
        with self._guard:
            if key in self._visits:
                self._visits[key].last_used = time.monotonic()

    def free_bytes(self) -> int:
        """Bytes that visitors may still write together, at least 1; raises ValueError where there are none.

        Everything below `path` counts.
        """
        used = _bytes_in(self.path)
        if used >= self.limits.max_bytes:
            raise ValueError(
                f"The files on the server take {amount(used)}, and its limit is "
                f"{amount(self.limits.max_bytes)}. Try again later."
            )
        return self.limits.max_bytes - used

    def close(self, key: str) -> None:
        """Removes the folder of a visitor. Who has none, or is gone already, is no error."""
        with self._guard:
            visit = self._visits.pop(key, None)
        if visit is not None:
            _remove(visit.folder)
            try:
                self._on_close(key)
            except Exception:  # the others must be closed, too
                logging.exception("closing the visit %r", key)

    def close_idle(self) -> None:
        """Closes the visitors who did nothing for longer than `max_idle_seconds`."""
        latest = time.monotonic() - self.limits.max_idle_seconds
        with self._guard:
            idle = [key for key, visit in self._visits.items() if visit.last_used < latest]
        for key in idle:
            self.close(key)

    def _close_idle_ones(self) -> None:
        while not self._ended.wait(min(60.0, self.limits.max_idle_seconds / 4)):
            self.close_idle()

    def sweep(self) -> None:
        """Removes the folders of servers that were killed. Those of living ones, and what is not ours, stay.

        Links are not followed. A folder counts as ours if we own it, nobody else may enter it, and its lock file has
        our mark.
        """
        for folder in sorted(self._root.glob(f"{_PREFIX}*")):
            with contextlib.ExitStack() as stack:
                if _is_dead(folder, stack):
                    _remove_server(folder)

    def end(self) -> None:
        """Removes everything. No new visitor is taken after that."""
        if os.getpid() != self._owner:  # a copy of this process that was forked off: not its folders
            return
        with self._guard:
            self._ended.set()
            keys = list(self._visits)
        for key in keys:
            self.close(key)
        _remove_server(self.path)
        atexit.unregister(self.end)
        with self._guard:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> "Visits":
        if threading.current_thread() is threading.main_thread():
            for which in _SIGNALS:
                if signal.getsignal(which) == signal.SIG_DFL:  # `nohup` ignores SIGHUP, and that stays so
                    self._former_handlers[which] = signal.signal(which, _exit)
        return self

    def __exit__(self, *exception) -> None:
        self.end()
        for which, handler in self._former_handlers.items():
            signal.signal(which, handler)


def _exit(which: int, frame) -> None:
    raise SystemExit(128 + which)


def _is_dead(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Whether a folder is that of a server that is no more. If so, we hold its lock until the stack is unwound."""

    def open_(path: Path | str, flags: int, parent: int | None = None) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, dir_fd=parent)
        stack.callback(os.close, descriptor)
        return descriptor

    try:
        parent = open_(folder, os.O_DIRECTORY)
        status = os.fstat(parent)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) != 0o700:
            return False
        lock = open_(_LOCK, os.O_NONBLOCK, parent)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.read(lock, len(_MARK) + 1) == _MARK
    except OSError:  # no folder but a file or a link, without a lock file, or a server that lives holds the lock
        return False


def _bytes_in(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _remove_server(folder: Path) -> None:
    """Removes the folder of a server, its lock file last: where this is interrupted, another one can go on."""
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != _LOCK:
                _remove(path)
    _remove(folder)


def _remove(path: Path) -> None:
    """Removes a file or a folder tree; links in it go, and what they point to stays (`rmtree` sees to that)."""
    for _ in range(3):  # another thread, or a decoder, may still write into it
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        if not os.path.lexists(path):
            return
        time.sleep(0.05)
    logging.warning("%s cannot be removed; the next start of the demo tries again", path)
