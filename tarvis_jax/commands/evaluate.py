"""Scores a run on the held-out videos of its config."""

import pathlib

from input_pipeline.synthetic import prepare_data
from tarvis_jax.evaluation.held_out import Scores, evaluate_predictor, write_table
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.weights.open import open_model


def evaluate_workdir(workdir: pathlib.Path | str) -> Scores:
    """Evaluates the newest checkpoint of a run on the held-out videos of its config; prints and writes the table.

    Raises:
      ValueError: there is no run in `workdir`, or its data is absent.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: expected the workdir of a training run, found no such folder")
    opened = open_model(workdir)
    if opened.run is None:
        raise ValueError(f"{workdir}: expected the workdir of a training run, found a model without a run's config")
    predictor = Predictor(opened.config, opened.variables)
    data = prepare_data(opened.run.data, opened.run.synthetic, workdir)
    scores = evaluate_predictor(opened.run, data, predictor, workdir / "eval" / "final")
    write_table(scores, workdir / "scores.txt")
    return scores
