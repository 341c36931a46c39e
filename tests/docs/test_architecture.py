"""The levels and folders that docs/architecture.md names are those of the code."""

import re

from tests.docs.snippets import ROOT
from tests.test_imports import FILES, PACKAGES, imports, room

PAGE = (ROOT / "docs/architecture.md").read_text()
LEVELS = {
    name.removesuffix(".py"): int(level)
    for level, names in re.findall(r"^\| (\d+) \| (.*) \|$", PAGE, re.MULTILINE)
    for name in re.findall(r"`([\w.]+)`", names)
}


def short(name: str) -> str:
    return name.removeprefix("tarvis_jax.")


def test_imports_go_to_lower_levels():
    edges = set()
    for path in FILES:
        origin = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module, _ in imports(path):
            if module.split(".")[0] in PACKAGES and module != "tarvis_jax" and room(module) != origin:
                edges.add((short(origin), short(room(module))))
    assert len(edges) > 30  # the scan saw the packages
    assert not {each for edge in edges for each in edge} - set(LEVELS), "rooms that the page does not have"
    upwards = {(origin, target) for origin, target in edges if LEVELS[origin] <= LEVELS[target]}
    assert not upwards


def test_levels_exist():
    rooms = {short(room(".".join(path.relative_to(ROOT).with_suffix("").parts))) for path in FILES}
    assert len(LEVELS) > 20 and not set(LEVELS) - rooms


def test_files_exist():
    """Paths in backticks: from the root, or from the package or folder of the same table."""
    folders = [ROOT, *(ROOT / name for name in ("tarvis_jax", "input_pipeline", "kernels", "tarvis_jax/inference"))]
    paths = [text for text in re.findall(r"`([\w/]+(?:\.py|/))`", PAGE)]
    assert len(paths) > 40
    assert not {path for path in paths if not any((folder / path).exists() for folder in folders)}
