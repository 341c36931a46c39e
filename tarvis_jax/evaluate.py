"""Runs a model over held-out videos of every task, scores it and draws what it saw.

Ground truth and given targets come from the datasets' official files; the videos go through a `Session` as a user's do.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
from absl import logging

from input_pipeline import datasets as readers
from input_pipeline.config import DataConfig, DatasetConfig
from input_pipeline.records import VideoRecord
from input_pipeline.synthetic import CLASS_NAMES as SYNTHETIC_CLASS_NAMES
from input_pipeline.synthetic import write_synthetic_workspace
from tarvis_jax.config import load_json, to_plain
from tarvis_jax.dataset_info import default_datasets
from tarvis_jax.datasets import DATASETS, EXEMPLAR, DatasetSpec
from tarvis_jax.evaluation.pictures import write_comparison
from tarvis_jax.evaluation.run import evaluate, format_table, scores_json
from tarvis_jax.inference.frames import FrameSource
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.video import segment_video
from tarvis_jax.model.variables import flatten
from tarvis_jax.results.target import Target
from tarvis_jax.results.tracks import VideoResult, write_tracks
from tarvis_jax.train.checkpoint import Checkpoints
from tarvis_jax.train.config import Config
from tarvis_jax.train.state import ModelStructure, TrainState
from tarvis_jax.visualize.run_report import PICTURES_FOLDER, SCORES_FILE, write_evaluation_report

CONFIG_FILE = "config.json"
_NUM_PICTURED = 2  # videos of each dataset that an evaluation draws

Scores = dict[str, dict[str, float]]


def prepare_data(config: Config, workdir: pathlib.Path) -> DataConfig:
    """Writes the synthetic sets if the config asks for them; returns the data section with its workspace filled in."""
    synthetic = config.synthetic
    if not synthetic.num_train:
        return config.data
    root = workdir.absolute() / "data"
    if jax.process_index() == 0:
        write_synthetic_workspace(
            root,
            num_train=synthetic.num_train,
            num_val=synthetic.num_val,
            num_frames=synthetic.num_frames,
            height=synthetic.height,
            width=synthetic.width,
            seed=synthetic.seed,
            val_seed=synthetic.val_seed,
        )
    return dataclasses.replace(config.data, workspace=str(root))


def predictor_of_state(config: Config, state: TrainState, predictor: Predictor | None = None) -> Predictor:
    """A predictor on the first device, with the moving average of the weights where one is kept.

    A predictor made earlier in the run is given the new weights: what it has compiled serves again.
    """
    params, frozen = jax.device_get((state.ema or state.params, state.frozen))
    model = ModelStructure(config.model).build(params, frozen)
    if predictor is None:
        return Predictor.from_model(model)
    predictor.set_variables(flatten(model))
    return predictor


def load_run(workdir: pathlib.Path | str) -> tuple[Config, Predictor]:
    """Config and newest weights of a run."""
    config = load_json(Config, pathlib.Path(workdir) / CONFIG_FILE)
    checkpoints = Checkpoints(workdir)
    params, frozen = checkpoints.restore_weights()
    checkpoints.close()
    return config, Predictor.from_model(ModelStructure(config.model).build(params, frozen))


def evaluate_workdir(workdir: pathlib.Path | str) -> Scores:
    """Evaluates the newest checkpoint of a run on the held-out videos of its config.

    Prints the table and writes it to scores.txt; eval/final/ holds all scores, pictures, tracks and report.html.
    """
    workdir = pathlib.Path(workdir)
    config, predictor = load_run(workdir)
    folder = workdir / "eval" / "final"
    scores = evaluate_predictor(config, prepare_data(config, workdir), predictor, folder)
    write_table(scores, workdir / "scores.txt")
    write_evaluation_report(folder, workdir.absolute().name, to_plain(config), to_plain(Config()))
    return scores


def evaluate_predictor(config: Config, data: DataConfig, predictor: Predictor, folder: pathlib.Path) -> Scores:
    """Scores by dataset on the held-out split.

    Tracks of every video go to `folder`/<dataset>/<video>.json, all scores and times to `folder`/scores.json, and
    pictures of the first videos, with their ground truth, to `folder`/pictures/.
    """
    scores, everything = {}, {}
    for dataset in data.datasets:
        start, compiled = time.perf_counter(), predictor.compile_seconds
        spec = dataset_spec(dataset)
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
        names = class_names_of(config, dataset.name)
        everything[dataset.name] = scores_json(found, names) | {
            "num_videos": len(truth),
            "num_frames": sum(video.num_frames for video in truth),
            "seconds": time.perf_counter() - start,
            "compile_seconds": predictor.compile_seconds - compiled,
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
            _write_demo(config, predictor, dataset_spec(dataset), video, folder)
    if config.train.demo_davis:
        root = pathlib.Path(config.train.demo_davis).absolute()
        if not root.is_dir():
            logging.info("no real video is segmented: there is no folder %s (train.demo_davis)", root)
            return
        real = DatasetConfig("DAVIS", "davis_official", EXEMPLAR, eval_images=str(root))
        video = readers.evaluation_videos(real, config.train.eval_split, data.workspace)[0]
        _write_demo(config, predictor, DATASETS["DAVIS"], video, folder)


def _write_demo(
    config: Config, predictor: Predictor, spec: DatasetSpec, video: VideoRecord, folder: pathlib.Path
) -> None:
    out = folder / demo_name(video)
    _, summary = segment_video(
        predictor,
        video.dataset,
        frames_of(video),
        out,
        targets=targets_of(video, spec),
        spec=spec,
        config=config.inference[video.dataset],
        class_names=class_names_of(config, video.dataset),
    )
    logging.info("%s: %s", out, summary)


def demo_name(video: VideoRecord) -> str:
    """What files about one held-out video are called."""
    return f"{video.dataset}-{str(video.id).replace('/', '-')}"


def class_names_of(config: Config, dataset: str) -> dict[int, str]:
    """Class id 1..K -> name; empty where the names are not known."""
    num_classes = dict(config.model.semantic_classes).get(dataset, 0)
    names = SYNTHETIC_CLASS_NAMES.get(dataset, ()) if config.synthetic.num_train else ()
    if num_classes and len(names) != num_classes:
        names = default_datasets(config.model.semantic_classes)[dataset].class_names
    return dict(enumerate(names, start=1))


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


def dataset_spec(dataset: DatasetConfig) -> DatasetSpec:
    """What a session and the evaluation must know of a dataset."""
    known: Any = DATASETS.get(dataset.name)
    exemplar = known.exemplar if known else "mask"
    return DatasetSpec(dataset.task, dataset.num_classes, dataset.thing_classes, exemplar)


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
    if spec.exemplar == "point":
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
