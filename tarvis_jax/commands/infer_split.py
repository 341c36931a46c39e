"""Segments all videos of a benchmark's split or of a folder, or some of them, and writes result files."""

import dataclasses
import difflib
import pathlib
import re
from collections.abc import Callable, Sequence

import jax
from absl import logging

from input_pipeline import layouts, readers, workspace
from input_pipeline.config import DatasetConfig, dataset_config
from input_pipeline.own_videos import clips_in
from input_pipeline.records import VideoRecord
from input_pipeline.synthetic import prepare_data
from tarvis_jax.api import load
from tarvis_jax.compiled import keep_between_runs
from tarvis_jax.datasets import DATASETS, EXEMPLAR, INSTANCE, MASK, PANOPTIC
from tarvis_jax.evaluation.segment import (
    TracksFolder,
    file_name,
    fingerprint,
    fingerprint_of_videos,
    frames_of,
    segment_videos,
    targets_of,
)
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.video import write_overlays
from tarvis_jax.results import formats
from tarvis_jax.results.panoptic import thing_tracks
from tarvis_jax.results.sureness import write_least_sure_first
from tarvis_jax.results.tracks import VideoResult
from tarvis_jax.run_config import CHECKPOINTS_FOLDER, Config, settle
from tarvis_jax.weights.open import saved_config

RESULTS_FOLDER = "results"
OVERLAYS_FOLDER = "overlays"
ORDER_FILE = "least_sure_first.csv"
NO_FORMAT = "none"

_MIN_SCORE_DRAWN = 0.3  # VIS: tracks below are not drawn
_WORKSPACE_FOLDERS = ("dataset_images", "dataset_annotations", "dataset_annotation", layouts.OFFICIAL_FOLDER)
# Formats that repeat parts of the benchmark's own JSON: what the videos are read from, or the ground truth's.
_FROM_INPUT = ("ytvis", "ovis", "vipseg", "burst")
_FROM_TRUTH = ("cityscapes_vps",)
# Benchmarks that no model is trained on here: folder in `official`, name of the result files. Objects are given
# by masks, and their videos are segmented with the settings of DAVIS.
_LIKE_DAVIS = {"YOUTUBE_VOS": ("youtube_vos", "youtube_vos"), "MOSE": ("mose", "mose")}
_WHOLE_SPLIT = ("burst", "cityscapes_vps")  # formats that cannot do without it


def segment_split(
    checkpoint: str,
    dataset: str,
    split: str | None,
    output: str,
    *,
    clips: str | None = None,
    data_root: str | None = None,
    videos: str | None = None,
    share: str | None = None,
    exemplar: str | None = None,
    frame_step: int | None = None,
    format: str | None = None,
    overlays: bool = False,
    min_score: float = 0.0,
    polygons: bool = False,
    dtype: str | None = None,
    settings: Callable[[InferenceConfig], InferenceConfig] = lambda config: config,
    clip_batch: int = 0,
) -> list[pathlib.Path]:
    """Segments the videos of a split or of a folder, each as `Session` does it, and writes to the folder `output`:

    - `settings.json`: what the results depend on;
    - `tracks/<video>.json` (`results.tracks`), as soon as a video is done. The same command goes on with the videos
      that have none;
    - with `overlays`, `overlays/<video>/`: the frames with what was found, as PNG and mp4;
    - `results/`, and `results.zip` where the benchmark's server takes one, when all videos are there, whichever process
      made them;
    - of a folder, `least_sure_first.csv` (`results.sureness`), when all videos are there.

    Args:
      checkpoint: anything `tarvis_jax.load` takes.
      dataset, split: of which benchmark.
      clips: in place of `split`, a folder of folders of frames and of video files, in which the objects of the
        dataset's classes are looked for.
      output: a folder that is new, or has results of the same weights and settings.
      data_root: the workspace, or the folder of the dataset's own download; None: the workspace of the checkpoint's
        run, or else that of the environment.
      videos: names of some of the videos, separated by commas, or a file with one name a line; None: all.
      share: "k/n": this process takes the k-th of n shares of the videos, k in 1..n.
      exemplar: "mask" or "point": by what objects are given; None: as the checkpoint or else the benchmark has it.
      frame_step: every n-th frame of CITYSCAPES_VPS is taken; None: as the checkpoint or else the benchmark has it.
      format: of the result files, a name of `results.formats`, or "none"; None: the benchmark's.
      overlays: draw the videos that this process segments.
      min_score: tracks with a lower score are left out of the result files, 0..1.
      polygons: see `formats.Options`.
      dtype: of activations, see `tarvis_jax.load`.
      settings: changes those of the checkpoint.
      clip_batch: clips that go through the network at once, see `Session`.

    Returns:
      The result files; none where videos of other shares are missing.

    Raises:
      ValueError: an argument that does not fit, missing files, or `output` has results of other settings.
    """
    keep_between_runs()
    place = _share_of(share)
    if not 0 <= min_score <= 1:
        raise ValueError(f"--min_score={min_score}: expected a score in 0..1")
    if clips is None:
        run = saved_config(checkpoint) if (pathlib.Path(checkpoint) / CHECKPOINTS_FOLDER).is_dir() else None
        config, root = _find_dataset(dataset, split, run, checkpoint, data_root)
        if exemplar is not None and config.task != EXEMPLAR:
            raise ValueError(f"--exemplar={exemplar}: objects of {dataset} are not given, its task is {config.task}")
        if frame_step is not None and config.reader != "cityscapes_vps":
            raise ValueError(f"--frame_step={frame_step}: all frames of {dataset} are taken; it is for CITYSCAPES_VPS")
    else:
        records = clips_in(clips, dataset)
    model = load(checkpoint, dtype=dtype)
    known = "DAVIS" if dataset in _LIKE_DAVIS else dataset
    if known not in model.datasets:
        raise ValueError(f"--dataset={dataset}: expected one of {sorted({*model.datasets, *_LIKE_DAVIS})}")
    info = model.datasets[known]
    if clips is not None and info.spec.task == EXEMPLAR:
        raise ValueError(f"--clips={clips}: objects of {dataset} are to be given; --input and --targets take one video")
    spec = dataclasses.replace(info.spec, exemplar=exemplar or info.split_exemplar or info.spec.exemplar)
    if clips is None:
        frame_step = info.split_frame_step if frame_step is None else frame_step
        if frame_step is not None:
            config = dataclasses.replace(config, eval_frame_step=frame_step)
        frame_step = config.eval_frame_step
        records = readers.evaluation_videos(config, split, root)
        chosen = _choose(records, videos)
        name, annotations = _format_of(format, config, split, root, records, is_whole=len(chosen) == len(records))
    else:
        frame_step = 1
        chosen = _choose(records, videos)
        name, annotations = _checked_format(format or NO_FORMAT), None
    inference = settings(info.inference)
    tracks = TracksFolder(pathlib.Path(output))
    tracks.begin(
        {
            "dataset": dataset,
            "split": split or "clips",
            "exemplar": spec.exemplar,
            "frame_step": frame_step,
            # a folder of clips may grow between two runs
            "videos": fingerprint_of_videos(records) if clips is None else str(pathlib.Path(clips).absolute()),
            "weights": fingerprint(model.variables),
            "dtype": model.config.compute_dtype,
            "inference": dataclasses.asdict(inference),
        }
    )
    label = f"{dataset} {split or clips}" + (f" {share}" if share else "")

    def draw(video: VideoRecord, result: VideoResult) -> None:
        if spec.task == PANOPTIC:  # what a panoptic map shows
            things = thing_tracks(result, spec.thing_classes, inference.score_threshold)
            result = dataclasses.replace(result, tracks=things)
        write_overlays(
            tracks.folder / OVERLAYS_FOLDER / file_name(video),
            result,
            frames_of(video),
            targets_of(video, spec),
            dict(enumerate(info.class_names, start=1)),
            _MIN_SCORE_DRAWN if spec.task == INSTANCE else 0.0,
        )

    draw = draw if overlays else lambda *_: None
    others = [Predictor(model.config, model.variables, device=device) for device in jax.local_devices()[1:]]
    segment_videos([model.predictor, *others], dataset, spec, inference, chosen[place], tracks, label, draw, clip_batch)
    missing = sum(not tracks.has(video) for video in chosen)
    if missing:
        logging.info("%d of %d videos are missing; the last share to be done writes the results", missing, len(chosen))
        return []
    if clips is not None:
        path = tracks.folder / ORDER_FILE
        order = write_least_sure_first(path, (tracks.read(video) for video in chosen), min_score)
        shown = ", ".join(f"{video} ({mistakes:.1f})" for video, mistakes in order[:5])
        logging.info("least sure, by the number of mistakes that are expected: %s; all of them: %s", shown, path)
    if name == NO_FORMAT:
        return []
    options = formats.Options(
        class_names=tuple(info.class_names),
        thing_classes=spec.thing_classes,
        score_threshold=inference.score_threshold,
        max_predictions=inference.max_predictions,
        annotations=annotations,
        image_suffix=chosen[0].frame_paths[0].suffix,
        polygons=polygons,
    )

    def load_sure(video: VideoRecord) -> VideoResult:
        result = tracks.read(video)
        return dataclasses.replace(result, tracks=[track for track in result.tracks if track.score >= min_score])

    results = (
        formats.ResultVideo(video.id, video.frame_names, lambda video=video: load_sure(video)) for video in chosen
    )
    written = formats.module(name).write(tracks.folder / RESULTS_FOLDER, results, options)
    logging.info("results of %d videos as %s: %s", len(chosen), name, ", ".join(map(str, written)))
    return written


def _find_dataset(
    name: str, split: str, run: Config | None, checkpoint: str, data_root: str | None
) -> tuple[DatasetConfig, str]:
    """The dataset, as the run has it or the table, and the workspace."""
    data = settle(run or Config()).data
    if run is not None and data_root is None:
        data = prepare_data(data, run.synthetic, checkpoint)
    # The split itself, whatever part of the training videos the run has held out.
    own = (dataclasses.replace(each, held_out_every=0) for each in data.datasets)
    config = next((each for each in own if each.name == name), None)
    root = None if data_root is None else pathlib.Path(data_root)
    if root is not None and not root.is_dir():
        raise ValueError(f"--data_root={data_root}: expected a folder, found none")
    is_download = root is not None and not any((root / folder).is_dir() for folder in _WORKSPACE_FOLDERS)
    if name in _LIKE_DAVIS:
        folder = root if is_download else workspace.workspace_root(data_root or data.workspace) / "official"
        return _like_davis(name, folder if is_download else folder / _LIKE_DAVIS[name][0], split), ""
    if config is None:
        if name in DATASETS and not DATASETS[name].files.get("eval_images"):
            raise ValueError(f"--dataset={name}: expected a dataset with splits for inference, such as DAVIS")
        config = dataset_config(name)
    if is_download:
        return dataclasses.replace(config, root=str(root.absolute())), ""
    return config, data.workspace if root is None else str(root)


def _like_davis(name: str, folder: pathlib.Path, split: str) -> DatasetConfig:
    """`<split>/JPEGImages/<video>` and `<split>/Annotations/<video>`; the folder of the split "val" is called valid."""
    folder = folder.absolute() / {"val": "valid"}.get(split, split)
    return DatasetConfig(
        name,
        "id_masks",
        EXEMPLAR,
        exemplar=MASK,
        eval_images=str(folder / "JPEGImages" / "{video}"),
        eval_annotations=str(folder / "Annotations" / "{video}"),
    )


def _share_of(text: str | None) -> slice:
    """Which videos are those of a share: every n-th, so that shares are alike where neighbors are alike."""
    if text is None:
        return slice(None)
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    number, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= number <= count:
        raise ValueError(f"--share={text}: expected k/n with k in 1..n, such as 2/8")
    return slice(number - 1, None, count)


def _choose(records: Sequence[VideoRecord], text: str | None) -> list[VideoRecord]:
    """The videos that `--videos` names, in their order."""
    if text is None:
        return list(records)
    known = [str(record.id) for record in records]
    names = [name for name in text.split(",") if name]
    if not set(names) <= set(known) and pathlib.Path(text).is_file():
        names = [line.strip() for line in workspace.load_text(pathlib.Path(text)).splitlines() if line.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        near = difflib.get_close_matches(unknown[0], known, n=3) if unknown else []
        raise ValueError(
            f"--videos={text:.200}: expected names of the {len(known)} videos, such as "
            f"{', '.join(near or known[:3])}, or a file of them; found {', '.join(unknown[:5]) or 'none'}"
        )
    return [record for record in records if str(record.id) in names]


def _format_of(
    given: str | None, config: DatasetConfig, split: str, root: str, records: Sequence[VideoRecord], *, is_whole: bool
) -> tuple[str, pathlib.Path | None]:
    """Name of the format of the result files, and the benchmark's JSON that it needs."""
    of_table = DATASETS[config.name].benchmark if config.name in DATASETS else NO_FORMAT
    name = given or (_LIKE_DAVIS[config.name][1] if config.name in _LIKE_DAVIS else of_table) or NO_FORMAT
    _checked_format(name)
    if not is_whole:  # the benchmark's JSON lists videos that there are no results of
        if given in _WHOLE_SPLIT:
            raise ValueError(f"--format={name}: its files hold the whole split; leave out --videos or --format")
        return (NO_FORMAT if name in _WHOLE_SPLIT else name), None
    if name in _FROM_INPUT:
        return name, pathlib.Path(records[0].source)
    if name == "youtube_vos":
        listed = pathlib.Path(records[0].source).parents[1] / "meta.json"
        return name, listed if listed.is_file() else None
    if name in _FROM_TRUTH:
        found = layouts.locate(config, layouts.TRUTH, split, root)
        path = found.eval_truth.replace("{split}", split)
        try:
            return name, workspace.resolve(path, root, dataset=config.name, key="eval_truth", kind="file")
        except ValueError as error:
            raise ValueError(
                f"{error}; the result files take their names from it (--format={NO_FORMAT} writes tracks alone)"
            ) from error
    return name, None


def _checked_format(name: str) -> str:
    if name not in (NO_FORMAT, *formats.FORMATS):
        raise ValueError(f"--format={name}: expected {NO_FORMAT} or one of {', '.join(formats.FORMATS)}")
    return name
