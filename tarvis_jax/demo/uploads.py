"""Clips that visitors of the demo upload: checked, decoded in a child process with limits, and kept as JPEG frames.

An upload is hostile until shown otherwise. This module reads no more than the first bytes of each file, to know what it
is; the name counts for nothing. `decode.py` does the rest in a process of its own, which the system stops at fixed
amounts of memory, time and disk. What goes wrong there becomes one ValueError here, with a message for the visitor.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated

from tarvis_jax.demo import sandbox
from tarvis_jax.fields import Length, OneOf, Range, check_fields

IMAGES = ("JPEG", "PNG", "WebP", "GIF")
VIDEOS = ("MP4", "AVI", "Matroska")
TYPES = (*VIDEOS, *IMAGES, "ZIP")
HEADER_BYTES = 512  # what `file_type` looks at

_NAME_LENGTH = 80  # characters of a name that is shown
_ANSWER_BYTES = 16_384  # what is read of a child's answer and of its error output
_ROOT = Path(__file__).resolve().parents[2]  # where `tarvis_jax` is found, also by a parent that has "" for it
_CHILD = (sys.executable, "-P", "-m", "tarvis_jax.demo.decode")
_DECODERS = threading.BoundedSemaphore(2)  # decoders at a time in this process; each may take `Limits.max_memory`


@dataclasses.dataclass(frozen=True)
class Limits:
    """What an upload may be.

    Attributes:
      max_bytes: of the uploaded files together, and of what a ZIP archive unpacks to.
      max_image_bytes: of one image file or one member of an archive.
      max_frames: frames of the clip.
      max_pixels: height times width of a frame.
      max_seconds: of decoding, both by the clock and of processor time.
      max_memory: bytes of address space of the decoding process.
      max_frame_bytes: of the frames as they are kept, all together, in JPEG.
      types: which of `TYPES` are taken.
    """

    max_bytes: Annotated[int, Range(1, 2**40)] = 512 * 2**20
    max_image_bytes: Annotated[int, Range(1, 2**32)] = 64 * 2**20
    max_frames: Annotated[int, Range(1, 999_999)] = 3000
    max_pixels: Annotated[int, Range(1, 2**28)] = 3840 * 2160
    max_seconds: Annotated[int, Range(1, 86_400)] = 300
    max_memory: Annotated[int, Range(2**28, 2**40)] = 2 * 2**30
    max_frame_bytes: Annotated[int, Range(1, 2**44)] = 2 * 2**30
    types: Annotated[tuple[Annotated[str, OneOf(TYPES)], ...], Length(1, len(TYPES))] = TYPES

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True)
class Clip:
    """A decoded upload.

    Attributes:
      name: what to call it on the page and in result files: printable, at most 80 characters, without markup. It is
        never a path.
      folder: holds the frames 000000.jpg, 000001.jpg, ... and nothing else.
      num_frames: number of frames, at least 1.
      size: height and width of every frame, in pixels.
      frames_per_second: of a video or an animation; None for still images and where the file does not say.
    """

    name: str
    folder: Path
    num_frames: int
    size: tuple[int, int]
    frames_per_second: float | None


def take_upload(paths: Sequence[Path], folder: Path, limits: Limits) -> Clip:
    """Decodes one video, one ZIP archive of images, one animation, or images into a new folder of frames.

    Images, alone or in an archive, are taken in the natural order of their names (2.png before 10.png).

    Args:
      paths: the uploaded files; they stay as they are.
      folder: exists; the clip gets a folder of its own in it, which is gone again where the upload is refused.
      limits: what is accepted.

    Raises:
      ValueError: the upload is refused. The message is for the visitor and says which file, what is wrong, which limit
        holds and what was found. It has no markup and no path.
    """
    if not paths:
        raise ValueError("Nothing was uploaded: expected one video, one ZIP archive of images, or images.")
    if len(paths) > limits.max_frames:
        raise ValueError(f"{len(paths)} files are more than the limit of {limits.max_frames} frames.")
    files = sorted((display_name(path.name), str(path.absolute())) for path in paths)
    files.sort(key=lambda file: natural_key(file[0]))
    types, num_bytes = [], 0
    for name, path in files:
        with open_regular_file(name, path) as file:
            num_bytes += os.fstat(file.fileno()).st_size
            check_bytes("The upload" if len(files) > 1 else name, num_bytes, limits.max_bytes)
            types.append(file_type(name, file.read(HEADER_BYTES), limits.types))
    if len(files) > 1:
        for (name, _), kind in zip(files, types, strict=True):
            if kind not in IMAGES:
                raise ValueError(
                    f"{name}: {kind} files cannot be combined with other files (found {len(files)} files). "
                    "Upload one video, one ZIP archive of images, or images."
                )
    label = name_of(files[0][0]) if len(files) == 1 else f"{name_of(files[0][0])} and {len(files) - 1} more"
    request = {"files": [[*file, kind] for file, kind in zip(files, types, strict=True)]}
    request["limits"] = dataclasses.asdict(limits)
    try:
        with contextlib.ExitStack() as undo:
            clip_folder = Path(tempfile.mkdtemp(prefix="clip-", dir=folder))
            undo.callback(shutil.rmtree, clip_folder, ignore_errors=True)
            clip = Clip(name=label, folder=clip_folder, **_decode(request, label, clip_folder, limits))
            undo.pop_all()
            return clip
    except FileNotFoundError as error:
        if folder.is_dir():
            raise
        raise ValueError(f"{label}: the visit has ended.") from error


def _decode(request: dict, label: str, folder: Path, limits: Limits) -> dict:
    """Runs `decode.py` with `folder` as its working folder, and returns its answer.

    The child's environment says where Python's packages and libraries lie, and nothing else. It leads a process group
    of its own, so that nothing that it might start outlives it.
    """
    _warn_if_unconfined()
    paths = [str(Path(path).absolute()) for path in sys.path if path] + [str(_ROOT)]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    with (
        _DECODERS,
        tempfile.TemporaryFile() as question,
        tempfile.TemporaryFile() as reply,
        tempfile.TemporaryFile() as errors,
    ):
        question.write(json.dumps(request).encode())
        question.seek(0)
        child = subprocess.Popen(
            _CHILD, stdin=question, stdout=reply, stderr=errors, cwd=folder, env=environment, start_new_session=True
        )
        try:
            in_time = _ends_within(child, limits.max_seconds)
        finally:
            os.killpg(child.pid, signal.SIGKILL)  # before `wait` drops the child, while its number is surely its own
            status = child.wait()
        answer, complaints = _beginning(reply), _beginning(errors)
    if in_time and status == 0:
        return _checked_answer(answer, label, folder, limits)
    num_frames = sum(1 for _ in folder.iterdir())
    if not in_time or status in (-signal.SIGXCPU, -signal.SIGALRM):
        problem = f"decoding takes longer than the limit of {limits.max_seconds} s"
    elif status == -signal.SIGKILL:
        problem = "the system stopped the decoder, probably for want of memory"
    elif status < 0:
        problem = f"the decoder broke down ({signal.Signals(-status).name}); the file is corrupt, or made to do that"
    else:
        logging.error("the decoder of uploads failed: %s", complaints.decode(errors="replace"))
        problem = "the decoder failed, and the log of the server says why"
    raise ValueError(f"{label}: {problem}. It was stopped after {num_frames} frames.")


@functools.cache
def _warn_if_unconfined() -> None:
    """Once in a process."""
    if not sandbox.version():
        logging.warning(
            "this kernel has no Landlock: uploads are decoded with limits on memory, time and disk, but a file that "
            "takes the decoder over can read what this user can read"
        )


def _ends_within(child: subprocess.Popen, seconds: float) -> bool:
    """Waits for the end of a process, without dropping it."""
    deadline = time.monotonic() + seconds
    while os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _checked_answer(answer: bytes, label: str, folder: Path, limits: Limits) -> dict:
    """What the child says of the clip, compared with what it left: a file may have taken the child over."""
    try:
        answer = json.loads(answer)
        if "refused" in answer:
            raise ValueError(str(answer["refused"]))
        (height, width), num_frames = map(int, answer["size"]), int(answer["num_frames"])
        rate = None if answer["frames_per_second"] is None else float(answer["frames_per_second"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{label}: the decoder broke down and gave no answer.") from error
    found = sorted(entry.name for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False))
    if num_frames > limits.max_frames or found != [f"{index:06d}.jpg" for index in range(num_frames)]:
        raise ValueError(f"{label}: the decoder broke down and left {len(found)} frames, expected {num_frames}.")
    return {"size": (height, width), "num_frames": num_frames, "frames_per_second": rate}


def _beginning(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read(_ANSWER_BYTES)


def open_regular_file(name: str, path: str) -> IO[bytes]:
    """Opens a file for reading; raises ValueError for anything else than a regular file, links included."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        raise ValueError(f"{name}: cannot be read ({getattr(error, 'strerror', error)}).") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{name}: not a regular file.")
    return open(descriptor, "rb")


def check_bytes(name: str, num_bytes: int, limit: int) -> None:
    """Raises ValueError for more bytes than the limit."""
    if num_bytes > limit:
        raise ValueError(f"{name}: {num_bytes} bytes are more than the limit of {limit} bytes ({amount(limit)}).")


def file_type(name: str, header: bytes, types: Sequence[str] = TYPES) -> str:
    """The one of `TYPES` that the first `HEADER_BYTES` of a file show; raises ValueError for all others."""
    kind = _recognized(header)
    if kind in types:
        return kind
    found = "an empty file" if not header else f"a {kind} file" if kind in TYPES else kind
    raise ValueError(f"{name}: found {found}. Expected {', '.join(types[:-1])}{' or ' * (len(types) > 1)}{types[-1]}.")


def _recognized(header: bytes) -> str:
    """One of `TYPES`, else words for what it is."""
    for magic, kind in _MAGIC:
        if header.startswith(magic):
            return kind
    if header[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "AVI"}.get(header[8:12], "a RIFF file of another kind")
    if header[4:8] == b"ftyp":
        is_photo = header[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
        return "a photo in HEIC or AVIF" if is_photo else "MP4"
    if header[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "MP4"
    start = header.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"#extm3u", b"ffconcat", b"file ", b"[playlist]")):
        return "a playlist, which names other files"
    if b"<svg" in start:
        return "an SVG drawing"
    if start.startswith((b"<!doctype", b"<html", b"<script", b"<?xml", b"<")):
        return "a web page or other markup"
    if not any(byte < 9 or 13 < byte < 32 for byte in header):
        return "a text file"
    return "a file of an unknown kind"


_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\x1a\x45\xdf\xa3", "Matroska"),
    (b"PK\x03\x04", "ZIP"),
    (b"PK\x05\x06", "ZIP"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a program"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"%PDF", "a PDF file"),
    (b"\x1f\x8b", "another kind of archive"),
    (b"7z\xbc\xaf\x27\x1c", "another kind of archive"),
    (b"Rar!", "another kind of archive"),
    (b"BZh", "another kind of archive"),
    (b"\xfd7zXZ", "another kind of archive"),
)


def display_name(name: str) -> str:
    """The last part of a path as text that can be shown: at most 80 characters of `printable`."""
    shown = printable(re.split(r"[/\\]", name)[-1]).strip(". ") or "unnamed"
    if len(shown) <= _NAME_LENGTH:
        return shown
    stem, suffix = os.path.splitext(shown)
    suffix = suffix if len(suffix) < 10 else ""
    return f"{stem[: _NAME_LENGTH - 1 - len(suffix)]}…{suffix}"


def printable(text: str, most: int | None = None) -> str:
    """Letters, digits, emoji, spaces and "-_.,()+" of a text, at most so many characters.

    Line breaks, controls and marks that turn the direction of writing vanish. Quotes, brackets and whatever else means
    something in HTML or Markdown become "_".
    """
    text = unicodedata.normalize("NFC", text.encode(errors="replace").decode(errors="replace"))
    return " ".join("".join(_shown(character) for character in text).split())[:most]


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if character.isascii():
        return character if character.isalnum() or character in " -_.,()+" else "" if category == "Cc" else "_"
    if category[0] in "LN" or category in ("So", "Sk", "Mc", "Mn"):
        return character
    return " " if category == "Zs" else "" if category[0] == "C" else "_"


def name_of(name: str) -> str:
    """A shown name without its suffix."""
    return os.path.splitext(name)[0] or name


def natural_key(name: str) -> list[tuple]:
    """Sorts numbers in names by their value: 2.png before 10.png. Any length of number costs as much as its text."""
    parts = re.split(r"([0-9]+)", name)
    return [(len(part.lstrip("0")), part.lstrip("0")) if place % 2 else (0, part) for place, part in enumerate(parts)]


def amount(num_bytes: int) -> str:
    """A number of bytes for a message."""
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f}".removesuffix(".0") + f" {name}"
    return f"{num_bytes} bytes"
