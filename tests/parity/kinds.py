"""Which kind of case a folder holds. A new kind is a module `<name>_case.py` with `is_case` and `run`, listed here."""

import importlib
import pathlib
import types

KINDS = ("backbone", "losses", "train_step", "e2e")


def find_kind(case_dir: pathlib.Path) -> types.ModuleType:
    """The module that compares `case_dir`.

    Raises:
      ValueError: the folder is missing or of no known kind.
    """
    if not case_dir.is_dir():
        raise ValueError(f"{case_dir}: no such folder")
    for kind in KINDS:
        module = importlib.import_module(f"tests.parity.{kind}_case")
        if module.is_case(case_dir):
            return module
    raise ValueError(f"{case_dir}: of none of the kinds {KINDS}; it holds {sorted(p.name for p in case_dir.iterdir())}")
