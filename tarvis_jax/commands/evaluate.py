"""Scores a run on the held-out videos of its config."""

import pathlib

from input_pipeline.synthetic import prepare_data
from tarvis_jax.compiled import keep_between_runs
from tarvis_jax.config import to_plain
from tarvis_jax.evaluation.held_out import Scores, evaluate_predictor, write_table
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.run_config import Config, settle
from tarvis_jax.visualize.run_report import write_evaluation_report
from tarvis_jax.weights.open import open_model


def evaluate_workdir(workdir: pathlib.Path | str) -> Scores:
    """Evaluates the newest checkpoint of a run on the held-out videos of its config.

    Prints the table and writes it to scores.txt; eval/final/ holds all scores, pictures, tracks and report.html.

    Raises:
      ValueError: there is no run in `workdir`, or its data is absent.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: expected the workdir of a training run, found no such folder")
    opened = open_model(workdir)
    if opened.run is None:
        raise ValueError(f"{workdir}: expected the workdir of a training run, found a model without a run's config")
    config = settle(opened.run)
    keep_between_runs(config.train.compilation_cache)
    predictor = Predictor(config.model, opened.variables)
    data = prepare_data(config.data, config.synthetic, workdir)
    folder = workdir / "eval" / "final"
    scores = evaluate_predictor(config, data, predictor, folder)
    write_table(scores, workdir / "scores.txt")
    write_evaluation_report(folder, workdir.absolute().name, to_plain(config), to_plain(Config()))
    return scores
