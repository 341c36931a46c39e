"""OVIS: AP and AR over tracks, in total and by level of occlusion (`metrics/ap.py` has the rules)."""

import pathlib
from typing import Any

from tarvis_jax.evaluation.benchmarks.track_files import score_files, scores_json

CASE = {"results": "results.json", "gt": "annotations.json"}


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Scores as fractions, -1 = undefined: `expected`, `per_category`, `ious_example` (video,category -> IoU [D][G]).

    Args:
      results, gt: JSON files in the official layout, see `score_files`; annotations have `occlusion`.
    Raises:
      ValueError: anything in the files that is not as it should be.
    """
    return scores_json(score_files(results, gt, with_occlusion=True))
