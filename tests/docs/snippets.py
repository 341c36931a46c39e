"""Runs the code blocks of a documentation page, in the order of the page."""

import dataclasses
import importlib
import os
import pathlib
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Collection, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Snippet:
    """A fenced block: its language, its text and the line of the page that its text begins in."""

    language: str
    text: str
    line: int


def read_snippets(page: str) -> list[Snippet]:
    """All fenced blocks of a page below the project's root ("docs/api.md")."""
    text = (ROOT / page).read_text()
    return [
        Snippet(match[1], match[2], text[: match.start(2)].count("\n") + 1)
        for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def run_page(
    page: str,
    folder: pathlib.Path,
    substitutions: Mapping[str, str] | None = None,
    *,
    in_process: bool = False,
    examples: Collection[str] = (),
    before: Mapping[str, Callable[[], None]] = types.MappingProxyType({}),
) -> dict[str, Any]:
    """Runs every block of a page in `folder`, as a reader would who is in the project's root.

    Python blocks share one namespace; one that begins with a comment that is a path ("# configs/mine.py") is written to
    that file instead. Bash blocks run with `python` being this interpreter; `main.py` and the packages of the project
    are there.

    Args:
      page: below the project's root.
      folder: the working folder; holds what the page takes for granted.
      substitutions: texts of the page that are too large for a test, and what they become; all must occur.
      in_process: run the commands of bash blocks in this process, which saves their imports. They may be commands of
        the project alone.
      examples: languages of blocks that are not run, because they show the content of a file.
      before: text of the page -> what a person does before the first block that has it; all must occur.

    Returns:
      The namespace of the Python blocks.

    Raises:
      AssertionError: a block of another language, a bash block that failed, a substitution without an effect. Errors of
        Python blocks are their own, with the page's line in the trace.
    """
    unused, waiting = dict(substitutions or {}), dict(before)
    namespace: dict[str, Any] = {"__name__": page}
    before = pathlib.Path.cwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(ROOT))
    try:
        for snippet in read_snippets(page):
            if snippet.language in examples:
                continue
            text = snippet.text
            for act in [waiting.pop(key) for key in list(waiting) if key in text]:
                act()
            for old, new in (substitutions or {}).items():
                if old in text:
                    text = text.replace(old, new)
                    unused.pop(old, None)
            where = f"{page}:{snippet.line}"
            if snippet.language == "python":
                path = re.match(r"# ([\w/]+\.py)\n", text)
                if path:
                    pathlib.Path(path[1]).parent.mkdir(parents=True, exist_ok=True)
                    pathlib.Path(path[1]).write_text(text)
                else:  # padded, so that a trace shows lines of the page
                    exec(compile("\n" * (snippet.line - 1) + text, str(ROOT / page), "exec"), namespace)
            else:
                assert snippet.language == "bash", f"{where}: no way to run {snippet.language}"
                if in_process:
                    _run_commands(text, where)
                    continue
                text = text.replace("python main.py", f"{sys.executable} {ROOT / 'main.py'}")
                text = text.replace("python -m ", f"{sys.executable} -m ")
                environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                run = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", text], capture_output=True, text=True, env=environment
                )
                assert run.returncode == 0, f"{where}: {text}\n{run.stdout}\n{run.stderr}"
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
    assert not unused, f"{page}: these texts are not there to be substituted: {sorted(unused)}"
    assert not waiting, f"{page}: these texts are not there: {sorted(waiting)}"
    return namespace


def _run_commands(text: str, where: str) -> None:
    for line in text.splitlines():
        match shlex.split(line):
            case ["python", "main.py", *arguments]:
                importlib.import_module("main").main(arguments)
            case ["python", "-m", module, *arguments]:
                importlib.import_module(module).main(arguments)
            case _:
                raise AssertionError(f"{where}: not a command of the project: {line}")
