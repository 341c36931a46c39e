"""What the tests of the panoptic and semantic benchmarks share: comparisons, and ways to spoil the files of a case."""

import json
import math
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from tests.evaluation.benchmarks.mutations import set_value

ABSOLUTE = 1e-9  # both sides are float64; only the order of sums differs


def check_equal(found: Any, expected: Any, where: str = "") -> None:
    """Nested dictionaries with the same keys and numbers (NaN equals NaN)."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            check_equal(found[key], expected[key], f"{where}/{key}")
    else:
        is_same = math.isnan(found) if math.isnan(expected) else abs(found - expected) <= ABSOLUTE
        assert is_same, f"{where}: {found}, expected {expected}"


def check_official(evaluate: Callable, folder: pathlib.Path) -> None:
    """Every number of a case's expected.json, with its names."""
    expected = json.loads((folder / "expected.json").read_text())
    about = ("benchmark", "toolkit", "inputs", "config", "unit", "note")
    check_equal(evaluate(folder / "pred", folder / "gt"), {k: v for k, v in expected.items() if k not in about})


def spoiled(case: pathlib.Path, tmp_path: pathlib.Path, mutation: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """A copy of a case to which something has been done."""
    copy = tmp_path / "case"
    shutil.copytree(case, copy)
    mutation(copy)
    return copy


Mutation = Callable[[pathlib.Path], None]


def set_json(name: str, *path_and_value: Any) -> Mutation:
    """Another value at a path of keys and indices of a JSON file."""

    def mutate(case: pathlib.Path) -> None:
        file = case / name
        *path, value = path_and_value
        file.write_text(json.dumps(set_value(json.loads(file.read_text()), tuple(path), value)))

    return mutate


def change_json(name: str, change: Callable[[Any], None]) -> Mutation:
    """A function that changes the content of a JSON file in place."""

    def mutate(case: pathlib.Path) -> None:
        file = case / name
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return mutate


def write_text(name: str, text: str) -> Mutation:
    return lambda case: (case / name).write_text(text) and None


def delete(name: str) -> Mutation:
    return lambda case: shutil.rmtree(case / name) if (case / name).is_dir() else (case / name).unlink()


def copy_file(source: str, target: str) -> Mutation:
    return lambda case: shutil.copy(case / source, case / target) and None


def cut(name: str, size: int) -> Mutation:
    """The first bytes of a file."""
    return lambda case: (case / name).write_bytes((case / name).read_bytes()[:size]) and None


def flip(name: str, position: int) -> Mutation:
    """Other bits in one byte of a file, counted from the end if negative."""

    def mutate(case: pathlib.Path) -> None:
        content = bytearray((case / name).read_bytes())
        content[position] ^= 0xFF
        (case / name).write_bytes(content)

    return mutate


def save_as(name: str, mode: str, image_format: str = "PNG") -> Mutation:
    """The same picture in another mode or format."""

    def mutate(case: pathlib.Path) -> None:
        with Image.open(case / name) as image:
            image.convert(mode).save(case / name, image_format)

    return mutate


def save_sixteen_bits(name: str) -> Mutation:
    def mutate(case: pathlib.Path) -> None:
        with Image.open(case / name) as image:
            Image.fromarray(np.zeros((image.height, image.width), np.uint16)).save(case / name)

    return mutate


def resize(name: str) -> Mutation:
    """One column less."""

    def mutate(case: pathlib.Path) -> None:
        with Image.open(case / name) as image:
            image.crop((0, 0, image.width - 1, image.height)).save(case / name)

    return mutate


def paint(name: str, value: Any) -> Mutation:
    """Another color in the first pixel."""

    def mutate(case: pathlib.Path) -> None:
        with Image.open(case / name) as image:
            image.putpixel((0, 0), value)
            image.save(case / name)

    return mutate


# What can happen to an RGB map; each needs the file's name.
RGB_MUTATIONS: dict[str, Callable[[str], Mutation]] = {
    "is absent": delete,
    "is empty": lambda name: cut(name, 0),
    "ends in the header": lambda name: cut(name, 20),
    "ends in the pixels": lambda name: cut(name, 60),
    "has wrong bytes": lambda name: flip(name, -20),
    "has a wrong signature": lambda name: flip(name, 1),
    "has 16 bits": save_sixteen_bits,
    "is gray": lambda name: save_as(name, "L"),
    "has a palette": lambda name: save_as(name, "P"),
    "is a JPEG": lambda name: save_as(name, "RGB", "JPEG"),
    "is text": lambda name: write_text(name, "no picture"),
    "has another size": resize,
}
# What can happen to a JSON file.
JSON_MUTATIONS: dict[str, Callable[[str], Mutation]] = {
    "is absent": delete,
    "is empty": lambda name: cut(name, 0),
    "is cut off": lambda name: cut(name, 100),
    "is a list": lambda name: write_text(name, "[]"),
    "is a number": lambda name: write_text(name, "3"),
    "has a name twice": lambda name: write_text(name, '{"annotations": [], "annotations": []}'),
    "is no UTF-8": lambda name: flip(name, 3),
    "is nested too deep": lambda name: write_text(name, "[" * 100_000),
}
