"""The tree, written once for all tests of this folder."""

import pathlib

import pytest

from tests import rehearsal


@pytest.fixture(scope="session")
def tree(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The released workspace, and the folder of the official downloads."""
    return rehearsal.write_tree(tmp_path_factory.mktemp("rehearsal"))


@pytest.fixture(scope="session")
def workspace(tree) -> str:
    return str(tree[0])
