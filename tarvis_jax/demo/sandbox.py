"""A process that sees nothing but some files and one folder, by Linux's Landlock (kernel 5.13 and later).

Who takes over a decoder can do what its process may do. After `confine`, that is to read given paths and to write into
one folder: no other file, no program, and with newer kernels no TCP connection and no signal to other processes. It
needs no privileges and cannot be taken back.
"""

import ctypes
import os
from collections.abc import Iterable

# Numbers of the kernel's interface (include/uapi/linux/landlock.h), the same on all architectures.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_NO_NEW_PRIVILEGES = 38  # of prctl
_WRITE_FILE, _READ_FILE, _READ_DIR, _MAKE_REGULAR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 14
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights a version knows; later ones as the last
_TCP = 0b11  # to bind, to connect; since version 4
_SCOPES = 0b11  # abstract sockets and signals of other processes; since version 6


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("descriptor", ctypes.c_int32)]


def version() -> int:
    """The version of Landlock that the kernel has; 0 where it has none, or where it is switched off."""
    return max(0, ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION_FLAG))


def confine(readable: Iterable[str], folder: str) -> None:
    """Limits this process for good to reading `readable` (files, and folders with all below), and to writing new files
    into `folder`. What is open stays open.

    Raises:
      OSError: a path does not exist, or the kernel has no Landlock.
    """
    known = version()
    files = (1 << _FILE_RIGHTS.get(known, _FILE_RIGHTS[max(_FILE_RIGHTS)])) - 1
    rules = _Ruleset(files, _TCP if known >= 4 else 0, _SCOPES if known >= 6 else 0)
    ruleset = _call(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(ctypes.sizeof(rules)), 0)
    for path in readable:
        _allow(ruleset, path, _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0))
    _allow(ruleset, folder, (_READ_FILE | _WRITE_FILE | _MAKE_REGULAR | _TRUNCATE) & files)
    if ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError("no_new_privs is refused")
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(_PathRule(rights, descriptor)), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(number, *arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
