"""Time, memory and numbers of our official scores, beside those of the official toolkit on the same files.

    python -m benchmarks.evaluation ytvis --toolkit ~/cocoapi --case ../shared/metrics/ytvis
    python -m benchmarks.evaluation davis2017 --toolkit ~/davis2017-evaluation --videos 50 --size 480 854

The toolkits are checkouts of youtubevos/cocoapi (ytvis), qjy981010/cocoapi (ovis), davis2017-evaluation (davis2017),
TrackEval (burst), the original TarViS (kitti_step, with TensorFlow), mcahny/vps (cityscapes_vps) and VIPSeg-Dataset
(vipseg). They are run as they are, each in a process of its own, with what is needed to run them with
today's numpy: names that numpy has removed, and pip's pycocotools in place of their compiled copy.
"""

import argparse
import contextlib
import importlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from tarvis_jax.evaluation.benchmarks import benchmark
from tests.evaluation import cases, panoptic_cases

_TRACK_NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
_OCCLUSIONS = ["occ_light", "occ_medium", "occ_heavy"]
_WRITERS = {
    "ytvis": lambda *args, **kw: cases.write_tracks(*args, with_occlusion=False, **kw),
    "ovis": lambda *args, **kw: cases.write_tracks(*args, with_occlusion=True, **kw),
    "davis2017": cases.write_davis,
    "burst": cases.write_burst,
    "kitti_step": panoptic_cases.write_kitti_step,
    "cityscapes_vps": panoptic_cases.write_cityscapes_vps,
    "vipseg": panoptic_cases.write_vipseg,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("benchmark", choices=list(_WRITERS))
    parser.add_argument("--toolkit", type=pathlib.Path, required=True, help="checkout of the official toolkit")
    parser.add_argument("--case", type=pathlib.Path, help="folder as those of docs/evaluation.md; else one is made up")
    parser.add_argument("--videos", type=int, default=50)
    parser.add_argument("--frames", type=int, default=20)
    parser.add_argument("--objects", type=int, default=10, help="true objects in each video; DAVIS has 3")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 854), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="file for the figures")
    parser.add_argument(
        "--official", type=pathlib.Path, help=argparse.SUPPRESS
    )  # the process of the toolkit: its output
    args = parser.parse_args(arguments)
    if args.official:
        _prepare_numpy()
        found = _OFFICIAL[args.benchmark](args.toolkit.absolute(), args.case)
        args.official.write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        case = args.case
        if case is None:
            case = pathlib.Path(folder) / "case"
            case.mkdir()
            _WRITERS[args.benchmark](
                case,
                np.random.default_rng(0),
                num_videos=args.videos,
                num_frames=args.frames,
                size=tuple(args.size),
                **({} if args.benchmark == "davis2017" else {"num_tracks": args.objects}),
            )
        figures = compare(args.benchmark, args.toolkit, case, pathlib.Path(folder), args.repetitions)
    print(json.dumps(figures, indent=1))
    if args.json:
        from benchmarks import common

        args.json.write_text(json.dumps(figures | {"environment": common.environment()}, indent=1) + "\n")


def compare(
    name: str, toolkit: pathlib.Path, case: pathlib.Path, folder: pathlib.Path, repetitions: int
) -> dict[str, Any]:
    """Least processor seconds and peak megabytes of both whole processes, and the largest difference of a number."""
    files = {"ours": folder / "ours.json", "official": folder / "official.json"}
    common_arguments = [name, "--case", str(case)]
    commands = {
        "ours": ["tarvis_jax.evaluation", *common_arguments, "--json", str(files["ours"])],
        "official": [__spec__.name, *common_arguments, "--toolkit", str(toolkit), "--official", str(files["official"])],
    }
    runs: dict[str, list[tuple[float, float]]] = {who: [] for who in commands}
    for _ in range(repetitions):
        for who, command in commands.items():
            runs[who].append(_run([sys.executable, "-m", *command]))
    ours, official = (json.loads(files[who].read_text()) for who in commands)
    seconds = {who: min(each[0] for each in runs[who]) for who in runs}
    return {
        "benchmark": name,
        "processor_seconds": seconds,
        "peak_megabytes": {who: max(each[1] for each in runs[who]) for who in runs},
        "times_faster": seconds["official"] / seconds["ours"],
        "largest_difference": _difference(official, ours, ""),
        "numbers_compared": _count(official),
    }


def _run(command: list[str]) -> tuple[float, float]:
    """(processor seconds, peak resident megabytes) of a process."""
    peak = 0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            # What wait4 says of memory begins with that of this process, so it is read while the other one runs.
            status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))])
            done, code, usage = os.wait4(process.pid, os.WNOHANG)
            if done:
                break
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(code)
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"exit status {process.returncode} of {' '.join(command)}\n{errors.read().decode()}")
    return usage.ru_utime + usage.ru_stime, peak / 1024


def _difference(official: Any, ours: Any, where: str) -> float:
    if isinstance(official, dict):
        return max((_difference(value, ours[key], f"{where}/{key}") for key, value in official.items()), default=0.0)
    if isinstance(official, list):
        if len(official) != len(ours):
            raise ValueError(f"{where}: {len(official)} official values, {len(ours)} of ours")
        return max((_difference(a, b, where) for a, b in zip(official, ours, strict=True)), default=0.0)
    return 0.0 if np.isnan(official) and np.isnan(ours) else abs(official - ours)


def _count(values: Any) -> int:
    if isinstance(values, (dict, list)):
        return sum(map(_count, values.values() if isinstance(values, dict) else values))
    return 1


def _prepare_numpy() -> None:
    importlib.import_module("numpy.ma")  # which needs numpy's own names while it is imported
    for name, kind in (("float", float), ("int", int), ("bool", bool), ("object", object)):
        setattr(np, name, kind)
    linspace = np.linspace
    np.linspace = lambda start, stop, num=50, **kwargs: linspace(start, stop, int(num), **kwargs)


def _official_tracks(toolkit: pathlib.Path, case: pathlib.Path, module: str, prefix: str) -> dict[str, Any]:
    import pycocotools
    import pycocotools.mask  # pip's, before the toolkit's own

    pycocotools.__path__.append(str(toolkit / "PythonAPI" / "pycocotools"))
    files = __import__(f"pycocotools.{module}", fromlist=["x"])
    evaluators = __import__(f"pycocotools.{module}eval", fromlist=["x"])
    truth = getattr(files, prefix)(str(case / "annotations.json"))
    found = truth.loadRes(str(case / "results.json"))
    evaluation = getattr(evaluators, f"{prefix}eval")(truth, found, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    names = _TRACK_NAMES
    if module == "ovis":
        names = [*_TRACK_NAMES[:6], *(f"AP_{o}" for o in _OCCLUSIONS), *_TRACK_NAMES[6:]]
        names += [f"AR_{o}" for o in _OCCLUSIONS]
    ious = {
        f"{video},{category}": np.asarray(iou).tolist()
        for (video, category), iou in evaluation.ious.items()
        if np.size(iou)
    }
    return {
        "expected": dict(zip(names, map(float, evaluation.stats), strict=True)),
        "per_category": _per_category(evaluation, module == "ovis"),
        "ious_example": ious,
    }


def _per_category(evaluation: Any, with_occlusion: bool) -> dict[str, dict[str, float]]:
    precision, recall = evaluation.eval["precision"][:, :, :, 0], evaluation.eval["recall"][:, :, 0]
    if with_occlusion:
        precision, recall = precision[:, :, :, 0], recall[:, :, 0]
    result = {}
    for k, category in enumerate(evaluation.params.catIds):
        p, r = precision[:, :, k, -1], recall[:, k]
        if p.max() >= 0:
            row = {"AP": p.mean(), "AP50": p[0].mean(), "AP75": p[5].mean()}
            row |= {f"AR{limit}": r[:, m].mean() for m, limit in enumerate((1, 10, 100))}
            result[str(category)] = {name: float(value) for name, value in row.items()}
    return result


def _official_davis(toolkit: pathlib.Path, case: pathlib.Path) -> dict[str, Any]:
    morphology = types.ModuleType("skimage.morphology")  # the toolkit wants one function of it

    def disk(radius):
        y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        return np.asarray(x**2 + y**2 <= radius**2, np.uint8)

    morphology.disk = disk
    sys.modules |= {"skimage": types.ModuleType("skimage"), "skimage.morphology": morphology}
    sys.path.insert(0, str(toolkit))
    from davis2017 import evaluation

    paths = benchmark("davis2017").CASE
    found = evaluation.DAVISEvaluation(str(case / paths["gt"]), "semi-supervised", "val", codalab=True).evaluate(
        str(case / paths["results"])
    )
    means = {
        f"{letter}-{name}": float(np.mean(found[letter][key]))
        for letter in "JF"
        for key, name in (("M", "Mean"), ("R", "Recall"), ("D", "Decay"))
    }
    names = list(found["J"]["M_per_object"])
    return {
        "expected": means | {"J&F-Mean": (means["J-Mean"] + means["F-Mean"]) / 2},
        "per_object (M=mean, R=recall, D=decay)": {
            name: {letter + key: float(found[letter][key][i]) for letter in "JF" for key in "MRD"}
            for i, name in enumerate(names)
        },
    }


def _official_burst(toolkit: pathlib.Path, case: pathlib.Path) -> dict[str, Any]:
    for name in ("tabulate",):
        sys.modules.setdefault(name, types.SimpleNamespace(tabulate=lambda *args, **kwargs: ""))
    sys.path.insert(0, str(toolkit))
    import trackeval

    ours = benchmark("burst")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        root = pathlib.Path(folder)
        for name, key in (("gt", "gt"), ("trackers/it/data", "results")):
            (root / name).mkdir(parents=True)
            (root / name / "file.json").symlink_to((case / ours.CASE[key]).absolute())
        config = {"GT_FOLDER": str(root / "gt"), "TRACKERS_FOLDER": str(root / "trackers"), "EXEMPLAR_GUIDED": True}
        dataset = trackeval.datasets.BURST(config | {"PRINT_CONFIG": False})
        evaluator = trackeval.Evaluator(
            {"PRINT_RESULTS": False, "PRINT_CONFIG": False, "OUTPUT_SUMMARY": False, "OUTPUT_DETAILED": False}
            | {"PLOT_CURVES": False, "TIME_PROGRESS": False, "OUTPUT_EMPTY_CLASSES": False, "LOG_ON_ERROR": None}
        )
        metrics = [trackeval.metrics.HOTA(), trackeval.metrics.TrackMAP({"PRINT_CONFIG": False})]
        found = evaluator.evaluate([dataset], metrics)[0]["BURST"]["it"]["COMBINED_SEQ"]
    fields = ["HOTA", "DetA", "AssA", "DetRe", "DetPr", "AssRe", "AssPr", "LocA"]
    per_class = {}
    for name, category in dataset.class_name_to_class_id.items():
        hota, precision = found[name]["HOTA"], found[name]["TrackMAP"]["AP_all"]
        per_class[str(category)] = (
            {field: 100 * float(np.mean(hota[field])) for field in fields}
            | {"AP": 100 * float(precision.mean()), "HOTA_per_alpha": (100 * hota["HOTA"]).tolist()}
            | {f"{kind}_per_alpha": hota[f"HOTA_{kind}"].tolist() for kind in ("TP", "FN", "FP")}
        )
    groups = {
        "all": list(per_class),
        "common": [c for c in per_class if int(c) in ours.COMMON],
        "uncommon": [c for c in per_class if int(c) not in ours.COMMON],
    }
    totals = {
        metric: {group: float(np.mean([per_class[c][metric] for c in chosen])) for group, chosen in groups.items()}
        for metric in ("HOTA", "DetA", "AssA", "AP")
    }
    return {"expected": totals, "per_class": per_class}


def _official_kitti_step(toolkit: pathlib.Path, case: pathlib.Path) -> dict[str, Any]:
    sys.path.insert(0, str(toolkit))
    main = importlib.import_module("eval.kitti_step.main")
    main.VAL_SEQUENCE_NAMES = sorted(each.name for each in (case / "gt").iterdir())  # it has those of the real data
    with _results_of(main.STQuality, "result") as found, _linked(case / "pred") as results:
        main.main(types.SimpleNamespace(pred=str(results), gt=str(case / "gt")))
    return _stq(*found[0], main.VAL_SEQUENCE_NAMES, "per_sequence")


def _official_cityscapes_vps(toolkit: pathlib.Path, case: pathlib.Path) -> dict[str, Any]:
    sys.path.insert(0, str(toolkit / "tools"))
    main = importlib.import_module("eval_vpq")
    # Today's numpy makes no array of records of several kinds.
    np.array_split = lambda items, parts: [items[i * len(items) // parts :][:6] for i in range(parts)]
    with _results_of(main.PQStat, "pq_average") as found, _linked(case / "pred") as results:
        json_file = case / "gt/panpotic_gt_val_city_vps.json"
        sys.argv = ["", "--submit_dir", str(results), "--truth_dir", str(case / "gt/panoptic_video")]
        sys.argv += ["--pan_gt_json_file", str(json_file)]
        main.main()
    return {"per_window_frames": _vpq(found, (1, 2, 3, 4))}


def _official_vipseg(toolkit: pathlib.Path, case: pathlib.Path) -> dict[str, Any]:
    sys.path.insert(0, str(toolkit / "ClipPanoFCN"))
    vpq, stq = importlib.import_module("eval_vpq_vspw"), importlib.import_module("eval_stq_vspw")
    json_file = case / "gt/panoptic_gt_VIPSeg_val.json"
    with _linked(case / "pred") as results:
        arguments = ["", "-i", str(results), "--truth_dir", str(case / "gt/panomasksRGB")]
        arguments += ["--pan_gt_json_file", str(json_file)]
        with _results_of(vpq.PQStat, "pq_average") as found:
            sys.argv = [*arguments, "--num_processes", str(os.cpu_count())]
            vpq.main()
        with _results_of(stq.numpy_stq.STQuality, "result") as tracking:
            sys.argv = arguments
            stq.main()
    names = [video["video_id"] for video in json.loads(json_file.read_text())["videos"]]
    return {"vpq_per_window_frames": _vpq(found, (1, 2, 4, 6, 8))} | _stq(*tracking[0], names, "stq_per_sequence")


@contextlib.contextmanager
def _results_of(owner: type, method: str) -> Iterator[list[tuple[Any, Any]]]:
    """(object, what it returned) of each call of a method, as the scripts print their numbers rounded."""
    found, original = [], getattr(owner, method)

    def wrapped(self, *args, **kwargs):
        found.append((self, original(self, *args, **kwargs)))
        return found[-1][1]

    setattr(owner, method, wrapped)
    with contextlib.redirect_stdout(io.StringIO()):
        yield found


@contextlib.contextmanager
def _linked(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """The same files in a folder that the scripts may write into."""
    with tempfile.TemporaryDirectory() as root:
        results = pathlib.Path(root) / "results"
        results.mkdir()
        for each in folder.iterdir():
            (results / each.name).symlink_to(each.absolute())
        yield results


def _vpq(found: list, windows: tuple[int, ...]) -> dict[str, Any]:
    """From the three means of each window: all classes, things, stuff."""
    result = {}
    for index, window in enumerate(windows):
        means = found[3 * index : 3 * index + 3]
        table: dict[str, Any] = {"per_class": {}}
        for name, (_, (mean, _)) in zip(("all", "thing", "stuff"), means, strict=True):
            table |= {name: 100 * mean["pq"], f"n_classes_{name}": mean["n"]}
        for label, row in means[0][1][1].items():
            if row["tp"] + row["fp"] + row["fn"]:
                table["per_class"][str(label)] = {key: float(row[key]) for key in ("iou", "tp", "fp", "fn")}
        result[str(window)] = table
    return result


def _stq(metric: Any, result: dict[str, Any], names: list[str], key: str) -> dict[str, Any]:
    per_sequence = {}
    for index, (name, tubes) in enumerate(zip(names, metric._ground_truth.values(), strict=True)):
        row = {"STQ": "STQ_per_seq", "AQ": "AQ_per_seq", "SQ": "IoU_per_seq", "frames": "Length_per_seq"}
        per_sequence[name] = {mine: float(result[theirs][index]) for mine, theirs in row.items()}
        per_sequence[name]["num_gt_tubes"] = len(tubes)
    totals = {mine: float(result[theirs]) for mine, theirs in (("STQ", "STQ"), ("AQ", "AQ"), ("SQ", "IoU"))}
    return {"expected": totals, key: per_sequence}


_OFFICIAL = {
    "ytvis": lambda toolkit, case: _official_tracks(toolkit, case, "ytvos", "YTVOS"),
    "ovis": lambda toolkit, case: _official_tracks(toolkit, case, "ovis", "OVIS"),
    "davis2017": _official_davis,
    "burst": _official_burst,
    "kitti_step": _official_kitti_step,
    "cityscapes_vps": _official_cityscapes_vps,
    "vipseg": _official_vipseg,
}

if __name__ == "__main__":
    main()
