"""Scores a run on the held-out videos of its config."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from input_pipeline.synthetic import prepare_data
from tarvis_jax.compiled import keep_between_runs
from tarvis_jax.config import to_plain
from tarvis_jax.evaluation.held_out import Scores, evaluate_predictor
from tarvis_jax.evaluation.segment import fingerprint
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.run_config import Config, settle
from tarvis_jax.visualize.run_report import write_evaluation_report
from tarvis_jax.weights.open import open_model


def evaluate_workdir(workdir: pathlib.Path | str, datasets: Sequence[str] = (), data_root: str | None = None) -> Scores:
    """Evaluates the newest checkpoint of a run on the held-out videos of its config.

    The table of scores is shown and written to scores.txt; eval/final/ holds all scores, pictures, tracks and
    report.html. Table, scores and pictures are written whenever a dataset is done. A dataset that cannot be scored
    stands in the table with its reason.

    Args:
      workdir: of the run.
      datasets: which of the run's datasets are scored; (): all.
      data_root: the workspace, if it is not that of the run's config.

    Raises:
      ValueError: there is no run in `workdir`, it has no such dataset, or none of them can be scored.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise ValueError(f"{workdir}: expected the workdir of a training run, found no such folder")
    opened = open_model(workdir)
    if opened.run is None:
        raise ValueError(f"{workdir}: expected the workdir of a training run, found a model without a run's config")
    config = settle(opened.run)
    keep_between_runs(config.train.compilation_cache)
    data = prepare_data(config.data, config.synthetic, workdir)
    if data_root is not None:
        data = dataclasses.replace(data, workspace=data_root)
    variables = {name: np.asarray(value) for name, value in opened.variables.items()}
    folder = workdir / "eval" / "final"
    scores = evaluate_predictor(
        config,
        data,
        [Predictor(config.model, variables, device=device) for device in jax.local_devices()],
        folder,
        weights=fingerprint(variables),
        names=datasets,
        table=workdir / "scores.txt",
    )
    write_evaluation_report(folder, workdir.absolute().name, to_plain(config), to_plain(Config()))
    if not scores:
        raise ValueError(f"{workdir}: no dataset could be scored; {workdir / 'scores.txt'} says why")
    return scores
