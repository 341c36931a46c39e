"""Runs a model over held-out videos of every task, scores it and draws what it saw.

Ground truth and given targets come from the datasets' official files; the videos go through a `Session` as a user's do.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
from absl import logging

from input_pipeline import readers
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord
from tarvis_jax.evaluation.pictures import write_comparison
from tarvis_jax.evaluation.scores import DatasetScores, evaluate, format_table, scores_json
from tarvis_jax.evaluation.segment import (
    StoredResults,
    TracksFolder,
    compile_seconds,
    fingerprint_of_videos,
    frames_of,
    segment_videos,
    targets_of,
)
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.video import segment_video
from tarvis_jax.parallel import distributed
from tarvis_jax.run_config import Config
from tarvis_jax.visualize.run_report import PICTURES_FOLDER, SCORES_FILE

Scores = dict[str, dict[str, float]]

_NUM_PICTURED = 3  # videos of each dataset that an evaluation draws, the worst ones


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """A dataset that can be scored: its videos with what is given to the network, and the same with ground truth."""

    dataset: DatasetConfig
    given: list[VideoRecord]
    truth: list[VideoRecord]


def find_held_out(config: Config, data: DataConfig, names: Sequence[str] = ()) -> tuple[list[HeldOut], dict[str, str]]:
    """The held-out videos of each dataset that can be scored; and dataset -> reason for the others.

    Args:
      config: of the run.
      data: the run's data as it lies here.
      names: of the datasets to score; (): all.

    Raises:
      ValueError: the run has no dataset of such a name.
    """
    known = [dataset.name for dataset in data.datasets]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"--datasets={','.join(names)}: the run has no {', '.join(unknown)}; it has {', '.join(known)}"
        )
    split, most = config.train.eval_split, config.train.eval_videos or None
    found, skipped = [], {}
    for dataset in data.datasets:
        if names and dataset.name not in names:
            continue
        try:
            given = readers.evaluation_videos(dataset, split, data.workspace)
            truth = readers.ground_truth_videos(dataset, split, data.workspace)
        except ValueError as error:
            skipped[dataset.name] = str(error)
        else:
            found.append(HeldOut(dataset, given[:most], truth[:most]))
    return found, skipped


def log_skipped(skipped: Mapping[str, str]) -> None:
    """Says which datasets are not scored, and why."""
    for name, reason in skipped.items():
        logging.warning("%s is not scored: %s", name, reason)


def evaluate_predictor(
    config: Config,
    data: DataConfig,
    predictors: Sequence[Predictor],
    folder: pathlib.Path,
    *,
    weights: str,
    names: Sequence[str] = (),
    table: pathlib.Path | None = None,
    interruption: "Interruptible | None" = None,
) -> Scores:
    """Scores by dataset on the held-out split.

    Tracks of every video go to `folder`/<dataset>/tracks/, and an evaluation that was killed goes on with the next
    video if it is started again with the same weights and settings. When a dataset is done, its scores and times are
    written to `folder`/scores.json, pictures of its worst videos, with their ground truth, to `folder`/pictures/, and
    all scores so far to `table`. A dataset that cannot be scored stands there with its reason.

    In a run of several processes, all of them call this: each segments its share of the videos, and process 0 scores
    them. The others return no scores. The devices of a process take its videos one by one.

    Args:
      config: of the run.
      data: the run's data as it lies here.
      predictors: the same network, once on each device of this process that is to work.
      folder: of the evaluation, which all processes see.
      weights: their fingerprint (`segment.fingerprint`).
      names: of the datasets to score; (): all.
      table: file for the scores in percent, which are then also shown; None: none.
      interruption: what may cut the evaluation short; None: nothing.

    Raises:
      ValueError: no dataset of such a name.
    """
    held_out, skipped = find_held_out(config, data, names)
    interruption = interruption or _Uninterrupted()
    is_main = jax.process_index() == 0
    found = {each.dataset.name: len(each.given) for each in held_out}
    distributed.check_agreement({f"held-out videos that can be scored ({found})": found})
    scores: Scores = {}
    everything: dict[str, Any] = {}

    def write() -> None:
        everything.update({name: {"skipped": reason} for name, reason in skipped.items()})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SCORES_FILE).write_text(json.dumps(everything, indent=1) + "\n")
        if table is not None:
            table.write_text(format_table(scores, skipped) + "\n")

    if is_main and not interruption.has_been_asked():
        log_skipped(skipped)
        write()
    for each in held_out:
        name, inference = each.dataset.name, config.inference[each.dataset.name]
        tracks = TracksFolder(folder / name)
        settings = {
            "weights": weights,
            "dtype": predictors[0].config.compute_dtype,
            "split": config.train.eval_split,
            "data_root": str(data.workspace),
            "videos": fingerprint_of_videos(each.given),
            "inference": dataclasses.asdict(inference),
        }
        start, compiled = time.perf_counter(), compile_seconds(predictors)
        if is_main:
            tracks.begin(settings, replace=True)
        distributed.wait_for_all(f"evaluation {folder.name}: start of {name}")
        share = each.given[jax.process_index() :: jax.process_count()]
        reason, num_frames = "", 0
        if not interruption.has_been_asked():
            with interruption.may_cut_short():
                try:
                    num_frames = segment_videos(predictors, name, each.dataset.spec, inference, share, tracks, name)
                except ValueError as error:
                    reason = str(error)
        distributed.wait_for_all(f"evaluation {folder.name}: end of {name}")
        if not is_main or interruption.has_been_asked():
            continue
        with interruption.may_cut_short():
            found, skipped_for = _score(each, tracks, inference, reason)
            if found is None:
                skipped[name] = skipped_for
                log_skipped({name: skipped_for})
            else:
                scores[name] = found.summary
                everything[name] = _as_json(each, found) | {
                    "num_videos": len(each.truth),
                    "num_frames": sum(video.num_frames for video in each.truth),
                    "num_segmented": num_frames,
                    "seconds": time.perf_counter() - start,
                    "compile_seconds": compile_seconds(predictors) - compiled,
                    "pictures": _write_pictures(each, found, tracks, inference, folder),
                }
                main, score = next(iter(found.summary.items()))
                logging.info("evaluated %d videos of %s: %s %.1f %%", len(each.truth), name, main, 100 * score)
            write()
    if is_main and table is not None and not interruption.has_been_asked():
        logging.info("scores on held-out videos, in percent\n%s", format_table(scores, skipped))
    return scores


class Interruptible(Protocol):
    """What may cut work short that can be done again (`train/interruption.py`)."""

    def has_been_asked(self) -> bool:
        """Whether this process is to end."""

    def may_cut_short(self) -> contextlib.AbstractContextManager[None]:
        """Surrounds what is left when this process is asked to end."""


class _Uninterrupted:
    def has_been_asked(self) -> bool:
        return False

    def may_cut_short(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def _score(
    held_out: HeldOut, tracks: TracksFolder, inference: InferenceConfig, reason: str
) -> tuple[DatasetScores | None, str]:
    """The scores, or why there are none; `reason`: what stopped this process's share of the videos."""
    missing = [video for video in held_out.given if not tracks.has(video)]
    if missing:
        reason = reason or "another process could not segment its share, its log says why"
        return None, f"{len(missing)} of {len(held_out.given)} videos have no tracks: {reason}"
    try:
        found = evaluate(
            StoredResults(tracks, held_out.given),
            held_out.truth,
            held_out.dataset.spec,
            max_predictions=inference.max_predictions,
            score_threshold=inference.score_threshold,
        )
    except ValueError as error:
        return None, str(error)
    return found, ""


def worst_first(found: DatasetScores) -> list[str]:
    """The videos by their main score, those without one last."""
    main = {video: next(iter(scores.values())) for video, scores in found.per_video.items()}
    return sorted(main, key=lambda video: (main[video] == -1, main[video]))


def _as_json(held_out: HeldOut, found: DatasetScores) -> dict[str, Any]:
    per_video = {video: found.per_video[video] for video in worst_first(found)}
    names = dict(enumerate(held_out.dataset.class_names, start=1))
    return scores_json(dataclasses.replace(found, per_video=per_video), names)


def _write_pictures(
    held_out: HeldOut, found: DatasetScores, tracks: TracksFolder, inference: InferenceConfig, folder: pathlib.Path
) -> list[dict[str, str]]:
    """Draws the worst videos; returns the name of each file and the score that it shows."""
    given, truth = ({str(video.id): video for video in videos} for videos in (held_out.given, held_out.truth))
    dataset = held_out.dataset
    pictures = []
    for video in worst_first(found)[:_NUM_PICTURED]:
        name, score = next(iter(found.per_video[video].items()))
        file = f"{demo_name(given[video])}.jpg"
        pictures.append({"file": file, "score": f"{name} {100 * score:.1f} %" if score != -1 else f"{name} undefined"})
        write_comparison(
            folder / PICTURES_FOLDER / file,
            truth[video],
            tracks.read(given[video]),
            dataset.spec,
            class_names=dict(enumerate(dataset.class_names, start=1)),
            score_threshold=inference.score_threshold,
            targets=targets_of(given[video], dataset.spec),
        )
    return pictures


def write_demos(config: Config, data: DataConfig, predictor: Predictor, folder: pathlib.Path) -> None:
    """Result files and overlay videos of the first held-out videos of each dataset."""
    for dataset in data.datasets:
        try:
            videos = readers.evaluation_videos(dataset, config.train.eval_split, data.workspace)
        except ValueError as error:
            logging.warning("no video of %s is drawn: %s", dataset.name, error)
            continue
        for video in videos[: config.train.demo_videos]:
            _write_demo(config, predictor, dataset, video, folder)


def _write_demo(
    config: Config, predictor: Predictor, dataset: DatasetConfig, video: VideoRecord, folder: pathlib.Path
) -> None:
    out = folder / demo_name(video)
    _, summary = segment_video(
        predictor,
        video.dataset,
        frames_of(video),
        out,
        targets=targets_of(video, dataset.spec),
        spec=dataset.spec,
        config=config.inference[video.dataset],
        class_names=dict(enumerate(dataset.class_names, start=1)),
    )
    logging.info("%s: %s", out, summary)


def demo_name(video: VideoRecord) -> str:
    """What files about one held-out video are called."""
    return f"{video.dataset}-{str(video.id).replace('/', '-')}"


def flatten_scores(scores: Scores) -> dict[str, float]:
    """{"eval/<dataset>/<name>": fraction}; undefined scores (-1) are left out."""
    return {
        f"eval/{dataset}/{name}": value
        for dataset, values in scores.items()
        for name, value in values.items()
        if value != -1
    }
