"""Turns tracks, as `--mode=infer` leaves them, into the files of a benchmark or of a labeling tool.

python -m tarvis_jax.results FORMAT --tracks PATH --output FOLDER [options]
"""

import argparse
import dataclasses
import pathlib
import re

from tarvis_jax import command_line
from tarvis_jax.datasets import DATASETS
from tarvis_jax.results import formats
from tarvis_jax.results.formats import Options, ResultVideo
from tarvis_jax.results.tracks import read_tracks

VIDEO = "{video}"
_IMAGES = (".jpg", ".jpeg", ".png")
_SETTINGS = ("score_threshold", "max_predictions")
_WITH_THINGS = ("kitti_step", "cityscapes_vps", "vipseg")


def main(arguments: list[str]) -> None:
    """Prints the paths of what it has written; ValueError for tracks that do not fit the format."""
    parser = command_line.Parser(
        prog="python -m tarvis_jax.results",
        description="Writes result files of a benchmark or of a labeling tool from files of tracks.",
        epilog="docs/results.md explains the formats. --debug shows the traceback of errors.",
    )
    parser.add_argument("format", metavar="FORMAT", help=", ".join(formats.FORMATS))
    parser.add_argument(
        "--tracks", type=pathlib.Path, required=True, help="a tracks file, or a folder with one for each video"
    )
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the folder to write")
    parser.add_argument("--frames", help=f"folder of a video's frames, {VIDEO} for its name: names of the frames")
    parser.add_argument("--annotations", type=pathlib.Path, help="the benchmark's own JSON of the split")
    parser.add_argument("--dataset", help="row of the table of datasets; the default is what the tracks say")
    parser.add_argument("--class_names", help="names of class 1..K, a+b+c; the default is those of the dataset")
    parser.add_argument("--min_score", type=float, default=0.0, help="tracks below it are left out, in every format")
    parser.add_argument("--score_threshold", type=float, help="VPS: tracks up to this score are left out")
    parser.add_argument("--max_predictions", type=int, help="VIS: (track, class) pairs of a video")
    parser.add_argument(
        "--image_suffix", default=Options.image_suffix, help="labeling tools: what files of frames end in"
    )
    parser.add_argument("--polygons", action="store_true", help="CVAT: outlines instead of masks")
    args = parser.parse_args(arguments)
    module = formats.module(args.format)
    paths = _tracks_files(args.tracks)
    options = _options(args, args.dataset or read_tracks(paths[0]).dataset)
    for path in module.write(args.output, (_video(each, args) for each in paths), options):
        print(path)


def _options(args: argparse.Namespace, dataset: str) -> Options:
    """What is not given is the dataset's, if the table has it."""
    row = DATASETS.get(dataset)
    if row is None and (args.dataset or args.format in _WITH_THINGS):
        raise ValueError(f"--dataset: expected one of {', '.join(DATASETS)}, found {dataset!r}")
    settings = {key: value for key, value in (row.inference if row else {}).items() if key in _SETTINGS}
    settings |= {key: getattr(args, key) for key in _SETTINGS if getattr(args, key) is not None}
    options = Options(
        class_names=tuple(args.class_names.split("+")) if args.class_names else row.class_names if row else (),
        thing_classes=row.spec.thing_classes if row else (),
        annotations=args.annotations,
        image_suffix=args.image_suffix,
        polygons=args.polygons,
        **settings,
    )
    if not 0 <= options.score_threshold <= 1 or options.max_predictions < 1:
        raise ValueError(
            "expected --score_threshold in 0..1 and --max_predictions of at least 1, "
            f"found {options.score_threshold}, {options.max_predictions}"
        )
    return options


def _tracks_files(path: pathlib.Path) -> list[pathlib.Path]:
    """The file, those of a folder or of its `tracks`, or the tracks.json of the folders in it."""
    if path.is_file():
        return [path]
    for pattern in ("tracks/*.json", "tracks.json", "*/tracks.json", "*.json"):
        found = sorted(path.glob(pattern), key=lambda file: _natural(file.as_posix()))
        if found:
            return found
    raise ValueError(f"--tracks={path}: expected a file of tracks, or a folder of them, found none")


def _video(path: pathlib.Path, args: argparse.Namespace) -> ResultVideo:
    result = read_tracks(path)
    tracks = [track for track in result.tracks if track.score >= args.min_score]
    held = [dataclasses.replace(result, tracks=tracks)]
    name, video_id = result.video, result.video
    if args.format in ("ytvis", "ovis"):
        if not re.fullmatch(r"\d{1,9}", name):
            raise ValueError(f"{path}: the name of the video is {name!r:.80}, the format has numbers for videos")
        video_id = int(name)
    names = tuple(f"{frame:05d}" for frame in range(result.num_frames))
    if args.frames is not None:
        names = tuple(file.stem for file in _images(args.frames, name))
    return ResultVideo(video_id, names, held.pop)


def _images(pattern: str, video: str) -> list[pathlib.Path]:
    folder = pathlib.Path(pattern.replace(VIDEO, video))
    found = [file for file in folder.iterdir() if file.suffix.lower() in _IMAGES] if folder.is_dir() else []
    if not found:
        raise ValueError(f"--frames={pattern}: expected the frames of video {video!r} in {folder}, found none")
    return sorted(found, key=lambda file: _natural(file.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts "2.jpg" before "10.jpg"."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


if __name__ == "__main__":
    command_line.run_and_exit(main)
