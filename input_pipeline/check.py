"""Says which datasets of a config are there, and what is missing.

    python -m input_pipeline.check
    python -m input_pipeline.check --config=configs/vis_only.py --workspace=/data --previews=previews

For each dataset and each of its splits it says where the files were found and how many videos, frames and objects they
hold, or which files were looked for and where. The annotations are read and the frames must exist; of the pictures only
the header of one for each video is read, unless `--full` asks for all pictures and masks. `--previews` names a folder
for one PNG for each dataset: the training frame with the most objects, and its targets over it.

The exit status is 0 if all datasets can be trained on, and 2 otherwise.
"""

import os
import pathlib

import cv2
import numpy as np

from input_pipeline import images, layouts, readers, workspace
from input_pipeline.bad_records import SKIP, LeftOut, keep_good, leaving_out
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax import command_line
from tarvis_jax.config import from_mapping, load_config_file
from tarvis_jax.masks.palette import palette

# The splits that the datasets' evaluations use.
SPLITS = {"VIPSEG": ("val", "test"), "DAVIS": ("val", "testdev"), "BURST": ("val", "test")}
_SHOWN = 5  # bad records of a dataset
_TRIED = 10  # frames for a preview
_DEFAULT_SPLITS = ("val",)


def main(arguments: list[str]) -> None:
    """Prints the report.

    Raises:
      ValueError: a dataset of the config cannot be trained on; a bad argument.
    """
    parser = command_line.Parser(prog="python -m input_pipeline.check", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="configs/finetune.py", help="config file, with its argument after a colon")
    parser.add_argument(
        "--workspace", default="", help="folder of the data (default: the config's, or TARVIS_WORKSPACE_DIR)"
    )
    parser.add_argument("--previews", default="", help="folder for one picture of each dataset")
    parser.add_argument("--full", action="store_true", help="read every frame and every mask")
    options = parser.parse_args(arguments)
    data = from_mapping(DataConfig, load_config_file(options.config).data)
    root = options.workspace or data.workspace or os.environ.get(workspace.WORKSPACE_VARIABLE, "")
    print(f"workspace: {workspace.workspace_root(root)}")
    unusable = []
    for dataset in data.datasets:
        print(dataset.name)
        left_out = LeftOut(logs=False) if data.on_bad_record == SKIP else None
        videos = _report(dataset, "training", root, options.full, left_out)
        if not videos:
            unusable.append(dataset.name)
        elif options.previews:
            with leaving_out(left_out, dataset.name):
                written = write_preview(videos, dataset, pathlib.Path(options.previews))
            _print("preview", str(written or "no frame can be drawn"), _bad(left_out))
        for split in SPLITS.get(dataset.name, _DEFAULT_SPLITS) if dataset.eval_images else ():
            _report(dataset, split, root, options.full)
    if unusable:
        raise ValueError(
            f"{len(unusable)} of {len(data.datasets)} datasets cannot be trained on: {', '.join(unusable)} "
            f"(docs/data.md has the layouts)"
        )


def _report(
    dataset: DatasetConfig, split: str, root: str, full: bool, left_out: LeftOut | None = None
) -> list[VideoRecord]:
    """Prints what a split has and what training leaves out of it; its videos, [] if it cannot be used."""
    keys, name = (layouts.TRAINING, "") if split == "training" else (layouts.EVALUATION, split)
    missing = layouts.absent(dataset, keys, name, root)
    if missing:
        return _print(split, "missing", missing)
    notes = []
    try:
        if split == "training":
            videos = readers.training_videos(dataset, root, left_out)
        else:
            videos, notes = _evaluation(dataset, split, root)
        with leaving_out(left_out, dataset.name):
            read_headers(videos)
            if full:
                read_everything(videos, dataset)
    except ValueError as error:
        return _print(split, "unusable", [str(error)])
    text, _, source = readers.summary(videos).partition(", from ")
    _print(split, text, [f"from {source}", *notes, *_bad(left_out)])
    return videos


def _bad(left_out: LeftOut | None) -> list[str]:
    """What is to be said of the records that were left out since the last call."""
    bad = left_out.take_new() if left_out else []
    notes = [f"bad, and left out of the training: {record.error}" for record in bad[:_SHOWN]]
    return notes + ([f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else [])


def _evaluation(dataset: DatasetConfig, split: str, root: str) -> tuple[list[VideoRecord], list[str]]:
    """The videos of a split, with ground truth where there is one, and what is to be said of it."""
    reasons = layouts.absent(dataset, layouts.TRUTH, split, root) if dataset.eval_truth else []
    if not reasons:
        try:
            videos = readers.ground_truth_videos(dataset, split, root)
            if any(video.instances or video.panoptic_maps for video in videos):
                return videos, []
        except ValueError as error:
            reasons = [str(error)]
    return readers.evaluation_videos(dataset, split, root), ["no ground truth: it cannot be scored", *reasons]


def _print(split: str, text: str, details: list[str]) -> list:
    print(f"  {split:<9} {text}")
    for line in "\n".join(details).splitlines():
        print(f"            {line}")
    return []


def read_headers(videos: list[VideoRecord]) -> None:
    """Raises ValueError if the first frame of a video is no image or has another size than the annotations say.

    Inside `leaving_out`, all such videos are noted.
    """
    keep_good(videos, readers.with_checked_size)


def read_everything(videos: list[VideoRecord], dataset: DatasetConfig) -> None:
    """Reads all frames and masks; raises ValueError for the first that cannot be read (see `read_headers`)."""

    def read(place: tuple[VideoRecord, int]) -> None:
        video, frame = place
        video.load_frame(frame)
        video.frame_masks(frame, video.visible_ids(frame))
        if dataset.task == "panoptic" and (video.semantics or video.panoptic_maps):
            video.semantic_map(frame)

    keep_good(((video, frame) for video in videos for frame in range(video.num_frames)), read)


def write_preview(videos: list[VideoRecord], dataset: DatasetConfig, folder: pathlib.Path) -> pathlib.Path | None:
    """Writes <folder>/<dataset>.png: of one video after the other, the frame with the most objects, and its targets.

    Classes are tinted, objects have an outline; both colors are those of the palette PNGs.

    Returns:
      the file; None, inside `leaving_out`, if none of the frames that were tried can be read.
    Raises:
      ValueError: outside of `leaving_out`, the frame cannot be read; the file cannot be written.
    """
    places = sorted(
        ((video, frame) for video in videos for frame in range(video.num_frames)),
        key=lambda place: -len(place[0].segmentations[place[1]]),
    )
    for place in places[:_TRIED]:
        drawn = keep_good([place], lambda place: _preview(*place, dataset))
        if drawn:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{dataset.name}.png"
            if not cv2.imwrite(str(path), drawn[0][..., ::-1]):
                raise ValueError(f"{path}: could not be written")
            return path
    return None


def _preview(video: VideoRecord, frame: int, dataset: DatasetConfig) -> np.ndarray:
    """A frame and, beside or below it, the same with its targets: uint8 RGB."""
    picture = video.load_frame(frame)
    colors = palette()
    drawn = picture.astype(np.float32)
    if dataset.task == "panoptic":
        labels = video.semantic_map(frame)
        known = labels != images.VOID
        drawn[known] = 0.5 * drawn[known] + 0.5 * colors[(labels[known].astype(np.int32) + 1) % 256]
        drawn[~known] *= 0.25
    ids = video.visible_ids(frame)
    masks = video.frame_masks(frame, ids)
    for number, mask in enumerate(masks, start=1):
        drawn[mask] = 0.5 * drawn[mask] + 0.5 * colors[number % 256]
    drawn = np.ascontiguousarray(drawn.astype(np.uint8))
    for number, mask in enumerate(masks, start=1):
        outline, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, outline, -1, colors[number % 256].tolist(), 2)
    return np.concatenate([picture, drawn], axis=int(picture.shape[1] > picture.shape[0]) ^ 1)


if __name__ == "__main__":
    command_line.run_and_exit(main)
