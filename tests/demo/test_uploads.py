"""Uploads: what is taken comes out as it went in; what is hostile ends in one clear message, and nothing is left."""

import dataclasses
import fractions
import functools
import io
import os
import pathlib
import pickle
import re
import stat
import struct
import subprocess
import sys
import time
import warnings
import zipfile
import zlib

import cv2
import numpy as np
import PIL.Image
import pytest

from tarvis_jax.demo import decode, sandbox, uploads
from tarvis_jax.demo.uploads import Limits, display_name, natural_key, take_upload
from tarvis_jax.demo.visits import VisitLimits

av = pytest.importorskip("av", reason="needs av")

LIMITS = Limits(max_bytes=4 * 2**20, max_image_bytes=2**20, max_frames=40, max_pixels=320 * 240, max_seconds=20)
ROOT = pathlib.Path(__file__).resolve().parents[2]
CLAIM = """print('{"num_frames": 1, "size": [48, 64], "frames_per_second": null}')"""  # of a child


# What is taken


def picture(index: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """A uint8 RGB image [H, W, 3] without symmetry; its top left corner says its index."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(0, 120, width)[None]
    image[..., 1] = np.linspace(0, 200, height)[:, None]
    image[: height // 2, : width // 2] = 20 * index % 256
    return image


def encoded(kind: str, image: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def animation(kind: str, count: int, **options) -> bytes:
    images = [PIL.Image.fromarray(picture(i)) for i in range(count)]
    buffer = io.BytesIO()
    images[0].save(buffer, kind, save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def write_video(path, count=6, size=(48, 64), codec="libx264", pixels="yuv420p", options=None, with_sound=False):
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=10, options={"threads": "1"})
        (stream.height, stream.width), stream.pix_fmt = size, pixels
        sound = container.add_stream("aac", rate=44_100) if with_sound else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, *size), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound:
            write_sound(container, sound)
    return path


def write_sound(container, stream):
    frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
    frame.sample_rate, frame.pts = 44_100, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_copies(path, count, stills=None):
    """A video of `count` frames that costs nothing to make: one encoded image, again and again; or these `stills`."""
    stills = stills or [encoded("JPEG", picture(0, 16, 16), quality=20)]
    height, width = cv2.imdecode(np.frombuffer(stills[0], np.uint8), cv2.IMREAD_COLOR).shape[:2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=30)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuvj420p"
        for index in range(count):
            packet = av.Packet(stills[index % len(stills)])
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, fractions.Fraction(1, 30)
            packet.is_keyframe = True
            container.mux(packet)
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def frames_of(clip) -> list[np.ndarray]:
    """The frames of a clip as RGB; the folder must hold nothing else."""
    assert sorted(os.listdir(clip.folder)) == [f"{i:06d}.jpg" for i in range(clip.num_frames)]
    images = [cv2.imread(str(clip.folder / f"{i:06d}.jpg"))[..., ::-1] for i in range(clip.num_frames)]
    assert {image.shape[:2] for image in images} == {clip.size}
    return images


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 3.0) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).mean() < tolerance


def read_with_opencv(path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return frames


@pytest.mark.parametrize(
    "name, options",
    [
        ("plain.mp4", {"with_sound": True}),
        ("first.mp4", {"options": {"movflags": "faststart"}}),
        ("pieces.mp4", {"options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_videos(tmp_path, name, options):
    path = write_video(tmp_path / name, **options)
    clip = take_upload([path], tmp_path, LIMITS)
    assert (clip.name, clip.num_frames, clip.size, clip.frames_per_second) == (path.stem, 6, (48, 64), 10.0)
    for found, expected in zip(frames_of(clip), read_with_opencv(path), strict=True):
        assert_close(found, expected)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1)])
def test_videos_of_phones_are_upright(tmp_path, matrix):
    """As OpenCV shows them; the matrix stands in the box `tkhd`."""
    data = bytearray(write_video(tmp_path / "a.mp4", count=2).read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (number * 2**16 for number in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    (tmp_path / "turned.mp4").write_bytes(data)
    clip = take_upload([tmp_path / "turned.mp4"], tmp_path, LIMITS)
    for found, expected in zip(frames_of(clip), read_with_opencv(tmp_path / "turned.mp4"), strict=True):
        assert_close(found, expected)


def test_images_come_in_natural_order(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in (10, 2, 1)]
    for path in paths:
        path.write_bytes(encoded("PNG", picture(int(path.stem))))
    clip = take_upload(paths, tmp_path, LIMITS)
    assert (clip.name, clip.num_frames, clip.frames_per_second) == ("1 and 2 more", 3, None)
    for found, index in zip(frames_of(clip), (1, 2, 10), strict=True):
        assert_close(found, picture(index))


def test_an_archive(tmp_path):
    """Folders sort, what macOS adds is left out, and the types of images may be mixed."""
    members = [("b/1.webp", encoded("WebP", picture(3))), ("a/10.jpg", encoded("JPEG", picture(2), quality=95))]
    members += [("a/9.png", encoded("PNG", picture(1))), ("__MACOSX/a/._9.png", b"junk"), ("a/.DS_Store", b"junk")]
    clip = take_upload([write_zip(tmp_path / "my clip.zip", members)], tmp_path, LIMITS)
    assert (clip.name, clip.num_frames) == ("my clip", 3)
    for found, index in zip(frames_of(clip), (1, 2, 3), strict=True):
        assert_close(found, picture(index))


@pytest.mark.parametrize("kind", ["GIF", "WebP", "PNG"])
def test_animations(tmp_path, kind):
    (tmp_path / "a").write_bytes(animation(kind, 4, duration=50))
    clip = take_upload([tmp_path / "a"], tmp_path, LIMITS)
    assert clip.frames_per_second == pytest.approx(20)
    for index, found in enumerate(frames_of(clip)):
        assert_close(found, picture(index), 8.0)  # GIF has 256 colors
    assert clip.num_frames == 4


def test_unusual_images(tmp_path):
    """16 bits, CMYK, alpha, palettes, gray, one bit, turned by EXIF: as OpenCV reads them, all in one clip."""
    image, kept = PIL.Image.fromarray(picture(3)), []

    def keep(suffix: str, picture: PIL.Image.Image, **options) -> None:
        picture.save(tmp_path / f"{len(kept)}.{suffix}", **options)
        kept.append(tmp_path / f"{len(kept)}.{suffix}")

    deep = (picture(3)[..., 1].astype(np.uint16) * 256) + 7
    for pixels in (deep, np.stack([deep, deep // 2, deep // 3], axis=-1)):
        kept.append(tmp_path / f"{len(kept)}.png")
        assert cv2.imwrite(str(kept[-1]), pixels)
    keep("jpg", image.convert("CMYK"), quality=95)
    transparent = image.convert("RGBA")
    transparent.putalpha(40)
    keep("png", transparent)
    keep("png", image.convert("LA"))
    keep("png", image.quantize(16))
    keep("png", image.convert("1"))
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    keep("jpg", image.rotate(90, expand=True), quality=95, exif=exif)
    clip = take_upload(kept, tmp_path, LIMITS)
    for found, path in zip(frames_of(clip), kept, strict=True):
        tolerance = 8.0 if path.name == "2.jpg" else 3.0  # CMYK has many ways to RGB
        assert_close(found, cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1], tolerance)


@pytest.mark.parametrize(
    "suffix, codec, kind", [("mp4", "libx264", "MP4"), ("avi", "mpeg4", "AVI"), ("mkv", "libx264", "Matroska")]
)
def test_the_length_that_a_container_says(tmp_path, suffix, codec, kind):
    """A file without its last byte is refused; what cameras append is left alone."""
    path = write_video(tmp_path / f"a.{suffix}", count=2, codec=codec)
    data = path.read_bytes()
    for changed in (data, data + b"\xff\xf0\x00 made by a camera", data + b"x"):
        path.write_bytes(changed)
        with open(path, "rb") as file:
            decode._check_whole("a", file, kind)
            assert file.tell() == 0
    path.write_bytes(data[:-1])
    message = f"a: is truncated; its header speaks of {len(data)} bytes or more, the file has {len(data) - 1}."
    with open(path, "rb") as file, pytest.raises(ValueError, match=re.escape(message)):
        decode._check_whole("a", file, kind)


def test_uploads_from_anywhere(tmp_path):
    """The child finds its program, whatever "" in the parent's path means by then (`python -c`, notebooks)."""
    (tmp_path / "a.png").write_bytes(IMAGE)
    code = """
import os, pathlib, sys
from tarvis_jax.demo.uploads import Limits, take_upload
os.chdir(sys.argv[1])
print(take_upload([pathlib.Path("a.png")], pathlib.Path("."), Limits()).size)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "(48, 64)\n"


def test_two_clips_in_one_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG", picture(1)))
    first, second = (take_upload([tmp_path / "a.png"], tmp_path, LIMITS) for _ in range(2))
    assert first.folder != second.folder and {first.folder.parent, second.folder.parent} == {tmp_path}
    assert stat.S_IMODE(first.folder.stat().st_mode) == 0o700


# What is not


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, bits: int = 1) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))


@functools.cache
def png_bomb() -> bytes:
    """A black square of 12000x12000 pixels of one bit: 18 kB, and 432 MB as RGB."""
    data = zlib.compress(bytes((1 + 12_000 // 8) * 12_000))
    return png_header(12_000, 12_000) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def zip_with(path: str, data: bytes = b"", mode: int = stat.S_IFREG | 0o644) -> bytes:
    info = zipfile.ZipInfo("0.png")
    info.filename = path  # the constructor would tidy it
    info.external_attr = mode << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(info, data or encoded("PNG", picture()), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def zip_of(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of equal names
        write_zip(buffer, members)
    return buffer.getvalue()


def lying_zip() -> bytes:
    """A member of 2 MiB that both of its headers call one of 100 bytes."""
    data = zip_of(("0.png", encoded("PNG", picture()) + bytes(2 * 2**20)))
    size = struct.pack("<I", len(encoded("PNG", picture())) + 2 * 2**20)
    assert data.count(size) == 2
    return data.replace(size, struct.pack("<I", 100))


def many_gif_frames(count: int) -> bytes:
    """Frames of one pixel, 15 bytes each."""
    frame = b"\x2c\0\0\0\0\1\0\1\0\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * count + b"\x3b"


def video(folder: pathlib.Path, **options) -> bytes:
    return write_video(folder / f"made.{options.pop('suffix', 'mp4')}", **options).read_bytes()


def sound_only(folder: pathlib.Path) -> bytes:
    with av.open(str(folder / "made.mp4"), "w") as container:
        write_sound(container, container.add_stream("aac", rate=44_100))
    return (folder / "made.mp4").read_bytes()


def varying_video(folder: pathlib.Path) -> bytes:
    stills = [encoded("JPEG", picture(0, 48, 64)), encoded("JPEG", picture(0, 48, 80))]
    return write_copies(folder / "made.avi", 4, stills).read_bytes()


def huge_motion_jpeg(folder: pathlib.Path) -> bytes:
    """The header of the first JPEG says so, that of the container does not."""
    data = write_copies(folder / "made.avi", 2).read_bytes()
    return re.sub(rb"(\xff\xc0\x00\x11\x08)\x00\x10\x00\x10", lambda found: found[1] + b"\xff\xdc" * 2, data)


def lying_video(folder: pathlib.Path) -> bytes:
    """One frame, and a header that says 4 billion."""
    data = bytearray(video(folder, count=1))
    stsz, stts = data.index(b"stsz"), data.index(b"stts")
    data[stsz + 8 : stsz + 16] = struct.pack(">II", 10, 2**32 - 1)  # all samples have 10 bytes, and so many there are
    data[stts + 12 : stts + 16] = struct.pack(">I", 2**32 - 1)
    return bytes(data)


IMAGE = encoded("PNG", picture())
TEXT_EXPECTED = "Expected MP4, AVI, Matroska, JPEG, PNG, WebP, GIF or ZIP."
PLAYLIST = "found a playlist, which names other files. " + TEXT_EXPECTED

# name of the case: (name of the file, its bytes or what makes them in a folder, the message)
HOSTILE = {
    "zip bomb, one member": (
        "a.zip",
        lambda _: zip_of(("0.png", IMAGE + bytes(16 * 2**20))),
        "0.png in a.zip: unpacks to more than the limit of 1 MiB per image.",
    ),
    "zip bomb, many members": (
        "a.zip",
        lambda _: zip_of(*((f"{i}.png", IMAGE + bytes(900 * 2**10)) for i in range(10))),
        "a.zip: unpacks to more than the limit of 4 MiB.",
    ),
    "zip of 2000 members": (
        "a.zip",
        lambda _: zip_of(*((f"{i}.png", b"") for i in range(2000))),
        "a.zip: 2000 frames are more than the limit of 40 frames.",
    ),
    "zip with lying sizes": ("a.zip", lambda _: lying_zip(), r"0.png in a.zip: cannot be decoded; .*CRC"),
    "zip, truncated": ("a.zip", lambda _: zip_of(("0.png", IMAGE))[:-30], "a.zip: cannot be decoded"),
    "nested zip": (
        "a.zip",
        lambda _: zip_of(("0.png", IMAGE), ("1.zip", zip_of(("0.png", IMAGE)))),
        "1.zip in a.zip: found a ZIP file. Expected JPEG, PNG, WebP or GIF.",
    ),
    "zip with ../": ("a.zip", lambda _: zip_with("../../x.png"), "x.png in a.zip: its path is absolute or leaves"),
    "zip with a link": (
        "a.zip",
        lambda _: zip_with("0.png", b"/etc/passwd", stat.S_IFLNK | 0o777),
        "0.png in a.zip: a link or special file, expected an image.",
    ),
    "zip with a text": ("a.zip", lambda _: zip_of(("a.txt", b"hello")), "a.txt in a.zip: found a text file."),
    "PNG bomb": (
        "a.png",
        lambda _: png_bomb(),
        r"a.png: 12000x12000 pixels \(width x height, together 144000000\) are more than the limit of 76800 pixels",
    ),
    "100000x100000 pixels": (
        "a.png",
        lambda _: png_header(100_000, 100_000) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND", b""),
        r"a.png: 100000x100000 pixels \(width x height\); the limit is 16384 pixels for a side.",
    ),
    "PNG of 16385x1": (
        "a.png",
        lambda _: encoded("PNG", picture(0, 1, 16_385)),
        r"a.png: 16385x1 pixels \(width x height\); the limit is 16384 pixels for a side.",
    ),
    "large video": ("a.mp4", lambda f: video(f, size=(240, 322), count=1), "a.mp4: 322x240 pixels .* limit of 76800"),
    "AVI of 65500x65500": ("a.avi", huge_motion_jpeg, "a.avi, frame 0: cannot be decoded"),
    "video, too many frames": ("a.mp4", lambda f: video(f, count=41), "a.mp4: 41 frames are more than the limit of 40"),
    "video, frames uncounted": (
        "a.mkv",
        lambda f: write_copies(f / "m.mkv", 41).read_bytes(),
        "a.mkv: 41 or more frames are more than the limit of 40 frames.",
    ),
    "truncated mp4": (
        "a.mp4",
        lambda f: video(f)[:-700],
        r"a.mp4: is truncated; its header speaks of \d+ bytes or more, the file has \d+.",
    ),
    "truncated mp4, header first": (
        "a.mp4",
        lambda f: video(f, options={"movflags": "faststart"})[:-100],
        r"a.mp4: is truncated; its header speaks of \d+ bytes or more, the file has \d+.",
    ),
    "truncated Matroska": ("a.mkv", lambda f: video(f, suffix="mkv")[:-200], "a.mkv: is truncated; its header speaks"),
    "mp4 of zeros": ("a.mp4", lambda f: video(f)[:40] + bytes(5000), "a.mp4: cannot be decoded"),
    "mp4 that lies": ("a.mp4", lying_video, "a.mp4: (4294967295 frames are more|cannot be decoded)"),
    "audio only": ("a.mp4", sound_only, "a.mp4: has no video, but 1 other streams"),
    "other codec": ("a.mkv", lambda f: video(f, suffix="mkv", codec="ffv1"), "a.mkv: the video codec ffv1 is not"),
    "video of varying size": (
        "a.avi",
        varying_video,
        r"Frames differ in size: a.avi, frame 1 has 80x48 pixels, a.avi, frame 0 has 64x48 \(width x height\).",
    ),
    "text named .mp4": ("a.mp4", lambda _: b"hello there\n" * 9, "a.mp4: found a text file. " + TEXT_EXPECTED),
    "program named .png": ("a.png", lambda _: b"\x7fELF" + bytes(500), "a.png: found a program. " + TEXT_EXPECTED),
    "nothing": ("a.png", lambda _: b"", "a.png: found an empty file. " + TEXT_EXPECTED),
    "SVG": ("a.svg", lambda _: b'<?xml version="1.0"?><svg onload="x()"/>', "a.svg: found an SVG drawing. "),
    "HTML": ("a.jpg", lambda _: b"\n<!DOCTYPE html><script>alert(1)</script>", "a.jpg: found a web page or other"),
    "m3u8": ("a.mp4", lambda _: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "a.mp4: " + PLAYLIST),
    "ffconcat": ("a.mkv", lambda _: b"ffconcat version 1.0\nfile /etc/passwd\n", "a.mkv: " + PLAYLIST),
    "concat": ("a.avi", lambda _: b"file 'http://example.org/a'\n", "a.avi: " + PLAYLIST),
    "pickle named .npy": ("a.npy", lambda _: pickle.dumps([1], 4), "a.npy: found a Python pickle. " + TEXT_EXPECTED),
    "NumPy array of objects": ("a.npy", lambda _: b"\x93NUMPY\1\0", "a.npy: found a NumPy array. "),
    "HEIC": ("a.jpg", lambda _: b"\0\0\0\x18ftypheic" + bytes(40), "a.jpg: found a photo in HEIC or AVIF. "),
    "GIF of 60000 frames": ("a.gif", lambda _: many_gif_frames(60_000), "a.gif: 41 or more frames are more than"),
    "corrupt JPEG": (
        "a.jpg",
        lambda _: encoded("JPEG", picture())[:-60],
        "a.jpg, frame 0: cannot be decoded; it is truncated, corrupt or of an unknown variant",
    ),
    "large file": (
        "a.mp4",
        lambda f: video(f) + bytes(2**22),
        r"a.mp4: 41\d+ bytes are more than the limit of 4194304 bytes \(4 MiB\).",
    ),
    "large image": (
        "a.png",
        lambda _: IMAGE + bytes(2**20),
        r"a.png: 10\d+ bytes are more than the limit of 1048576 bytes \(1 MiB\).",
    ),
}


def refusal(paths, folder, limits=LIMITS) -> str:
    """The message of a refused upload, of which nothing stays; it is one line and names no path of the server."""
    out = folder / "out"
    out.mkdir(exist_ok=True)
    with pytest.raises(ValueError) as caught:
        take_upload(paths, out, limits)
    assert not list(out.iterdir())
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and str(folder) not in message and "<" not in message
    return message


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_uploads(tmp_path, case):
    name, data, expected = HOSTILE[case]
    (tmp_path / name).write_bytes(data(tmp_path))
    start = time.monotonic()
    message = refusal([tmp_path / name], tmp_path)
    print(f"| {case} | {message} | {time.monotonic() - start:.2f} |")
    assert re.match(expected, message)


NAMES = {
    "a" * 250 + ".png": "a" * 75 + "….png",
    "a\nb\r\x07.png": "ab.png",
    "gnp.\u202eexe.png": "gnp.exe.png",
    "\u200b\u2066x\ufeff.png": "x.png",
    "film 🎬 café 映画.png": "film 🎬 café 映画.png",
    "<img src=x onerror=alert(1)>.png": "_img src_x onerror_alert(1)_.png",
    "'\"`$(rm -rf ~);&|*?[a](b)#.png": "____(rm -rf _)______a_(b)_.png",
    "-rf.png": "-rf.png",
    "..png": "png",
    " .png": "png",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_shown_and_nothing_more(name):
    assert display_name(name) == NAMES[name]


def test_names_of_folders_and_bytes():
    assert display_name("C:\\temp\\x.png") == display_name("../../x.png") == display_name("/etc/x.png") == "x.png"
    assert display_name("a\0b.png") == "ab.png"
    assert display_name(os.fsdecode(b"a\xff.png")) == "a_.png"
    assert display_name("") == display_name("...") == display_name("\n") == "unnamed"


def test_odd_names_are_taken(tmp_path):
    """All in one clip; the frames have our names."""
    paths = [tmp_path / name for name in NAMES if "/" not in name]
    for path in paths:
        path.write_bytes(IMAGE)
    clip = take_upload(paths, tmp_path, LIMITS)
    assert len(frames_of(clip)) == len(NAMES)
    message = refusal([tmp_path / "a\0b.png"], tmp_path)
    assert message == "ab.png: cannot be read (embedded null byte)."


def test_odd_names_in_archives_and_messages(tmp_path):
    """What an archive calls its members reaches a message in printable form only, whoever quotes it."""
    data = zip_with("<script>\u202e\n.png")
    (tmp_path / "a.zip").write_bytes(data)
    assert take_upload([tmp_path / "a.zip"], tmp_path, LIMITS).num_frames == 1
    place = data.rindex(b"<script>")
    (tmp_path / "a.zip").write_bytes(data[:place] + b"<SCRIPT>" + data[place + 8 :])  # another name in the list
    message = refusal([tmp_path / "a.zip"], tmp_path)
    assert message.startswith("_SCRIPT_.png in a.zip: cannot be decoded") and message.isprintable()


def test_natural_order():
    names = ["10.png", "9.png", "a10b2", "a10b1", "a9", "009.png", "1" * 10_000, "b"]
    assert sorted(names, key=natural_key) == ["9.png", "009.png", "10.png", "1" * 10_000, "a9", "a10b1", "a10b2", "b"]


@pytest.mark.parametrize(
    "path",
    ["../x.png", "a/../../x.png", "..", "/etc/x.png", "\\x.png", "C:\\x.png", "a\\..\\..\\x.png", "../x.png\0.png"],
)
def test_paths_of_members_that_leave_an_archive(path):
    info = zipfile.ZipInfo(path)
    with pytest.raises(ValueError, match=" in a.zip: its path is absolute or leaves the archive."):
        decode._check_member("a.zip", info)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("external_attr", (stat.S_IFIFO | 0o600) << 16, "a link or special file, expected an image"),
        ("external_attr", (stat.S_IFBLK | 0o600) << 16, "a link or special file, expected an image"),
        ("flag_bits", 0x1, "is encrypted"),
        ("compress_type", zipfile.ZIP_LZMA, "compression method 14 is not supported"),
    ],
)
def test_members_of_other_kinds(field, value, message):
    info = zipfile.ZipInfo("x.png")
    decode._check_member("a.zip", info)
    setattr(info, field, value)
    with pytest.raises(ValueError, match=f"x.png in a.zip: {message}"):
        decode._check_member("a.zip", info)


def test_several_files(tmp_path):
    paths = {name: tmp_path / name for name in ("a.png", "b.png", "c.mp4", "d.gif", "e.zip", "f.png")}
    paths["a.png"].write_bytes(IMAGE)
    paths["b.png"].write_bytes(encoded("PNG", picture(0, 50, 64)))
    write_video(paths["c.mp4"], count=1)
    paths["d.gif"].write_bytes(animation("GIF", 2))
    write_zip(paths["e.zip"], [("a.png", IMAGE)])
    paths["f.png"].write_bytes(IMAGE)

    def refused(*names: str, limits: Limits = LIMITS) -> str:
        return refusal([paths[name] for name in names], tmp_path, limits)

    expected = "Frames differ in size: b.png has 64x50 pixels, a.png has 64x48 (width x height)."
    assert refused("f.png", "b.png", "a.png") == expected
    assert refused("a.png", "c.mp4").startswith("c.mp4: MP4 files cannot be combined with other files (found 2 files).")
    assert refused("e.zip", "a.png").startswith("e.zip: ZIP files cannot be combined")
    assert refused("a.png", "d.gif").startswith("d.gif: an animation among other images.")
    assert refused().startswith("Nothing was uploaded")
    assert refused("a.png", "f.png", limits=Limits(max_frames=1)) == "2 files are more than the limit of 1 frames."
    assert refused("a.png", "f.png", limits=Limits(max_bytes=len(IMAGE))).startswith("The upload: ")
    assert refused("a.png", limits=Limits(types=("MP4", "ZIP"))) == "a.png: found a PNG file. Expected MP4 or ZIP."


def test_links_folders_and_pipes_are_no_files(tmp_path):
    (tmp_path / "secret.png").write_bytes(IMAGE)
    (tmp_path / "link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert refusal([tmp_path / "link.png"], tmp_path) == "link.png: cannot be read (Too many levels of symbolic links)."
    assert refusal([tmp_path / "pipe.png"], tmp_path) == "pipe.png: not a regular file."
    assert refusal([tmp_path], tmp_path).endswith(": not a regular file.")
    assert refusal([tmp_path / "none.png"], tmp_path) == "none.png: cannot be read (No such file or directory)."


# The child process


def test_memory_is_limited(tmp_path):
    """An image that the limit on pixels lets through."""
    (tmp_path / "a.png").write_bytes(png_bomb())
    limits = dataclasses.replace(LIMITS, max_pixels=2**28, max_memory=2**28)
    message = refusal([tmp_path / "a.png"], tmp_path, limits)
    assert message == "a.png: decoding needs more memory than the limit of 256 MiB. It was stopped after 0 frames."


def test_time_is_limited(tmp_path):
    (tmp_path / "a.gif").write_bytes(many_gif_frames(60_000))
    limits = dataclasses.replace(LIMITS, max_frames=900_000, max_seconds=1, max_bytes=2**30)
    start = time.monotonic()
    message = refusal([tmp_path / "a.gif"], tmp_path, limits)
    assert re.fullmatch(r"a: decoding takes longer than the limit of 1 s\. It was stopped after \d+ frames\.", message)
    assert time.monotonic() - start < 10


def test_disk_is_limited(tmp_path):
    (tmp_path / "a.gif").write_bytes(animation("GIF", 20))
    message = refusal([tmp_path / "a.gif"], tmp_path, dataclasses.replace(LIMITS, max_frame_bytes=10_000))
    assert re.fullmatch(r"a\.gif: the first \d+ frames take 1\d\.?\d? KiB on disk, .* limit of 9\.8 KiB\.", message)


@pytest.mark.parametrize(
    "deed, expected",
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            r"a: the decoder broke down \(SIGSEGV\); the file is corrupt, or made to",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "a: the system stopped the decoder, probably for want of memory"),
        ("os.abort()", r"a: the decoder broke down \(SIGABRT\)"),
        ("1 / 0", "a: the decoder failed, and the log of the server says why"),
        ("print('hello')", "a: the decoder broke down and gave no answer"),
        ("print('[1]')", "a: the decoder broke down and gave no answer"),
        ("print('x' * 10**6)", "a: the decoder broke down and gave no answer"),
        (CLAIM, "a: the decoder broke down and left 0 frames, expected 1"),
        (
            "os.symlink('/etc/passwd', '000000.jpg'); " + CLAIM,
            "a: the decoder broke down and left 0 frames, expected 1",
        ),
        ("open('x', 'w'); " + CLAIM, "a: the decoder broke down and left 1 frames, expected 1"),
    ],
)
def test_a_child_that_breaks_down_or_is_taken_over(tmp_path, monkeypatch, deed, expected):
    monkeypatch.setattr(uploads, "_CHILD", (sys.executable, "-S", "-c", f"import json, os, signal; {deed}"))
    (tmp_path / "a.png").write_bytes(IMAGE)
    assert re.match(expected, refusal([tmp_path / "a.png"], tmp_path))


def test_nothing_that_a_child_starts_outlives_it(tmp_path, monkeypatch):
    """Neither where it ends, nor where its time is over; and it sees nothing of our environment."""
    code = """
import os, sys, time
if os.fork() == 0:
    open(sys.argv[1], "w").write(f"{os.getpid()} {sorted(os.environ)}")
    time.sleep(60)
while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
    time.sleep(0.01)
time.sleep(float(sys.argv[2]))
"""
    monkeypatch.setenv("SECRET", "password")
    (tmp_path / "a.png").write_bytes(IMAGE)
    for seconds, expected in ((0, "gave no answer"), (60, "takes longer than the limit of 1 s")):
        note = tmp_path / f"{seconds}.txt"
        monkeypatch.setattr(uploads, "_CHILD", (sys.executable, "-S", "-c", code, str(note), str(seconds)))
        assert expected in refusal([tmp_path / "a.png"], tmp_path, dataclasses.replace(LIMITS, max_seconds=1))
        number, environment = note.read_text().split(" ", 1)
        assert "PYTHONPATH" in environment and "SECRET" not in environment and "HOME" not in environment
        wait_until_dead(int(number))


def test_a_child_that_is_taken_over_sees_the_upload_and_its_folder(tmp_path, monkeypatch):
    """Landlock in the child as it really starts: what a decoder tries after the limits."""
    if not sandbox.version():
        pytest.skip("needs a kernel with Landlock (5.13 or later, switched on)")
    code = """
import os, signal, socket, subprocess, sys
from tarvis_jax.demo import decode

def spy(files, frames):
    (_, upload, _), secret = files[0], os.path.join(os.path.dirname(files[0][1]), "secret.txt")
    deeds = {
        "upload": lambda: open(upload, "rb").read(),
        "frame": lambda: open("000000.jpg", "w").write("x"),
        "secret": lambda: open(secret).read(),
        "system": lambda: open("/etc/passwd").read(),
        "list": lambda: os.listdir("/"),
        "write": lambda: open("../x", "w"),
        "overwrite": lambda: open(upload, "w"),
        "link": lambda: os.symlink("/etc/passwd", "000001.jpg"),
        "folder": lambda: os.mkdir("folder"),
        "remove": lambda: os.remove("000000.jpg"),
        "program": lambda: os.execv("/bin/sh", ["sh", "-c", "echo"]),
        "kill": lambda: os.kill(os.getppid(), 0),
        "connect": lambda: socket.create_connection(("127.0.0.1", 9)),
    }
    done = []
    for name, deed in deeds.items():
        try:
            deed()
            done.append(name)
        except PermissionError:
            pass
        except OSError as error:
            done.append(f"{name} {error}")
    raise ValueError("done: " + ", ".join(done))

decode._decode = spy
decode.main()
"""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "a.png").write_bytes(IMAGE)
    monkeypatch.setattr(uploads, "_CHILD", (sys.executable, "-P", "-c", code))
    allowed = ["upload", "frame"] + ["kill"] * (sandbox.version() < 6)
    found = refusal([tmp_path / "a.png"], tmp_path).removeprefix("done: ").split(", ")
    if sandbox.version() < 4:
        found = [name for name in found if not name.startswith("connect")]
    assert found == allowed


def test_a_kernel_without_landlock_is_mentioned_once(monkeypatch, caplog):
    monkeypatch.setattr(sandbox, "version", lambda: 0)
    uploads._warn_if_unconfined.cache_clear()
    for _ in range(2):
        uploads._warn_if_unconfined()
    uploads._warn_if_unconfined.cache_clear()
    assert len(caplog.records) == 1 and "this kernel has no Landlock" in caplog.text


def wait_until_dead(number: int) -> None:
    """A killed orphan may stay in the list for a moment, without a program."""
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{number}") and " Z " not in pathlib.Path(f"/proc/{number}/stat").read_text():
        assert time.monotonic() < deadline, f"process {number} still runs"
        time.sleep(0.01)


def test_a_visit_that_ends_while_its_upload_is_decoded(tmp_path, monkeypatch):
    """The folder vanishes under the child."""
    (tmp_path / "a.png").write_bytes(IMAGE)
    folder = tmp_path / "visit"
    with pytest.raises(ValueError, match="a: the visit has ended."):
        take_upload([tmp_path / "a.png"], folder, LIMITS)
    folder.mkdir()
    code = f"import shutil; shutil.rmtree({str(folder)!r})"
    monkeypatch.setattr(uploads, "_CHILD", (sys.executable, "-S", "-c", f"{code}; {CLAIM}"))
    with pytest.raises(ValueError, match="a: the visit has ended."):
        take_upload([tmp_path / "a.png"], folder, LIMITS)


def test_the_child_limits_itself_and_loads_little():
    code = """
import resource, sys
from tarvis_jax.demo import decode, uploads
decode.limit_process(uploads.Limits(max_seconds=7, max_memory=2**29), [])
print([resource.getrlimit(which) for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_CORE)])
print(sorted({"jax", "numpy", "cv2", "tensorflow"} & set(sys.modules)))
"""
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [str([(2**29, 2**29), (7, 8), (0, 0)]), "[]"]


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"max_frames: expected 1..999999, found 0; types.0.: expected .*'EXE'"):
        Limits(max_frames=0, types=("EXE",))


def test_the_limits_in_the_docs():
    limits, visits = Limits(), VisitLimits()
    table = [
        ("files of an upload together, and what a ZIP archive unpacks to", uploads.amount(limits.max_bytes)),
        ("one image file", uploads.amount(limits.max_image_bytes)),
        ("frames of a clip", limits.max_frames),
        ("pixels of a frame", f"{limits.max_pixels} (3840 x 2160), and {decode._MAX_SIDE} for a side"),
        ("time of decoding", f"{limits.max_seconds} s"),
        ("memory of the decoding process", uploads.amount(limits.max_memory)),
        ("frames of a clip as they are kept, in JPEG", uploads.amount(limits.max_frame_bytes)),
        ("visitors at a time", visits.max_visitors),
        ("files of all visitors", uploads.amount(visits.max_bytes)),
    ]
    page = (ROOT / "docs/demo.md").read_text()
    for what, limit in table:
        assert f"| {what} | {limit} |" in page
    assert visits.max_idle_seconds == 3600 and "| a page without use | closed after an hour |" in page


@pytest.mark.long
@pytest.mark.parametrize("suffix, found", [("mp4", "100000"), ("mkv", "3001 or more"), ("avi", "100000")])
def test_video_of_100000_frames(tmp_path, suffix, found):
    path = write_copies(tmp_path / f"a.{suffix}", 10**5)
    expected = f"a.{suffix}: {found} frames are more than the limit of 3000 frames."
    assert refusal([path], tmp_path, Limits()) == expected


@pytest.mark.long
def test_damaged_files_end_in_messages(tmp_path):
    """Bytes changed at random: each file is taken, or refused with one message; nothing else happens."""
    random = np.random.default_rng(0)
    kinds = {kind: animation(kind, 3) for kind in ("GIF", "WebP", "PNG")}
    kinds |= {"jpg": encoded("JPEG", picture()), "zip": zip_of(("0.png", IMAGE), ("1.png", IMAGE))}
    kinds |= {suffix: video(tmp_path, suffix=suffix) for suffix in ("mp4", "mkv")}
    kinds |= {"avi": video(tmp_path, suffix="avi", codec="mpeg4")}
    taken = 0
    for kind, data in kinds.items():
        for _ in range(10):
            changed = bytearray(data)
            for place in random.integers(12, len(data), random.integers(1, 8)):
                changed[place] = random.integers(256)
            (tmp_path / f"a.{kind}").write_bytes(changed)
            try:
                taken += len(frames_of(take_upload([tmp_path / f"a.{kind}"], tmp_path, LIMITS))) > 0
            except ValueError as error:
                assert f"a.{kind}: " in str(error) or f"a.{kind}, " in str(error)
    assert 0 < taken < 10 * len(kinds)
