"""BURST, exemplar-guided (objects given by mask, box or point in one frame): HOTA and track AP, averaged over classes.

What surprises in the official rules, and is the same here:

- a prediction has the class of the true track with its id; the categories in the result file do not matter, and
  predictions for tracks of distractor classes are left out;
- HOTA compares the boxes around the masks, because the toolkits hand these to the function that compares masks;
  the track AP compares masks;
- frames in which the ground truth shows no object of any class are not evaluated by HOTA, but count in the track AP;
- the frame in which an object is given counts, and so do predictions before it;
- an empty mask in the result file is a detection, so a wrong one;
- what is predicted for frames that the ground truth does not annotate is ignored, and a sequence without results counts
  as one in which nothing is found;
- classes are merged after distractors have left: 967 becomes 529, which is a distractor, so its objects are not
  evaluated, but keep their frames evaluated;
- for classes that a sequence does not annotate exhaustively, tracks that match nothing do not lower the track AP.
"""

import collections
import dataclasses
import pathlib
from typing import Any

import numpy as np

from input_pipeline import workspace
from tarvis_jax.evaluation.metrics import ap
from tarvis_jax.evaluation.metrics.hota import ALPHAS, Hota
from tarvis_jax.masks import intervals
from tarvis_jax.masks.intervals import Intervals

CASE = {"results": "results.json", "gt": "gt/all_classes.json"}

MAX_DETECTIONS = 300  # per frame, the best scores
IOU_THRESHOLDS = np.arange(0.5, 0.96, 0.05)  # of the track AP
NUM_CATEGORIES = 1230  # ids from 1, those of LVIS 0.5
# Category -> the one that it is merged into.
MERGED = {504: 347, 720: 347, 912: 529, 967: 529, 207: 554, 153: 943, 201: 1175}
_NAMES_OF_MERGED = {347: "cup", 529: "grocery_bag", 554: "hat", 943: "scrubbing_brush", 1175: "walking_stick"}
# fmt: off
DISTRACTORS = frozenset((
    20, 63, 108, 180, 188, 204, 212, 247, 303, 403, 407, 415, 490, 504, 507, 513, 529, 567, 569, 588, 672, 691, 702,
    708, 711, 720, 736, 737, 798, 813, 815, 827, 831, 851, 877, 883, 912, 971, 976, 1130, 1133, 1134, 1169, 1184, 1220,
))
COMMON = frozenset((
    4, 13, 34, 35, 36, 41, 45, 58, 60, 78, 79, 81, 91, 95, 99, 118, 126, 133, 139, 154, 174, 185, 211, 221, 229, 235,
    237, 276, 299, 347, 371, 382, 392, 428, 429, 452, 475, 480, 502, 544, 579, 621, 625, 642, 699, 714, 717, 729, 747,
    779, 805, 829, 852, 896, 926, 937, 961, 979, 980, 982, 993, 1001, 1018, 1038, 1057, 1091, 1097, 1099, 1115, 1117,
    1122, 1132, 1135, 1144, 1155, 1162, 1215, 1229,
))
# fmt: on
_BABY = 805
_VARIANT = "variant_all_predicted_category_ids_set_to_805"
_BURSTAPI = "burstapi_HEAD (uses the predicted ids; see README)"


@dataclasses.dataclass(frozen=True, eq=False)
class _Masks:
    """Masks of one sequence in the order of the file.

    Attributes:
      frames: int [n]: number of the frame in the ground truth.
      tracks: int [n]: ids.
      categories: int [n], merged.
      scores: float [n].
      pixels: of each mask.
      boxes: float [n, 4].
    """

    frames: np.ndarray
    tracks: np.ndarray
    categories: np.ndarray
    scores: np.ndarray
    pixels: Intervals
    boxes: np.ndarray

    def take(self, index: np.ndarray) -> "_Masks":
        """Only the masks of these numbers, in this order."""
        arrays = (self.frames, self.tracks, self.categories, self.scores)
        return _Masks(*(array[index] for array in arrays), self.pixels.take(index), self.boxes[index])


@dataclasses.dataclass(frozen=True)
class _Sequence:
    """One sequence of a file, its masks still as they are there.

    Attributes:
      where: file and place in it, for errors.
      frames: name -> track id -> record of a mask.
      categories: track id -> category; empty for results.
      searched, not_exhaustive: the categories of `neg_category_ids` and `not_exhaustive_category_ids`.
    """

    where: str
    id: int
    size: tuple[int, int]
    frames: dict[str, dict[int, Any]]
    categories: dict[int, int] = dataclasses.field(default_factory=dict)
    searched: frozenset[int] = frozenset()
    not_exhaustive: frozenset[int] = frozenset()


@dataclasses.dataclass
class _ClassScores:
    """What is added up for one class over sequences: HOTA's counts, and of all predicted tracks, what AP needs."""

    hota: Hota = dataclasses.field(default_factory=Hota)
    scores: list[np.ndarray] = dataclasses.field(default_factory=list)  # [D]
    is_matched: list[np.ndarray] = dataclasses.field(default_factory=list)  # bool [10, D]
    is_ignored: list[np.ndarray] = dataclasses.field(default_factory=list)  # bool [10, D]
    num_truths: int = 0

    def percentages(self) -> dict[str, np.ndarray]:
        """HOTA's scores by alpha, and AP."""
        parts = (np.concatenate(each, axis=-1) for each in (self.scores, self.is_matched, self.is_ignored))
        precision, _ = ap.precision_and_recall(*parts, self.num_truths)
        return {name: 100 * values for name, values in (self.hota.scores() | {"AP": precision}).items()}


def evaluate(results: pathlib.Path, gt: pathlib.Path) -> dict[str, Any]:
    """Scores in percent, -1 = no class of the group: `expected` (means over classes) and `per_class`.

    `variant_...` has the totals for the case that all categories in the result file are 805: they are the same, but the
    benchmark's own toolkit (burstapi) goes by those categories, and what it gives is there, too.

    Args:
      results: JSON in the layout of the ground truth; the `score` of a mask is optional.
      gt: `all_classes.json`, or the folder with it.
    Raises:
      ValueError: anything in the files that is not as it should be; results for sequences or tracks that the ground
        truth does not have.
    """
    gt = gt / "all_classes.json" if gt.is_dir() else gt
    truth, found = workspace.load_json(gt), workspace.load_json(results)
    split = workspace.get(truth, "split", str, str(gt))
    if isinstance(found, dict) and found.get("split", split) != split:
        raise ValueError(f"{results}: split is {found['split']!r:.80}, that of {gt.name} is {split!r}")
    names = _category_names(truth, gt)
    truths, predictions = _read_sequences(truth, gt, is_truth=True), _read_sequences(found, results, is_truth=False)
    for name, sequence in predictions.items():
        if name not in truths:
            raise ValueError(f"{sequence.where}: {name!r} is none of the {len(truths)} sequences of {gt}")
    by_track: dict[int, _ClassScores] = collections.defaultdict(_ClassScores)
    by_prediction: dict[int, _ClassScores] = collections.defaultdict(_ClassScores)
    # In the order of the official code, which decides between tracks of equal score.
    for name in sorted(truths, key=lambda name: name.replace("/", "-")):
        sequence = truths[name]
        true_masks = _true_masks(sequence)
        found_masks = _found_masks(predictions.get(name), sequence)
        category_of = dict(zip(true_masks.tracks.tolist(), true_masks.categories.tolist(), strict=True))
        categories = np.asarray([category_of.get(track, 0) for track in found_masks.tracks.tolist()], np.int64)
        _add_sequence(by_track, sequence, true_masks, _with_categories(found_masks, categories))
        babies = np.full_like(categories, _BABY)
        _add_sequence(by_prediction, sequence, true_masks, _with_categories(found_masks, babies))
    per_class = {c: scores.percentages() for c, scores in by_track.items() if _is_evaluated(c, scores)}
    if not per_class:
        raise ValueError(f"{gt}: there is no annotated object of a class that is evaluated")
    totals = _totals(per_class)
    burstapi = {c: scores.percentages() for c, scores in by_prediction.items() if _is_evaluated(c, scores)}
    return {
        "alphas": np.round(ALPHAS, 2).tolist(),
        "expected": totals,
        "per_class": {
            str(c): {"name": names.get(c, str(c))}
            | {name: float(values.mean()) for name, values in per_class[c].items()}
            | {
                "HOTA_per_alpha": per_class[c]["HOTA"].tolist(),
                "TP_per_alpha": by_track[c].hota.true_positives.tolist(),
                "FN_per_alpha": by_track[c].hota.false_negatives.tolist(),
                "FP_per_alpha": by_track[c].hota.false_positives.tolist(),
            }
            for c in sorted(per_class)
        },
        _VARIANT: {"TrackEval": totals, _BURSTAPI: _totals(burstapi)},
    }


def _is_evaluated(category: int, scores: _ClassScores) -> bool:
    return scores.num_truths > 0 and category not in DISTRACTORS


def _totals(per_class: dict[int, dict[str, np.ndarray]]) -> dict[str, dict[str, float]]:
    groups = {
        "all": list(per_class),
        "common": [c for c in per_class if c in COMMON],
        "uncommon": [c for c in per_class if c not in COMMON],
    }
    return {
        metric: {
            group: float(np.mean([per_class[c][metric].mean() for c in classes])) if classes else -1.0
            for group, classes in groups.items()
        }
        for metric in ("HOTA", "DetA", "AssA", "AP")
    }


def _add_sequence(classes: dict[int, _ClassScores], sequence: _Sequence, true: _Masks, found: _Masks) -> None:
    """Adds a sequence to the scores of every class that it has."""
    true_classes = set(true.categories.tolist())
    evaluated = np.flatnonzero(np.bincount(true.frames))
    for category in sorted(true_classes | set(found.categories.tolist())):
        truths, predictions = _tracks_of(true, category), _tracks_of(found, category)
        target = classes[category]
        (true_shown, true_boxes), (found_shown, found_boxes) = (
            _by_frame(masks, tracks, evaluated) for masks, tracks in ((true, truths), (found, predictions))
        )
        target.hota.add_video(true_shown, found_shown, _box_iou(true_boxes, found_boxes))
        target.num_truths += truths.count
        if category not in true_classes | sequence.searched:
            continue  # no track of it counts for AP
        scores = np.asarray(
            [np.mean(found.scores[predictions.index[predictions.numbers == i]]) for i in range(predictions.count)]
        )
        order = np.argsort(-scores, kind="stable")
        num_pixels = sequence.size[0] * sequence.size[1]
        pixels = [
            masks.pixels.take(tracks.index).joined(masks.frames[tracks.index], tracks.numbers, tracks.count, num_pixels)
            for masks, tracks in ((found, predictions), (true, truths))
        ]
        no_truth = np.zeros(truths.count, bool)
        ious = intervals.union_iou(*pixels)[order]
        matched = ap.match_tracks(ious, IOU_THRESHOLDS, no_truth, no_truth, tolerance=np.finfo(float).eps)
        target.scores.append(scores[order])
        target.is_matched.append(matched >= 0)
        target.is_ignored.append((matched < 0) & (category in sequence.not_exhaustive))


@dataclasses.dataclass(frozen=True, eq=False)
class _Tracks:
    """The tracks of one class: numbers of the masks [n], ordered by track and then by frame, and the track of each.

    Tracks are numbered in the order in which they appear in the file.
    """

    index: np.ndarray
    numbers: np.ndarray
    count: int


def _tracks_of(masks: _Masks, category: int) -> _Tracks:
    index = np.flatnonzero(masks.categories == category)
    known: dict[int, int] = {}
    numbers = np.asarray([known.setdefault(track, len(known)) for track in masks.tracks[index].tolist()], np.int64)
    order = np.lexsort((masks.frames[index], numbers))
    return _Tracks(index[order], numbers[order], len(known))


def _by_frame(masks: _Masks, tracks: _Tracks, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which tracks have a mask in each of some frames, bool [T, n], and the boxes, float [T, n, 4], zeros for none."""
    place = np.searchsorted(frames, masks.frames[tracks.index])
    is_there = np.append(frames, -1)[place] == masks.frames[tracks.index]
    where = place[is_there], tracks.numbers[is_there]
    shown = np.zeros((len(frames), tracks.count), bool)
    boxes = np.zeros((len(frames), tracks.count, 4))
    shown[where], boxes[where] = True, masks.boxes[tracks.index[is_there]]
    return shown, boxes


def _box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Of boxes [T, n, 4] and [T, m, 4] (left, top, width, height): [T, n, m]; 0 for those without pixels."""
    one, other = one[:, :, None], other[:, None]
    width, height = (
        np.minimum(one[..., i] + one[..., i + 2], other[..., i] + other[..., i + 2])
        - np.maximum(one[..., i], other[..., i])
        for i in (0, 1)
    )
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = one[..., 2] * one[..., 3] + other[..., 2] * other[..., 3] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _with_categories(masks: _Masks, categories: np.ndarray) -> _Masks:
    """The masks with these categories, without those of category 0; the best ones of each frame."""
    kept = np.flatnonzero(categories)
    frames = masks.frames[kept]
    if len(kept) and np.bincount(frames).max() > MAX_DETECTIONS:
        parts = [kept[frames == frame] for frame in dict.fromkeys(frames.tolist())]
        best = [part[np.argsort(-masks.scores[part], kind="stable")[:MAX_DETECTIONS]] for part in parts]
        kept = np.concatenate([b if len(part) > MAX_DETECTIONS else part for part, b in zip(parts, best, strict=True)])
    return dataclasses.replace(masks, categories=categories).take(kept)


def _category_names(truth: Any, gt: pathlib.Path) -> dict[int, str]:
    names = dict(_NAMES_OF_MERGED)
    for index, category in enumerate(workspace.get(truth, "categories", list, str(gt))):
        where = f"{gt}, categories[{index}]"
        names[workspace.get(category, "id", int, where)] = workspace.get(category, "name", str, where)
    return names


def _read_sequences(content: Any, file: pathlib.Path, *, is_truth: bool) -> dict[str, _Sequence]:
    """ "<dataset>/<seq_name>" -> sequence. Masks are checked later, one sequence at a time."""
    sequences: dict[str, _Sequence] = {}
    ids: dict[int, str] = {}
    for index, entry in enumerate(workspace.get(content, "sequences", list, str(file))):
        where = f"{file}, sequences[{index}]"
        name = "/".join(workspace.get(entry, key, str, where) for key in ("dataset", "seq_name"))
        number = workspace.get(entry, "id", int, where)
        if name in sequences or number in ids:
            other = sequences[name].where if name in sequences else ids[number]
            raise ValueError(f"{where}: sequence {name!r} with id {number} has the name or the id of {other}")
        frame_names = workspace.get(entry, "annotated_image_paths", list, where)
        workspace.check_items(frame_names, str, f"{where}.annotated_image_paths")
        masks = workspace.get(entry, "segmentations", list, where)
        if len(masks) != len(frame_names) or len(set(frame_names)) != len(frame_names):
            raise ValueError(
                f"{where}: expected one entry of segmentations for each of {len(frame_names)} different "
                f"annotated_image_paths, found {len(masks)} entries and {len(set(frame_names))} different paths"
            )
        frames = {
            frame: _by_track(tracks, f"{where}.segmentations[{t}]")
            for t, (frame, tracks) in enumerate(zip(frame_names, masks, strict=True))
        }
        extra = {}
        if is_truth:
            given = workspace.get(entry, "track_category_ids", dict, where)
            categories = _by_track(given, f"{where}.track_category_ids")
            categories = {t: workspace.to_id(c, f"{where}.track_category_ids, {t}") for t, c in categories.items()}
            wrong = sorted(c for c in categories.values() if not 1 <= c <= NUM_CATEGORIES)
            if wrong:
                raise ValueError(f"{where}.track_category_ids: expected ids 1 to {NUM_CATEGORIES}, found {wrong[0]}")
            lists = [workspace.get(entry, f"{kind}_category_ids", list, where) for kind in ("neg", "not_exhaustive")]
            for kind, values in zip(("neg", "not_exhaustive"), lists, strict=True):
                workspace.check_items(values, int, f"{where}.{kind}_category_ids")
            extra = {"categories": categories, "searched": frozenset(lists[0]), "not_exhaustive": frozenset(lists[1])}
        sequences[name] = _Sequence(where, number, workspace.get_size(entry, where), frames, **extra)
        ids[number] = where
    return sequences


def _by_track(content: Any, where: str) -> dict[int, Any]:
    """The values of an object whose keys are track ids."""
    if not isinstance(content, dict):
        raise ValueError(f"{where}: expected an object with track ids as keys, found {type(content).__name__}")
    result = {workspace.to_id(key, where): value for key, value in content.items()}
    if len(result) != len(content):
        raise ValueError(f"{where}: two keys are the same track id, found {', '.join(content)!r:.80}")
    return result


def _true_masks(sequence: _Sequence) -> _Masks:
    """The masks of a sequence of the ground truth, without those of distractors."""
    rows = []
    for frame, (name, tracks) in enumerate(sequence.frames.items()):
        for track, record in tracks.items():
            where = f"{sequence.where}, frame {name!r}, track {track}"
            if track not in sequence.categories:
                raise ValueError(f"{where}: not in track_category_ids, which has {sorted(sequence.categories)[:20]}")
            category = sequence.categories[track]
            if category not in DISTRACTORS:
                rows.append((frame, track, MERGED.get(category, category), 1.0, record, where))
    return _masks(rows, sequence.size)


def _found_masks(sequence: _Sequence | None, truth: _Sequence) -> _Masks:
    """The masks of a sequence of the results in frames of the ground truth, with category 0."""
    if sequence is None:
        return _masks([], truth.size)
    if (sequence.id, sequence.size) != (truth.id, truth.size):
        raise ValueError(
            f"{sequence.where}: id, height and width are {(sequence.id, *sequence.size)}, those of this sequence "
            f"in the ground truth {(truth.id, *truth.size)}"
        )
    numbers = {name: number for number, name in enumerate(truth.frames)}
    rows = []
    for name, tracks in sequence.frames.items():
        if name not in numbers:
            continue
        for track, record in tracks.items():
            where = f"{sequence.where}, frame {name!r}, track {track}"
            if track not in truth.categories:
                raise ValueError(f"{where}: the ground truth has the tracks {sorted(truth.categories)[:20]}")
            score = record.get("score", 1.0) if isinstance(record, dict) else 1.0
            if type(score) not in (int, float) or not abs(score) < 1e300:
                raise ValueError(f"{where}: score should be a finite number, found {score!r:.80}")
            rows.append((numbers[name], track, 0, float(score), record, where))
    return _masks(rows, truth.size)


def _masks(rows: list[tuple[int, int, int, float, Any, str]], size: tuple[int, int]) -> _Masks:
    """(frame, track, category, score, record, where) of each mask, as arrays."""
    frames, tracks, categories, scores = (np.asarray([row[i] for row in rows]) for i in range(4))
    texts = [workspace.get(record, "rle", str, where) for *_, record, where in rows]
    pixels = intervals.from_segmentations(texts, *size, lambda i: rows[i][-1])
    integers = (array.astype(np.int64) for array in (frames, tracks, categories))
    return _Masks(*integers, scores.astype(np.float64), pixels, pixels.boxes(size[0]))
