"""Who may import whom (docs/architecture.md), read from the source without running it."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("kernels", "input_pipeline", "tarvis_jax", "configs")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")) + [ROOT / "main.py"]

# Libraries that only some files may import: file prefixes (a folder ends in "/").
ONLY = {
    "torch": ("kernels/ms_deform_attn/cuda/torch_op.py",),
    "orbax": ("tarvis_jax/weights/checkpoints.py",),
    "clu": ("tarvis_jax/train/metrics.py",),
    "matplotlib": ("tarvis_jax/visualize/curves.py",),
    "tensorflow": ("tarvis_jax/train/metrics.py",),
    "tensorflow_datasets": ("input_pipeline/shards/",),
    "array_record": ("input_pipeline/shards/",),
    "cvat_sdk": ("tarvis_jax/serve/cvat_function.py",),
    "gradio": ("tarvis_jax/demo/page.py", "tarvis_jax/demo/__main__.py"),
}
# Heavy libraries that must not be imported when the module is: only inside the functions that use them.
INSIDE_FUNCTIONS = ("tensorflow", "clu", "wandb", "matplotlib", "cvat_sdk")

# Our own packages: prefix of the importing file -> prefixes of modules that it must not import.
NETWORK = ("tarvis_jax.model", "tarvis_jax.tasks", "tarvis_jax.losses", "tarvis_jax.train", "tarvis_jax.inference")
FORBIDDEN = {
    "kernels/": ("tarvis_jax", "input_pipeline"),
    "tarvis_jax/fields.py": ("tarvis_jax", "input_pipeline", "kernels"),
    "tarvis_jax/datasets/": (*NETWORK, "input_pipeline", "kernels"),
    "tarvis_jax/model/": tuple(name for name in NETWORK if name != "tarvis_jax.model") + ("input_pipeline",),
    "tarvis_jax/losses/": tuple(name for name in NETWORK if name != "tarvis_jax.losses") + ("input_pipeline",),
    "tarvis_jax/tasks/": ("tarvis_jax.train", "tarvis_jax.inference", "input_pipeline"),
    "tarvis_jax/inference/": ("tarvis_jax.train", "tarvis_jax.tasks", "tarvis_jax.losses", "input_pipeline"),
    "tarvis_jax/results/": (*NETWORK, "jax", "input_pipeline"),
    "tarvis_jax/evaluation/metrics/": (*NETWORK, "jax", "input_pipeline"),
    "tarvis_jax/evaluation/benchmarks/": (*NETWORK, "jax"),
    "tarvis_jax/evaluation/__main__.py": (*NETWORK, "jax"),
    "tarvis_jax/evaluation/archives.py": (*NETWORK, "jax"),
    "tarvis_jax/evaluation/scores.py": (*NETWORK, "jax"),
    "tarvis_jax/visualize/": (*NETWORK, "tarvis_jax.evaluation", "input_pipeline"),
    "input_pipeline/": NETWORK,
}


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
    """(module, whether at the top level of the file) of every import; "from a import b" counts as a and as a.b."""
    tree = ast.parse(path.read_text())
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import of {node.module}"
            found.append((node.module, node not in inside))
            found += [(f"{node.module}.{alias.name}", node not in inside) for alias in node.names]
    return found


def is_in(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports(path):
    name = path.relative_to(ROOT).as_posix()
    for module, is_top_level in imports(path):
        library = module.split(".")[0]
        if library in ONLY:
            assert name.startswith(ONLY[library]), f"{name} imports {module}; only {ONLY[library]} may"
        if library in INSIDE_FUNCTIONS:
            assert not is_top_level, f"{name} imports {module} at the top: import it in the function that uses it"
        for prefix, forbidden in FORBIDDEN.items():
            if name.startswith(prefix) and not is_in(module, prefix.rstrip("/").replace("/", ".")):
                assert not any(is_in(module, wrong) for wrong in forbidden), f"{name} must not import {module}"


def room(module: str) -> str:
    """The folder (or file of the package's own level) that a module lies in."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "tarvis_jax" else parts[0]


def test_no_folder_imports_one_that_imports_it():
    """Neither directly nor through others, imports inside functions included."""
    edges: dict[str, set[str]] = {}
    for path in FILES:
        origin = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for module, _ in imports(path):
            if module.split(".")[0] in PACKAGES and module != "tarvis_jax" and room(module) != origin:
                edges.setdefault(origin, set()).add(room(module))

    def reached_from(start: str) -> set[str]:
        found, waiting = set(), [start]
        while waiting:
            for target in edges.get(waiting.pop(), ()):
                if target not in found:
                    found.add(target)
                    waiting.append(target)
        return found

    assert len(edges) > 10  # the scan saw the packages
    circles = {origin: sorted(t for t in reached_from(origin) if origin in reached_from(t)) for origin in edges}
    assert not {origin: others for origin, others in circles.items() if others}


def test_the_scan_sees_imports():
    assert ("orbax.checkpoint", True) in imports(ROOT / "tarvis_jax/weights/checkpoints.py")
    assert ("tensorflow", False) in imports(ROOT / "tarvis_jax/train/metrics.py")
