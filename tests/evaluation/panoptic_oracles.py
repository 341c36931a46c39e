"""VPQ, STQ, mIoU and VC written out as plainly as possible, pixel masks and all."""

import math

import numpy as np

VOID = 255


def vpq_window(true_maps: np.ndarray, predicted_maps: np.ndarray, true_lists: list, predicted_lists: list) -> dict:
    """Class -> [sum of IoU, TP, FP, FN] of one window; maps are [N, H, W], lists have one list
    of records (id, category_id, iscrowd, area) per frame."""
    truths, guesses = ({}, {})
    for tubes, lists in ((truths, true_lists), (guesses, predicted_lists)):
        for record in (record for frame in lists for record in frame):
            tube = tubes.setdefault(record["id"], {"class": record["category_id"], "crowd": record["iscrowd"]})
            tube["area"] = tube.get("area", 0) + record["area"]
    sums: dict[int, list] = {}
    matched = set()
    void = true_maps == 0
    for i, truth in truths.items():
        stats = sums.setdefault(truth["class"], [0.0, 0, 0, 0])
        hits = 0
        for j, guess in guesses.items():
            mask = predicted_maps == j
            common = int((mask & (true_maps == i)).sum())
            if common == 0 or truth["crowd"] or truth["class"] != guess["class"]:
                continue
            iou = common / (int(mask.sum()) + truth["area"] - common - int((mask & void).sum()))
            if iou > 0.5:
                stats[0] += iou
                stats[1] += 1
                hits += 1
                matched.add(j)
        if not hits and not truth["crowd"]:
            stats[3] += 1
    for j, guess in guesses.items():
        if j in matched:
            continue
        mask = predicted_maps == j
        crowds = [i for i, truth in truths.items() if truth["crowd"] and truth["class"] == guess["class"]]
        free = mask & (void | (true_maps == crowds[-1]) if crowds else void)
        if free.sum() / mask.sum() <= 0.5:
            sums.setdefault(guess["class"], [0.0, 0, 0, 0])[2] += 1
    return {label: stats for label, stats in sums.items() if any(stats[1:])}


def vpq_table(videos: list, window: int, is_thing: dict[int, bool]) -> dict:
    """What a benchmark reports for a window; videos are (true maps, predicted maps, true and predicted lists)."""
    sums: dict[int, list] = {}
    for arrays in videos:
        for start in range(len(arrays[0]) - window + 1):
            for label, stats in vpq_window(*(each[start : start + window] for each in arrays)).items():
                sums[label] = [a + b for a, b in zip(sums.get(label, [0.0, 0, 0, 0]), stats, strict=True)]
    quality = {label: 100 * iou / (tp + 0.5 * fp + 0.5 * fn) for label, (iou, tp, fp, fn) in sums.items()}
    table = {"per_class": {str(k): dict(zip(("iou", "tp", "fp", "fn"), sums[k], strict=True)) for k in sums}}
    for name, chosen in (("all", (True, False)), ("thing", (True,)), ("stuff", (False,))):
        values = [value for label, value in quality.items() if is_thing[label] in chosen]
        table |= {name: float(np.mean(values)) if values else math.nan, f"n_classes_{name}": len(values)}
    return table


def stq(videos: list, num_classes: int, things: list[int]) -> dict:
    """STQ, AQ, SQ, frames and true tubes of some videos, given as [N, H, W] each: true classes and instances, predicted
    classes and instances."""
    association, num_tubes = 0.0, 0
    for true_class, true_id, found_class, found_id in videos:
        crowd = np.isin(true_class, things) & (true_id == 0)
        for label in things:
            for i in np.unique(true_id[true_class == label]):
                if i == 0:
                    continue
                truth = (true_class == label) & (true_id == i)
                num_tubes += 1
                for other in things:
                    for j in np.unique(found_id[(found_class == other) & truth]):
                        found = (found_class == other) & (found_id == j) & ~crowd
                        common = (found & truth).sum()
                        association += common / truth.sum() * common / (found | truth).sum()
    ious = []
    for label in [*range(num_classes), VOID]:
        truth = [(each[0] == label) & (each[0] != VOID) for each in videos]
        found = [(each[2] == label) & (each[0] != VOID) for each in videos]
        either = sum(int((a | b).sum()) for a, b in zip(truth, found, strict=True))
        if either:
            ious.append(sum(int((a & b).sum()) for a, b in zip(truth, found, strict=True)) / either)
    aq = association / num_tubes if num_tubes else 0.0
    sq = float(np.mean(ious)) if ious else math.nan
    frames = sum(len(each[0]) for each in videos)
    return {"STQ": math.sqrt(aq * sq), "AQ": aq, "SQ": sq, "frames": frames, "num_gt_tubes": num_tubes}


def mean_iou(videos: list, num_classes: int) -> tuple[float, dict[int, float]]:
    """mIoU and the IoU of each class, of videos given as [N, H, W] each: true and predicted classes."""
    ious = {}
    for label in range(num_classes):
        if not any((truth == label).any() for truth, _ in videos):
            continue
        counts = [
            (((t == label) & (p == label)).sum(), ((t == label) | (p == label) & (t < num_classes)).sum())
            for t, p in videos
        ]
        common, either = (int(sum(column)) for column in zip(*counts, strict=True))
        ious[label] = common / either
    return float(np.mean(list(ious.values()))) if ious else math.nan, ious


def consistency(videos: list, length: int) -> float:
    """VC of videos given as [N, H, W] each: true and predicted labels."""
    values = []
    for truth, found in videos:
        for start in range(len(truth) - length):
            steady = (truth[start : start + length] == truth[start]).all(axis=0)
            both = steady & (found[start : start + length] == found[start]).all(axis=0)
            if steady.any():
                values.append(both.sum() / steady.sum())
    return float(np.mean(values)) if values else math.nan
