"""What pyproject.toml declares: the same as the requirements files, every import, and everything a wheel must hold."""

import fnmatch
import importlib.metadata
import pathlib
import re
import sys
import tomllib

import pytest

from tests.test_imports import FILES, PACKAGES, ROOT, imports

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Imported under a name other than the distribution's.
DISTRIBUTION_OF = {
    "PIL": "pillow",
    "absl": "absl-py",
    "cv2": "opencv-python-headless",
    "ml_collections": "ml-collections",
    "orbax": "orbax-checkpoint",
    "tensorflow": "tensorflow-cpu",
    "yaml": "pyyaml",
}
# Declared nowhere: come with jax and Orbax; runs plain Triton kernels from JAX, which nothing but an experiment does.
UNDECLARED = {"jaxlib", "etils", "jax_triton"}


def normalized(requirement: str) -> str:
    """A requirement with one spelling: lower case, no spaces, one kind of quotes and hyphens in its name."""
    name, rest = re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", requirement.strip()).groups()
    return re.sub(r"[-_.]+", "-", name).lower() + re.sub(r"\s", "", rest).replace('"', "'")


def requirements(path: pathlib.Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return sorted(normalized(line) for line in lines if line)


def declared(*extras: str) -> list[str]:
    """Of the extras; "" is what an installation without extras brings."""
    project = PROJECT["project"]
    lists = [project["optional-dependencies"][extra] if extra else project["dependencies"] for extra in extras]
    return sorted(normalized(requirement) for requirements in lists for requirement in requirements)


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[a-z0-9-]+", requirement)[0] for requirement in requirements}


def test_requirements_files_agree_with_pyproject():
    assert requirements(ROOT / "requirements.txt") == declared("", "train")
    assert requirements(ROOT / "tests/requirements.txt") == declared("dev")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_import_is_declared(path):
    """At the top of a file: what every installation has, but for files that are only loaded on request."""
    core, all_extras = names(declared("")), names(declared("", "train", "hub", "wandb", "demo", "dev"))
    ours = {*PACKAGES, "main"}
    for module, is_top_level in imports(path):
        library = module.split(".")[0]
        if library in sys.stdlib_module_names or library in ours or library in UNDECLARED:
            continue
        found = normalized(DISTRIBUTION_OF.get(library, library))
        allowed = core | {"torch", "triton", "tensorflow-datasets", "gradio"} if is_top_level else all_extras
        assert found in allowed, f"{path.relative_to(ROOT)} imports {module}, which pyproject.toml does not declare"


def test_every_folder_and_source_is_packaged():
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            folder = path.parent.relative_to(ROOT)
            name = ".".join(folder.parts)
            assert (path.parent / "__init__.py").is_file(), f"{folder} has no __init__.py: a wheel would lack it"
            assert any(fnmatch.fnmatch(name, pattern) for pattern in find), f"{folder} is in no wheel"
            if path.suffix != ".py":
                patterns = data.get(name, [])
                assert any(path.match(pattern) for pattern in patterns), f"{path.relative_to(ROOT)} is in no wheel"


def test_the_command_is_the_function_of_main():
    entry = importlib.metadata.EntryPoint("tarvis-jax", PROJECT["project"]["scripts"]["tarvis-jax"], "console_scripts")
    assert (entry.module, entry.attr) == ("main", "run")
    assert re.search(r"^def run\(\)", (ROOT / "main.py").read_text(), re.MULTILINE)


def test_what_jax_export_needs_is_declared():
    """It imports flatbuffers, and JAX does not require it: without our line, TensorFlow alone would bring it."""
    from jax._src.export import serialization

    assert serialization.flatbuffers and "flatbuffers" in names(declared(""))
    assert not any(line.startswith("flatbuffers") for line in importlib.metadata.requires("jax"))
