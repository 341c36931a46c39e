"""The figures of a folder that run_gpu.sh filled, on one screen: python -m benchmarks.summary benchmarks/out"""

import argparse
import json
import pathlib
import xml.etree.ElementTree
from collections.abc import Iterator
from typing import Any

OURS = ("cuda", "triton", "tpu", "xla", "xla_deterministic")


def read(path: pathlib.Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def correctness(folder: pathlib.Path) -> Iterator[str]:
    for path in sorted(folder.glob("correct_*.json")):
        rows = read(path)["rows"]
        wrong = [f"{row['size']} {row['dtype']} {row['pass']}" for row in rows if not row["is_right"]]
        verdict = f"WRONG in {'; '.join(wrong)}" if wrong else "all right"
        yield f"correct   {path.stem.removeprefix('correct_'):18} {len(rows)} passes, {verdict}"


def kernels(folder: pathlib.Path) -> Iterator[str]:
    """Times of ours, and how many times as long each rival takes as the fastest of ours."""
    if not (folder / "kernels.json").exists():
        return
    groups: dict[tuple, dict[str, dict]] = {}
    for row in read(folder / "kernels.json")["rows"]:
        key = (row["shape"], row["compared_with"], row["direction"], row["cache"])
        groups.setdefault(key, {})[row["contender"]] = row
    for key, rows in groups.items():
        times = {name: row["median_s"] for name, row in rows.items() if "median_s" in row}
        ours = {name: time for name, time in times.items() if name in OURS}
        parts = [f"{name} {1e6 * time:.0f} us" for name, time in ours.items()]
        if ours:
            best = min(ours.values())
            parts += [f"{name} {time / best:.2f}x" for name, time in times.items() if name not in OURS]
        parts += [f"{name} FAILED" for name, row in rows.items() if "error" in row]
        yield f"kernels   {' '.join(key):40} {', '.join(parts)}"


def clips(folder: pathlib.Path) -> Iterator[str]:
    for path in sorted(folder.glob("clip_*.json")):
        result = read(path)
        for clip in result["clips"]:
            line = f"clip      {result['shape']} {clip['dataset']}: {clip['ours']['frames_per_s']:.1f} frames/s"
            line += f", {clip['speedup']:.2f} times the original" if "speedup" in clip else ""
            yield line + (", the original FAILED" if "error" in clip else "")


def training(folder: pathlib.Path) -> Iterator[str]:
    for path in sorted(folder.glob("train_*.json")):
        result = read(path)
        for row in result["rows"]:
            line = f"train     {result['config']} {row['task']} {row['clip']} {row['compute_dtype']}, "
            line += "deterministic, " if row["deterministic"] else ""
            line += f"{row['samples_at_once']} at once:"
            if "clips_per_s" in row:
                peak = f", peak {row['peak_bytes'] / 2**30:.1f} GiB" if row["peak_bytes"] else ""
                line += f" {row['clips_per_s']:.2f} clips/s{peak}"
            if "speedup" in row:
                line += f", {row['speedup']:.2f} times the original's speed"
            if "memory_ratio" in row:
                line += f", {1 / row['memory_ratio']:.2f} of its memory"
            yield line + (f" FAILED: {row['error'].splitlines()[0]}" if "error" in row else "")


def tests(folder: pathlib.Path) -> Iterator[str]:
    if not (folder / "tests.xml").exists():
        return
    for suite in xml.etree.ElementTree.parse(folder / "tests.xml").getroot().iter("testsuite"):
        count = suite.attrib
        yield "tests     " + ", ".join(f"{count[name]} {name}" for name in ("tests", "failures", "errors", "skipped"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="of JSON files")
    folder = parser.parse_args().folder
    for part in (correctness, kernels, clips, training, tests):
        for line in part(folder):
            print(line)


if __name__ == "__main__":
    main()
