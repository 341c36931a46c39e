"""YouTube-VOS: Annotations/<video>/<frame>.png as DAVIS has them, for the annotated frames, in a zip with that folder.

The annotated frames are those that the split's meta.json lists for any object (`options.annotations`); without it all
frames of the result are written, which is right where the network has seen the annotated frames alone.
"""

import pathlib
from collections.abc import Iterable, Iterator

from tarvis_jax.results.formats import davis, files
from tarvis_jax.results.formats.video import DEFAULTS, Options, ResultVideo, loaded

_FOLDER = "Annotations"


def write(output: pathlib.Path, videos: Iterable[ResultVideo], options: Options = DEFAULTS) -> list[pathlib.Path]:
    """Writes <output>/Annotations/<video>/<frame>.png and <output>.zip; returns both.

    Raises:
      ValueError: an id that is no number 1..254; a video or an annotated frame without result, or a video that
        `options.annotations` does not list.
    """
    output = pathlib.Path(output)
    annotated = _annotated_frames(options.annotations)
    missing = set(annotated or ())
    with files.whole_folder(output) as folder:
        for video, result in loaded(videos):
            where = f"video {video.id!r}"
            names: Iterable[str | None] = video.frame_names
            if annotated is not None:
                if video.id not in annotated:
                    raise ValueError(f"{where}: {options.annotations} does not list it")
                absent = sorted(annotated[video.id] - set(video.frame_names))
                if absent:
                    raise ValueError(f"{where}: {len(absent)} annotated frames have no result: {absent[:3]}")
                names = [name if name in annotated[video.id] else None for name in video.frame_names]
                missing.discard(video.id)
            davis.write_frames(folder / _FOLDER / str(video.id), result, names)
            del result
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(annotated)} videos of {options.annotations} have no result: "
                f"{sorted(missing)[:5]}"
            )
    return [output, files.write_zip(files.zip_beside(output), output)]


def read(path: pathlib.Path, options: Options = DEFAULTS) -> Iterator[ResultVideo]:
    """The videos below the folder that holds Annotations, or below Annotations itself; 255 counts as background."""
    path = pathlib.Path(path)
    for name, paths in files.video_folders(path / _FOLDER if (path / _FOLDER).is_dir() else path):
        yield davis.frames_of(name, paths)


def _annotated_frames(path: pathlib.Path | None) -> dict[str, set[str]] | None:
    """Video -> its annotated frames."""
    if path is None:
        return None
    found: dict[str, set[str]] = {}
    for video, entry in files.get(files.read_json(path), "videos", dict, str(path)).items():
        where = f"{path}, videos.{video}"
        for key, target in files.get(entry, "objects", dict, where).items():
            frames = files.get(target, "frames", list, f"{where}.objects.{key}")
            if not all(isinstance(frame, str) for frame in frames):
                raise ValueError(f"{where}.objects.{key}: expected names of frames, found {frames!r:.80}")
            found.setdefault(video, set()).update(frames)
    return found
