"""`python -m tarvis_jax.demo.decode`: the child process of `uploads.py` that decodes an upload into 000000.jpg, ...

It reads a request from its input (JSON: limits, and a list of files: shown name, path and type), limits itself, writes
the frames into its working folder and answers with JSON: what the clip is, or why it is refused. Number and size of the
frames are checked before pixels are decoded where the file says them, and again on what comes out. JAX, NumPy and
OpenCV are not imported: it starts in a fraction of a second, and the limit on memory can be small.
"""

import contextlib
import importlib
import io
import json
import os
import resource
import signal
import stat
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import IO, NoReturn

import PIL.GifImagePlugin
import PIL.Image
import PIL.ImageOps
import PIL.JpegImagePlugin
import PIL.PngImagePlugin
import PIL.WebPImagePlugin

from tarvis_jax.demo import sandbox
from tarvis_jax.demo.uploads import (
    HEADER_BYTES,
    IMAGES,
    Limits,
    amount,
    check_bytes,
    display_name,
    file_type,
    natural_key,
    open_regular_file,
    printable,
)

_DEMUXERS = {"MP4": "mov", "AVI": "avi", "Matroska": "matroska"}
_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"sidx", b"mfra", b"free", b"skip", b"wide", b"meta", b"uuid")
_CODECS = (
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "libvpx",
    "libvpx-vp9",
    "av1",
    "libdav1d",
    "libaom-av1",
    "mpeg4",
    "mjpeg",
    "prores",
)
_QUALITY = 95  # of the JPEG frames
_OPEN_FILES = 16
_CHUNK = 2**16  # bytes
_MAX_SIDE = 16_384  # pixels
_UNREADABLE = "cannot be decoded; it is truncated, corrupt or of an unknown variant"


class _Frames:
    """Writes frames under our own names and holds them to the limits."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.count = 0
        self.num_bytes = 0
        self.size: tuple[int, int] | None = None  # width, height
        self.first = ""

    def check(self, name: str, width: int, height: int) -> None:
        """Refuses a size before its pixels exist."""
        if max(width, height) > _MAX_SIDE:
            _refuse(f"{name}: {width}x{height} pixels (width x height); the limit is {_MAX_SIDE} pixels for a side.")
        if width * height > self.limits.max_pixels:
            _refuse(
                f"{name}: {width}x{height} pixels (width x height, together {width * height}) are more than the limit "
                f"of {self.limits.max_pixels} pixels per frame."
            )

    def check_count(self, name: str, count: int, found: str) -> None:
        if count > self.limits.max_frames:
            _refuse(f"{name}: {found} frames are more than the limit of {self.limits.max_frames} frames.")

    def add(self, name: str, where: str, image: PIL.Image.Image) -> None:
        """Writes one frame. `name` is that of the file, `where` that of the frame."""
        self.check_count(name, self.count + 1, f"{self.count + 1} or more")
        self.check(where, *image.size)
        if self.size is None:
            self.size, self.first = image.size, where
        if image.size != self.size:
            _refuse(
                f"Frames differ in size: {where} has {image.size[0]}x{image.size[1]} pixels, {self.first} has "
                f"{self.size[0]}x{self.size[1]} (width x height)."
            )
        path = f"{self.count:06d}.jpg"
        image.save(path, quality=_QUALITY, subsampling=0)
        self.count += 1
        self.num_bytes += os.stat(path).st_size
        if self.num_bytes > self.limits.max_frame_bytes:
            _refuse(
                f"{name}: the first {self.count} frames take {amount(self.num_bytes)} on disk, more than the limit of "
                f"{amount(self.limits.max_frame_bytes)}."
            )


def main() -> None:
    request = json.load(sys.stdin)
    request["limits"]["types"] = tuple(request["limits"]["types"])
    limits = Limits(**request["limits"])
    limit_process(limits, request["files"])
    frames = _Frames(limits)
    name = request["files"][0][0]
    try:
        frames_per_second = _decode(request["files"], frames)
        if not frames.count:
            _refuse(f"{name}: no frame could be read.")
        answer = {
            "num_frames": frames.count,
            "size": [frames.size[1], frames.size[0]],
            "frames_per_second": frames_per_second,
        }
    except ValueError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {
            "refused": f"{name}: decoding needs more memory than the limit of {amount(limits.max_memory)}. "
            f"It was stopped after {frames.count} frames."
        }
    except OSError as error:
        answer = {"refused": f"{name}: frame {frames.count} could not be kept on the server ({error.strerror})."}
    json.dump(answer, sys.stdout)


def limit_process(limits: Limits, files: Sequence[tuple[str, str, str]]) -> None:
    """Limits this process for good: nothing that it decodes can lift the limits again.

    Where the kernel knows how, nothing can be read from here on but the files of the upload and the modules of Python,
    Pillow and PyAV, and nothing can be written but into the working folder.
    """
    modules = [os, PIL]
    if any(kind in _DEMUXERS for _, _, kind in files):
        modules.append(importlib.import_module("av"))  # before the system's libraries are out of sight
    signal.alarm(limits.max_seconds + 1)  # ends it where its parent was killed
    for which, limit in (
        (resource.RLIMIT_AS, limits.max_memory),
        (resource.RLIMIT_FSIZE, limits.max_pixels * 6 + 2**16),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(which, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CPU, (limits.max_seconds, limits.max_seconds + 1))  # SIGXCPU, then SIGKILL
    if sandbox.version():
        sandbox.confine([path for _, path, _ in files] + [os.path.dirname(each.__file__) for each in modules], ".")


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _decode(files: Sequence[tuple[str, str, str]], frames: _Frames) -> float | None:
    """Writes the frames of all files; returns the frames per second, or None."""
    if len(files) == 1:
        name, path, kind = files[0]
        with open_regular_file(name, path) as file:
            if kind == "ZIP":
                return _archive(name, file, frames)
            if kind in _DEMUXERS:
                return _video(name, file, kind, frames)
            check_bytes(name, os.fstat(file.fileno()).st_size, frames.limits.max_image_bytes)
            return _animation(name, file, kind, frames)
    for name, path, kind in files:
        with open_regular_file(name, path) as file:
            check_bytes(name, os.fstat(file.fileno()).st_size, frames.limits.max_image_bytes)
            _still(name, file, kind, frames)
    return None


@contextlib.contextmanager
def _decoding(where: str) -> Iterator[None]:
    """What a decoder raises, of whatever kind, is the file's fault; limits of memory are not."""
    try:
        yield
    except MemoryError:
        raise
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"{where}: {_UNREADABLE} (its header cannot be read).") from error
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(f"{where}: {_UNREADABLE} ({printable(reason, 100)}).") from error


def _open_image(name: str, file: IO[bytes], kind: str, frames: _Frames) -> PIL.Image.Image:
    """Reads the header alone and checks the size."""
    PIL.Image.MAX_IMAGE_PIXELS = None  # Our own limit holds instead.
    with _decoding(name):
        image = PIL.Image.open(file, formats=(kind,))
    frames.check(name, *image.size)
    return image


def _num_images(image: PIL.Image.Image, kind: str) -> int | None:
    """Images in one file, as its header says; None for GIF, which says nothing. A JPEG counts as one: further images in
    it are previews and depths."""
    return {"JPEG": 1, "GIF": None}.get(kind, getattr(image, "n_frames", 1))


def _still(name: str, file: IO[bytes], kind: str, frames: _Frames) -> None:
    image = _open_image(name, file, kind, frames)
    with _decoding(name):
        is_animated = kind != "JPEG" and getattr(image, "is_animated", False)
    if is_animated:
        _refuse(f"{name}: an animation among other images. Expected still images, or one animation alone.")
    with _decoding(name):
        rgb = _rgb(image)
    frames.add(name, name, rgb)


def _animation(name: str, file: IO[bytes], kind: str, frames: _Frames) -> float | None:
    """One image file: a still image is a clip of one frame."""
    image = _open_image(name, file, kind, frames)
    num_images = _num_images(image, kind)
    if num_images is not None:
        frames.check_count(name, num_images, str(num_images))
    milliseconds = 0
    while num_images is None or frames.count < num_images:
        where = f"{name}, frame {frames.count}"
        with _decoding(where):
            if frames.count:
                try:
                    image.seek(frames.count)
                except EOFError:
                    break
            rgb = _rgb(image)
            milliseconds += image.info.get("duration", 0)
        frames.add(name, where, rgb)
    return frames.count * 1000 / milliseconds if milliseconds > 0 and frames.count > 1 else None


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """Decodes to 8-bit RGB, upright. Of 16 bits the upper 8 stay; what is transparent keeps its color, as in OpenCV."""
    image.load()
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    return image.convert("RGB")


def _video(name: str, file: IO[bytes], kind: str, frames: _Frames) -> float | None:
    """The container is what the first bytes say: nothing that names other files is ever tried."""
    import av  # half of the time that this process takes to start, and images do without

    av.logging.set_level(None)
    _check_whole(name, file, kind)
    options = {
        "protocol_whitelist": "none",
        "codec_whitelist": ",".join(_CODECS),
        "max_pixels": str(frames.limits.max_pixels),
    }
    with _decoding(name):
        container = av.open(file, format=_DEMUXERS[kind], options=options)
    with container:
        if not container.streams.video:
            _refuse(f"{name}: has no video, but {len(container.streams)} other streams (sound or text).")
        stream = container.streams.best("video")  # an attached picture is none
        codec = stream.codec_context
        if codec is None or codec.name not in _CODECS:
            found = "unknown" if codec is None else codec.name
            _refuse(
                f"{name}: the video codec {found} is not supported. Expected H.264, H.265, VP8, VP9, AV1 or MPEG-4."
            )
        frames.check(name, codec.width, codec.height)
        frames.check_count(name, stream.frames, str(stream.frames))
        codec.thread_count = 1
        rate = stream.average_rate
        decoded = container.decode(stream)
        while True:
            where = f"{name}, frame {frames.count}"
            with _decoding(where):
                frame = next(decoded, None)
            if frame is None:
                break
            frames.check(where, frame.width, frame.height)
            with _decoding(where):
                image = frame.to_image()
                if frame.rotation:  # phones hold the sensor sideways
                    image = image.rotate(frame.rotation, expand=True)
            frames.add(name, where, image)
    return float(rate) if rate and 0 < rate < 10_000 else None


def _check_whole(name: str, file: IO[bytes], kind: str) -> None:
    """Refuses a container whose outermost parts reach beyond the end of the file: it was cut.

    What is not known to be such a part is not looked at; cameras append things of their own.
    """
    size = os.fstat(file.fileno()).st_size
    end = 0
    while end < size:
        file.seek(end)
        length = {"MP4": _length_of_box, "AVI": _length_of_chunk, "Matroska": _length_of_element}[kind](file.read(16))
        if length is None:
            break
        end += length
    if end > size:
        _refuse(f"{name}: is truncated; its header speaks of {end} bytes or more, the file has {size}.")
    file.seek(0)


def _length_of_box(header: bytes) -> int | None:
    """Bytes of a box of an MP4 file, of which the first 16 bytes are given; None: unknown, or up to the end."""
    if header[4:8] not in _BOXES:
        return None
    length = int.from_bytes(header[:4], "big")
    if length == 1:
        length = int.from_bytes(header[8:16], "big")
    return length if length >= 8 else None


def _length_of_chunk(header: bytes) -> int | None:
    """Bytes of a chunk of an AVI file; None: unknown, or a recording that was never finished."""
    length = int.from_bytes(header[4:8], "little")
    return 8 + length + length % 2 if header[:4] == b"RIFF" and 0 < length < 2**32 - 1 else None


def _length_of_element(header: bytes) -> int | None:
    """Bytes of the header or the segment of a Matroska file; None: unknown, or a recording that was never finished."""
    if not header.startswith((b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67")) or not header[4:5].strip(b"\0"):
        return None
    width = 9 - header[4].bit_length()  # the first bit that is set says how many bytes the length has
    marked = int.from_bytes(header[4 : 4 + width], "big")
    length = marked - (1 << 7 * width)
    return None if length == (1 << 7 * width) - 1 else 4 + width + length


def _archive(name: str, file: IO[bytes], frames: _Frames) -> None:
    """Images of a ZIP archive. Names of members sort them and are shown, and nothing more."""
    with _decoding(name):
        archive = zipfile.ZipFile(file)
        members = [info for info in archive.infolist() if not info.is_dir() and not _is_litter(info.filename)]
    frames.check_count(name, len(members), str(len(members)))
    if not members:
        _refuse(f"{name}: no image in this archive.")
    for info in members:
        _check_member(name, info)
    members.sort(key=lambda info: [natural_key(display_name(part)) for part in info.filename.split("/")])
    left = frames.limits.max_bytes
    for info in members:
        where = f"{display_name(info.filename)} in {name}"
        data = _unpacked(name, where, archive, info, left, frames.limits)
        left -= data.getbuffer().nbytes
        kind = file_type(where, data.read(HEADER_BYTES), IMAGES)
        data.seek(0)
        _still(where, data, kind, frames)


def _is_litter(path: str) -> bool:
    """What macOS and Windows put into archives unasked."""
    return path.startswith("__MACOSX/") or path.split("/")[-1] in (".DS_Store", "Thumbs.db", "desktop.ini")


def _check_member(name: str, info: zipfile.ZipInfo) -> None:
    where = f"{display_name(info.filename)} in {name}"
    path = info.orig_filename.replace("\\", "/")
    if path.startswith("/") or path[1:2] == ":" or ".." in path.split("/"):
        _refuse(f"{where}: its path is absolute or leaves the archive.")
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        _refuse(f"{where}: a link or special file, expected an image.")
    if info.flag_bits & 0x1:
        _refuse(f"{where}: is encrypted.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(f"{where}: compression method {info.compress_type} is not supported (expected stored or deflate).")


def _unpacked(
    name: str, where: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo, left: int, limits: Limits
) -> io.BytesIO:
    """Unpacks a member piece by piece, whatever its header says of its size, up to the limits."""
    data = io.BytesIO()
    with _decoding(where):
        member = archive.open(info)
    with member:
        while True:
            with _decoding(where):
                chunk = member.read(_CHUNK)
            if not chunk:
                break
            data.write(chunk)
            if data.tell() > left:
                _refuse(f"{name}: unpacks to more than the limit of {amount(limits.max_bytes)}.")
            if data.tell() > limits.max_image_bytes:
                _refuse(f"{where}: unpacks to more than the limit of {amount(limits.max_image_bytes)} per image.")
    data.seek(0)
    return data


if __name__ == "__main__":
    main()
