"""What the page offers for download: the result of a clip as one file, in each of several formats."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from tarvis_jax.demo.uploads import Clip
from tarvis_jax.inference.video import MIN_OVERLAY_SIDE
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options, ResultVideo, coco_video, cvat_video, datumaro, files
from tarvis_jax.results.panoptic import thing_tracks
from tarvis_jax.results.tracks import VideoResult, write_tracks
from tarvis_jax.visualize.overlay import draw_result
from tarvis_jax.visualize.video import write_video

VIDEO = "clip"  # what the files call the video; names of uploads stay out of them

# Kind of download -> what the page calls it.
FORMATS = {
    "overlay": "Video with the masks drawn in (mp4)",
    "masks": "Masks (zip of PNGs)",
    "tracks": "Tracks (JSON, run lengths)",
    "mots": "MOTS (zip of PNGs)",
    "coco": "COCO for video (JSON)",
    "datumaro": "Datumaro (JSON)",
    "cvat": "CVAT for video (XML, exact masks)",
    "cvat_outlines": "CVAT for video (XML, outlines as its import wants them)",
}
_ZIPS = {"masks": "davis2017", "mots": "mots"}  # kind -> format of which all files are wanted
_SINGLE = {  # kind -> format, and the one file of it that is wanted
    "coco": ("coco_video", coco_video.FILE),
    "datumaro": ("datumaro", datumaro.FILE),
    "cvat": ("cvat_video", f"{VIDEO}/{cvat_video.FILE}"),
    "cvat_outlines": ("cvat_video", f"{VIDEO}/{cvat_video.FILE}"),
}


def write(
    kind: str, result: VideoResult, clip: Clip, class_names: Sequence[str], options: Options, folder: pathlib.Path
) -> pathlib.Path:
    """Writes a result as one file in `folder`, "overlay.mp4" or "cvat.xml" for instance; returns its path.

    - "overlay": an mp4 of the frames with masks, contours and labels over them.
    - "masks": a PNG for each frame. Panoptic results become RGB PNGs of class and id, as in KITTI-STEP; others become
      palette PNGs of ids, as in DAVIS.
    - "tracks": everything that the network said (`results.tracks.read_tracks`).
    - the others: see docs/results.md; they hold the things of a panoptic result.

    All but "tracks" are of the tracks that `shown` gives. Frames are read and written one by one. An earlier file of
    the same kind is replaced when the new one is whole.

    Args:
      kind: one of `FORMATS`.
      result: of the first frames of the clip, or of all.
      clip: its frames are what is drawn upon.
      class_names: of class 1..K; () for given objects.
      options: thing classes and least score; its `class_names` and `polygons` play no part.
      folder: where the file goes; it exists.

    Raises:
      ValueError: an unknown kind, a result of no frame or of more frames than the clip has, or one that the format
        cannot hold, for instance an id above 254 in palette PNGs.
    """
    if kind not in FORMATS:
        raise ValueError(f"download: expected one of {', '.join(FORMATS)}, found {kind!r:.80}")
    if not 0 < result.num_frames <= clip.num_frames:
        raise ValueError(f"download: expected results of 1..{clip.num_frames} frames, found {result.num_frames}")
    folder = pathlib.Path(folder)
    options = dataclasses.replace(options, class_names=tuple(class_names), polygons=kind == "cvat_outlines")
    result = dataclasses.replace(result, video=VIDEO)
    with tempfile.TemporaryDirectory(dir=folder, prefix="download-") as work:
        out = pathlib.Path(work) / "out"
        if kind == "overlay":
            written = _write_overlay(out.with_suffix(".mp4"), shown(result, options), clip, options)
        elif kind == "tracks":
            written = out.with_suffix(".json")
            write_tracks(written, result)
        else:
            written = _write_format(kind, out, shown(result, options), options)
        return written.replace(folder / f"{kind}{written.suffix}")


def shown(result: VideoResult, options: Options) -> VideoResult:
    """The result without weak tracks: those with a class need a score above `options.score_threshold`.

    Of a panoptic result, the tracks of stuff classes are left out, too; stuff is in its semantic maps.
    """
    if result.semantic is not None:
        tracks = thing_tracks(result, options.thing_classes, options.score_threshold)
    else:
        tracks = [each for each in result.tracks if each.class_id is None or each.score > options.score_threshold]
    return dataclasses.replace(result, tracks=tracks)


def _write_overlay(path: pathlib.Path, result: VideoResult, clip: Clip, options: Options) -> pathlib.Path:
    scale = -(-MIN_OVERLAY_SIDE // min(result.size))
    class_names = dict(enumerate(options.class_names, start=1))

    def drawn() -> Iterator[np.ndarray]:
        for frame, name in enumerate(_frame_names(result)):
            image = cv2.imread(str(clip.folder / f"{name}.jpg"))
            if image is None:
                raise ValueError(f"download: frame {frame} of the clip cannot be read")
            yield draw_result(image[..., ::-1], result, frame, class_names=class_names, scale=scale)

    return write_video(path, drawn(), fps=clip.frames_per_second or 10.0)


def _write_format(kind: str, out: pathlib.Path, result: VideoResult, options: Options) -> pathlib.Path:
    if kind == "masks" and result.semantic is not None:
        name, file = "kitti_step", None
    else:
        name, file = _SINGLE[kind] if kind in _SINGLE else (_ZIPS[kind], None)
    formats.module(name).write(out, [ResultVideo(VIDEO, _frame_names(result), lambda: result)], options)
    return files.write_zip(files.zip_beside(out), out) if file is None else out / file


def _frame_names(result: VideoResult) -> tuple[str, ...]:
    """As the files of the clip's frames are called."""
    return tuple(f"{frame:06d}" for frame in range(result.num_frames))
