"""Runs a model over held-out videos of every task, scores it and draws what it saw.

Ground truth and given targets come from the datasets' official files; the videos go through a `Session` as a user's do.
"""

import json
import pathlib
import time

from absl import logging

from input_pipeline import readers
from input_pipeline.config import DataConfig, DatasetConfig, dataset_config
from input_pipeline.records import VideoRecord
from tarvis_jax.datasets import EXEMPLAR, POINT, DatasetSpec
from tarvis_jax.evaluation.pictures import write_comparison
from tarvis_jax.evaluation.scores import evaluate, format_table, scores_json
from tarvis_jax.inference.frames import FrameSource
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.video import segment_video
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import VideoResult, write_tracks
from tarvis_jax.run_config import Config
from tarvis_jax.visualize.run_report import PICTURES_FOLDER, SCORES_FILE

Scores = dict[str, dict[str, float]]

_NUM_PICTURED = 2  # videos of each dataset that an evaluation draws


def evaluate_predictor(config: Config, data: DataConfig, predictor: Predictor, folder: pathlib.Path) -> Scores:
    """Scores by dataset on the held-out split.

    Tracks of every video go to `folder`/<dataset>/<video>.json, all scores and times to `folder`/scores.json, and
    pictures of the first videos, with their ground truth, to `folder`/pictures/.
    """
    scores, everything = {}, {}
    for dataset in data.datasets:
        start, compiled = time.perf_counter(), predictor.programs.compile_seconds
        spec = dataset.spec
        given, truth = held_out_videos(config, data, dataset)
        results: dict[str, VideoResult] = {}
        for video in given:
            session = Session(predictor, dataset.name, spec, config.inference[dataset.name])
            for target in targets_of(video, spec):
                session.add_target(target.frame, target.id, target.mask, target.point_yx)
            for _ in session.run(frames_of(video)):
                pass
            results[str(video.id)] = session.result()
            write_tracks(folder / dataset.name / f"{str(video.id).replace('/', '-')}.json", results[str(video.id)])
        inference = config.inference[dataset.name]
        found = evaluate(
            results,
            truth,
            spec,
            max_predictions=inference.max_predictions,
            score_threshold=inference.score_threshold,
        )
        scores[dataset.name] = found.summary
        names = dict(enumerate(dataset.class_names, start=1))
        everything[dataset.name] = scores_json(found, names) | {
            "num_videos": len(truth),
            "num_frames": sum(video.num_frames for video in truth),
            "seconds": time.perf_counter() - start,
            "compile_seconds": predictor.programs.compile_seconds - compiled,
        }
        truth_of = {str(video.id): video for video in truth}
        for video in given[:_NUM_PICTURED]:
            write_comparison(
                folder / PICTURES_FOLDER / f"{demo_name(video)}.jpg",
                truth_of[str(video.id)],
                results[str(video.id)],
                spec,
                class_names=names,
                score_threshold=inference.score_threshold,
                targets=targets_of(video, spec),
            )
        main_name, main_score = next(iter(scores[dataset.name].items()))
        logging.info("evaluated %d videos of %s: %s %.1f %%", len(truth), dataset.name, main_name, 100 * main_score)
    (folder / SCORES_FILE).write_text(json.dumps(everything, indent=1) + "\n")
    return scores


def write_demos(config: Config, data: DataConfig, predictor: Predictor, folder: pathlib.Path) -> None:
    """Result files and overlay videos of the first held-out videos of each dataset, and of a real video."""
    for dataset in data.datasets:
        given, _ = held_out_videos(config, data, dataset)
        for video in given[: config.train.demo_videos]:
            _write_demo(config, predictor, dataset, video, folder)
    if config.train.demo_davis:
        root = pathlib.Path(config.train.demo_davis).absolute()
        if not root.is_dir():
            logging.info("no real video is segmented: there is no folder %s (train.demo_davis)", root)
            return
        real = dataset_config("DAVIS", reader="davis_official", eval_images=str(root))
        video = readers.evaluation_videos(real, config.train.eval_split, data.workspace)[0]
        _write_demo(config, predictor, real, video, folder)


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


def write_table(scores: Scores, path: pathlib.Path) -> None:
    """Writes the scores as a table of percentages, and shows it."""
    table = format_table(scores)
    path.write_text(table + "\n")
    logging.info("scores on held-out videos, in percent\n%s", table)


def flatten_scores(scores: Scores) -> dict[str, float]:
    """{"eval/<dataset>/<name>": fraction}; undefined scores (-1) are left out."""
    return {
        f"eval/{dataset}/{name}": value
        for dataset, values in scores.items()
        for name, value in values.items()
        if value != -1
    }


def held_out_videos(
    config: Config, data: DataConfig, dataset: DatasetConfig
) -> tuple[list[VideoRecord], list[VideoRecord]]:
    """(videos with what is given to the network, the same videos with ground truth)."""

    split, most = config.train.eval_split, config.train.eval_videos or None
    given = readers.evaluation_videos(dataset, split, data.workspace)
    truth = readers.ground_truth_videos(dataset, split, data.workspace)
    return given[:most], truth[:most]


def targets_of(video: VideoRecord, spec: DatasetSpec) -> list[Target]:
    """The objects that are given, each in its first frame; none for datasets with classes."""
    if spec.task != EXEMPLAR:
        return []
    if spec.exemplar == POINT:
        return [
            Target(frame, instance, point_yx=point)
            for frame, points in enumerate(video.points)
            for instance, point in points.items()
        ]
    return [
        Target(frame, instance, mask=video.instance_mask(frame, instance))
        for instance, frame in sorted(video.first_frames().items())
    ]


def frames_of(video: VideoRecord) -> FrameSource:
    """The video's frames, read when they are needed."""

    def read():
        for frame, path in enumerate(video.frame_paths):
            yield str(path), video.load_frame(frame)

    return FrameSource(str(video.id), video.num_frames, video.frame_names, read)
