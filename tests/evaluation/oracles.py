"""The official measures written out as plainly as possible, on decoded masks."""

import numpy as np
from scipy.optimize import linear_sum_assignment

RECALLS = [i / 100 for i in range(101)]


def track_iou(one: list, other: list) -> float:
    """Of two tracks, each a list of one bool mask or None per frame."""
    inside = outside = 0
    for a, b in zip(one, other, strict=True):
        a, b = (np.zeros(1, bool) if mask is None else mask for mask in (a, b))
        inside += int((a & b).sum())
        outside += int((a | b).sum())
    return inside / outside if outside else 0.0


def precision_recall(
    videos: list[dict], threshold: float, limit: int, slack: float = 0.0
) -> tuple[float, float] | None:
    """Average precision and recall of one class at one IoU threshold; None if no true track counts.

    Args:
      videos: one dict each: `found`, a list of (score, is left out if it matches nothing); `truths`, a list of (is left
        out, is crowd); `iou`, a list of lists. In the order of the official code.
      limit: detections per video that count, best first.
      slack: by which an IoU may be below what it is compared with.
    """
    outcomes, count = [], 0
    for video in videos:
        count += sum(not left_out for left_out, _ in video["truths"])
        used, rank = set(), 0
        for d in sorted(range(len(video["found"])), key=lambda d: -video["found"][d][0])[:100]:
            choice = None
            for counts in (True, False):
                for g, (left_out, is_crowd) in enumerate(video["truths"]):
                    if left_out == counts or (g in used and not is_crowd) or video["iou"][d][g] < threshold - slack:
                        continue
                    if choice is None or video["iou"][d][g] >= video["iou"][d][choice] - slack:
                        choice = g
                if choice is not None:
                    break
            if choice is None:
                kind = "out" if video["found"][d][1] else "wrong"
            else:
                used.add(choice)
                kind = "out" if video["truths"][choice][0] else "right"
            if rank < limit:
                outcomes.append((video["found"][d][0], kind))
            rank += 1
    if count == 0:
        return None
    outcomes.sort(key=lambda outcome: -outcome[0])
    right = wrong = 0
    points = []
    for _, kind in outcomes:
        right += kind == "right"
        wrong += kind == "wrong"
        points.append((right / count, right / (right + wrong) if right + wrong else 0.0))
    for i in range(len(points) - 2, -1, -1):  # the best precision at this recall or a higher one
        points[i] = points[i][0], max(points[i][1], points[i + 1][1])
    precisions = [next((p for recall, p in points if recall >= r), 0.0) for r in RECALLS]
    return float(np.mean(precisions)), points[-1][0] if points else 0.0


def boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels that differ from the right, the lower or the lower right one, as far as these are in the image."""
    height, width = mask.shape
    found = set()
    for y in range(height):
        for x in range(width):
            others = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if any(b < height and a < width and mask[y, x] != mask[b, a] for b, a in others):
                found.add((y, x))
    return found


def f_measure(truth: np.ndarray, found: np.ndarray) -> float:
    radius = int(np.ceil(0.008 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    edges = [np.array(sorted(boundary(mask))).reshape(-1, 2) for mask in (truth, found)]
    if not len(edges[0]) or not len(edges[1]):
        return float(len(edges[0]) == len(edges[1]))
    is_near = ((edges[0][:, None] - edges[1][None]) ** 2).sum(-1) <= radius**2
    recall, precision = is_near.any(1).mean(), is_near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def box_iou(one: np.ndarray, other: np.ndarray) -> float:
    """Of the boxes around two masks; 0 if one is empty."""
    if not one.any() or not other.any():
        return 0.0
    filled = []
    for mask in (one, other):
        y, x = np.nonzero(mask)
        box = np.zeros_like(mask)
        box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        filled.append(box)
    return (filled[0] & filled[1]).sum() / (filled[0] | filled[1]).sum()


def hota(videos: list[list[tuple[dict, dict]]], alpha: float) -> dict[str, float]:
    """Of one class at one threshold.

    Args:
      videos: per video its evaluated frames, each a pair (true id -> mask, predicted id -> mask).
    """
    found_pairs = missed = wrong = 0
    sums = dict.fromkeys(("AssA", "AssRe", "AssPr", "LocA"), 0.0)
    for frames in videos:
        times = [{}, {}]
        potential, matches, iou_of_matches = {}, {}, []
        ious = []
        for pair in frames:
            for side in (0, 1):
                for i in pair[side]:
                    times[side][i] = times[side].get(i, 0) + 1
            iou = {(t, p): box_iou(a, b) for t, a in pair[0].items() for p, b in pair[1].items()}
            ious.append(iou)
            for (t, p), value in iou.items():
                rest = sum(v for (a, b), v in iou.items() if a == t or b == p)
                potential[t, p] = potential.get((t, p), 0) + (value / rest if rest else 0)
        for pair, iou in zip(frames, ious, strict=True):
            true_ids, found_ids = list(pair[0]), list(pair[1])
            table = np.zeros((len(true_ids), len(found_ids)))
            for (t, p), value in iou.items():
                share = potential[t, p] / (times[0][t] + times[1][p] - potential[t, p])
                table[true_ids.index(t), found_ids.index(p)] = share * value
            chosen = [(true_ids[r], found_ids[c]) for r, c in zip(*linear_sum_assignment(-table), strict=True)]
            chosen = [each for each in chosen if iou[each] >= alpha - 1e-12]
            for each in chosen:
                matches[each] = matches.get(each, 0) + 1
                iou_of_matches.append(iou[each])
            found_pairs += len(chosen)
            missed += len(true_ids) - len(chosen)
            wrong += len(found_ids) - len(chosen)
        for (t, p), number in matches.items():
            sums["AssA"] += number * number / (times[0][t] + times[1][p] - number)
            sums["AssRe"] += number * number / times[0][t]
            sums["AssPr"] += number * number / times[1][p]
        sums["LocA"] += sum(iou_of_matches)
    result = {name: value / max(1, found_pairs) for name, value in sums.items()}
    if not found_pairs:
        result["LocA"] = 1.0
    result["DetA"] = found_pairs / max(1, found_pairs + missed + wrong)
    result["DetRe"] = found_pairs / max(1, found_pairs + missed)
    result["DetPr"] = found_pairs / max(1, found_pairs + wrong)
    return result | {"HOTA": (result["DetA"] * result["AssA"]) ** 0.5}
