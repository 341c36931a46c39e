"""Hides the packages that a GPU machine lacks (benchmarks/gpu_machine.txt), for tests in processes of their own."""

import importlib.metadata
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def hidden_modules() -> list[str]:
    """Modules of the packages that our requirements name and a GPU machine has neither itself nor from us as wheels.

    Only installed ones: the others need no hiding.
    """
    ours = _packages("requirements.txt", "tests/requirements.txt")
    hidden = ours - _packages("benchmarks/gpu_machine.txt", "benchmarks/gpu_wheels.txt")
    return sorted(
        module
        for module, packages in importlib.metadata.packages_distributions().items()
        if hidden.issuperset(map(_normalized, packages))
    )


def hide_packages() -> None:
    """From here on, importing them raises ModuleNotFoundError and `importlib.util.find_spec` finds none of them."""
    sys.modules.update(dict.fromkeys(hidden_modules()))


def _packages(*files: str) -> set[str]:
    lines = [line for file in files for line in (ROOT / file).read_text().splitlines()]
    return {_normalized(name[0]) for line in lines if (name := re.match(r"[\w.-]+", line))}


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()
