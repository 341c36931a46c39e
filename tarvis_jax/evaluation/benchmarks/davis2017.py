"""DAVIS 2017, semi-supervised: J&F of objects given by their mask in frame 0 (`metrics/jf.py`).

What surprises in the official rules, and is the same here: the first and the last frame do not count, and their results
are not opened; the objects are those up to the largest id of frame 0, so higher ids that appear later do not count;
void (255) in the ground truth is background; an object whose id is in no result counts as predicted empty.
"""

import pathlib
from typing import Any

import numpy as np

from input_pipeline import images, workspace
from tarvis_jax.evaluation.metrics import jf

CASE = {"results": "results", "gt": "DAVIS"}

_PER_OBJECT = "per_object (M=mean, R=recall, D=decay)"
_PER_FRAME = "per_frame (J,F over evaluated frames, i.e. frames 1..T-2)"
_STATISTICS = {"M": "Mean", "R": "Recall", "D": "Decay"}


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Scores as fractions: `expected` (means over all objects), and those of every object and of its every frame.

    Args:
      results: a folder with <sequence>/<frame>.png; palette or gray PNGs whose values are ids, 0 = background.
      gt: DAVIS's folder with ImageSets/2017/val.txt and Annotations/480p/<sequence>/<frame>.png; or a folder
        with only <sequence>/<frame>.png, all of which count, or with these in Annotations.
    Raises:
      ValueError: a sequence or frame without result, another size, an id that no object has, or an unreadable file.
    """
    objects: list[jf.ObjectScores] = []
    for sequence, folder in _sequences(gt).items():
        objects += _score_sequence(sequence, folder, workspace.join(results, sequence, str(gt)))
    if not objects:
        raise ValueError(f"{gt}: no sequence has an object in its first frame")
    per_object, per_frame = {}, {}
    for each in objects:
        means = jf.summarize([each])
        per_object[f"{each.video}_{each.id}"] = {
            letter + short: means[f"{letter}-{name}"] for letter in "JF" for short, name in _STATISTICS.items()
        }
        frames = {"J": each.region.tolist(), "F": each.boundary.tolist()}
        per_frame.setdefault(each.video, {})[str(each.id)] = frames
    return {"expected": jf.summarize(objects), _PER_OBJECT: per_object, _PER_FRAME: per_frame}


def _sequences(gt: pathlib.Path) -> dict[str, pathlib.Path]:
    """Sequence -> folder of its masks."""
    lists = gt / "ImageSets" / "2017"
    if lists.is_dir():
        masks, file = gt / "Annotations" / "480p", lists / "val.txt"
        names = [line.strip() for line in workspace.load_text(file).splitlines() if line.strip()]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ValueError(f"{file}: sequence {name!r} is listed twice")
        return {name: workspace.join(masks, name, str(file)) for name in names}
    masks = gt / "Annotations" if (gt / "Annotations").is_dir() else gt
    if not masks.is_dir():
        raise ValueError(f"{gt}: expected a folder with ImageSets/2017/val.txt or with one folder per sequence")
    return {folder.name: folder for folder in sorted(masks.iterdir()) if folder.is_dir()}


def _score_sequence(sequence: str, truths: pathlib.Path, results: pathlib.Path) -> list[jf.ObjectScores]:
    files = sorted(truths.glob("*.png"))
    if len(files) < 3:
        raise ValueError(
            f"{truths}: expected at least 3 masks (the first and the last do not count), found {len(files)}"
        )
    if not results.is_dir():
        raise ValueError(f"{results}: there is no such folder, expected the results of sequence {sequence!r}")
    size = images.image_size(files[0])
    first = images.read_palette(files[0], *size)
    num_objects = int(np.where(first == images.VOID, 0, first).max())
    evaluated = [files[t] for t in jf.davis_frames(len(files))]
    missing = [file.name for file in evaluated if not (results / file.name).is_file()]
    if missing:
        raise ValueError(
            f"{results}: {len(missing)} of the {len(evaluated)} evaluated frames have no PNG, the first is {missing[0]}"
        )
    scores = np.zeros((2, num_objects, len(evaluated)))
    for t, file in enumerate(evaluated):
        truth = images.read_palette(file, *size)
        prediction = images.read_palette(results / file.name, *size)
        highest = int(prediction.max())
        if highest > num_objects:
            raise ValueError(
                f"{results / file.name}: a pixel has id {highest}, but the first frame of the sequence has the ids "
                f"1 to {num_objects}"
            )
        for i in range(num_objects):
            pair = truth == i + 1, prediction == i + 1
            scores[:, i, t] = jf.region_similarity(*pair), jf.boundary_accuracy(*pair)
    return [jf.ObjectScores(sequence, i + 1, scores[0, i], scores[1, i]) for i in range(num_objects)]
