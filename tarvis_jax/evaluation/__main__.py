"""Scores the results of any program by the official rules of a benchmark.

python -m tarvis_jax.evaluation BENCHMARK --results PATH --gt PATH [--json OUT]
python -m tarvis_jax.evaluation BENCHMARK --case FOLDER [--json OUT]
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from tarvis_jax import command_line
from tarvis_jax.evaluation.benchmarks import BENCHMARKS, benchmark


def main(arguments: list[str]) -> None:
    """Prints the published numbers and writes all numbers to a file; ValueError if the files are not as expected."""
    parser = command_line.Parser(
        prog="python -m tarvis_jax.evaluation",
        description="Scores results by the official rules of a benchmark: "
        + "; ".join(f"{name} ({text})" for name, text in BENCHMARKS.items()),
        epilog="docs/evaluation.md has the layout of the files. --debug shows the traceback of errors.",
    )
    parser.add_argument("benchmark", metavar="BENCHMARK", help=", ".join(BENCHMARKS))
    parser.add_argument("--results", type=pathlib.Path, help="file or folder of the results, or a zip of it")
    parser.add_argument("--gt", type=pathlib.Path, help="file or folder of the ground truth")
    parser.add_argument(
        "--case", type=pathlib.Path, help="a folder that holds both under the names of docs/evaluation.md"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="OUT", help="file to which all numbers are written")
    args = parser.parse_args(arguments)
    module = benchmark(args.benchmark)
    if args.case is None and args.results is not None and args.gt is not None:
        results, gt = args.results, args.gt
    elif args.case is not None and args.results is None and args.gt is None:
        results, gt = args.case / module.CASE["results"], args.case / module.CASE["gt"]
    else:
        parser.error("give either --results and --gt, or --case")
    if results.suffix.lower() == ".zip":
        from tarvis_jax.evaluation.archives import unpacked  # the modules that it needs take long to import

        with unpacked(results) as path:
            scores = module.evaluate(path, gt)
    else:
        scores = module.evaluate(results, gt)
    for name, value in _numbers(scores["expected"]):
        print(f"{name:<16} {value:.6f}")
    if args.json is not None:
        args.json.write_text(json.dumps(scores, indent=1) + "\n")


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested dictionaries, named by the path to them."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name} ")
        elif isinstance(value, (int, float)):
            yield prefix + name, value


if __name__ == "__main__":
    command_line.run_and_exit(main)
