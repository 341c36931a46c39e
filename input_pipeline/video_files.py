"""Video files as folders of frames, because training reads single frames at random and video codecs do not."""

import json
import os
import pathlib
import shutil
from collections.abc import Mapping

import cv2

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_SOURCE_FILE = "source.json"  # in a folder of frames: which file they are of; written last
_JPEG_QUALITY = 95


def extract_videos(videos: Mapping[str, pathlib.Path], folder: pathlib.Path) -> None:
    """Writes the frames of every video to folder/<name>/000000.jpg, 000001.jpg, ...; those that are there are kept.

    Args:
      videos: name -> video file.
      folder: made if absent.
    Raises:
      ValueError: a file that cannot be decoded, or frames of another file in its place.
    """
    missing = {name: path for name, path in videos.items() if not _is_extracted(path, folder / name)}
    if missing:
        print(f"writing the frames of {len(missing)} videos to {folder}, once", flush=True)
    for name, path in missing.items():
        _extract(path, folder / name)


def _source(path: pathlib.Path) -> dict:
    found = path.stat()
    return {"file": path.name, "bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def _is_extracted(path: pathlib.Path, folder: pathlib.Path) -> bool:
    if not folder.exists():
        return False
    file = folder / _SOURCE_FILE
    found = json.loads(file.read_text()) if file.is_file() else None
    if found != _source(path):
        raise ValueError(f"{folder}: expected the frames of {path} as it is; remove the folder to write them again")
    return True


def _extract(path: pathlib.Path, folder: pathlib.Path) -> None:
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    capture = cv2.VideoCapture(str(path))
    try:
        count = 0
        while True:
            is_read, image = capture.read()
            if not is_read:
                break
            file = partial / f"{count:06d}.jpg"
            if not cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
                raise ValueError(f"{file}: could not be written")
            count += 1
    finally:
        capture.release()
    if not count:
        shutil.rmtree(partial)
        raise ValueError(f"{path}: not a readable video (truncated, corrupt or an unknown codec)")
    (partial / _SOURCE_FILE).write_text(json.dumps(_source(path)))
    try:
        partial.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
        if not _is_extracted(path, folder):
            raise
